"""Where queries and memories may look: mask logits at each feature level, thresholded (masked attention).

Cheng et al., "Masked-attention Mask Transformer" (arXiv:2112.01527) section 3.2.1; SPEC §5. Shapes as in `decoder`:
B batch, F images (B or 1), Q queries, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.image_features import ImageFeatures


class MaskHeads:
    """Mask logits of one encoded image at full size and, for the next layer's attention, at each level's size.

    Resizing is linear, so a level's masks are dot products with resized mask features. With `full` they are resized
    masks instead, computed in the order of the official code.
    """

    def __init__(self, features: ImageFeatures, sizes: Sequence[tuple[int, int]], full: bool) -> None:
        self.features = features.mask_features
        self.sizes = sizes
        self.full = features.mask_features.full() if full else None
        self.resized = [] if full else self.features.resized(sizes)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, H/4, W/4)."""
        return self.features.logits(embeddings) if self.full is None else _dot(embeddings, self.full)

    def level_logits(self, embeddings: Tensor, level: int) -> Tensor:
        """(B, Q, C) -> (B, Q, h, w) at the size of a level."""
        if self.full is None:
            return _dot(embeddings, self.resized[level])
        full = _dot(embeddings, self.full)
        return F.interpolate(full, size=self.sizes[level], mode="bilinear", align_corners=False)

    @torch.no_grad()
    def inside(self, embeddings: Tensor, level: int) -> Tensor:
        """(B, Q, C) -> (B, Q, cells of the level) bool: where each query may look. No gradient flows through it."""
        return (self.level_logits(embeddings, level) >= 0).flatten(2)


def _dot(embeddings: Tensor, feature_map: Tensor) -> Tensor:
    """(B, Q, C), (F, C, h, w) with F == B or 1 -> (B, Q, h, w), in the precision of the embeddings.

    Features of half precision are not widened. The embeddings are split into a half and what it leaves out, whose two
    products with the features (exact inside, each rounded to its own size) add up to nearly all of the precision.
    """
    B, Q, _ = embeddings.shape
    flat = feature_map.flatten(2)  # (F, C, h * w)
    if flat.shape[0] == 1:
        embeddings, flat = embeddings.flatten(0, 1), flat[0]  # one product for all objects
    if flat.dtype.itemsize < embeddings.dtype.itemsize:
        coarse = embeddings.to(flat.dtype)
        fine = (embeddings - coarse).to(flat.dtype)
        product = (coarse @ flat).to(embeddings.dtype) + fine @ flat
    else:
        product = embeddings @ flat.to(embeddings.dtype)
    return product.view(B, Q, *feature_map.shape[2:])


def memory_owners(memories: int, objects: int, device: torch.device) -> Tensor:
    """(memories,) int64 sorted: the object of each memory token, in equal shares (official code draws lots)."""
    return torch.arange(memories, device=device) * objects // memories


def remembered_area(previous: Tensor | None, memories: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """At one level, where memory tokens may look: ((B, memories, cells) bool,), or () without a previous mask.

    previous: (B, N, H/4, W/4) mask logits of N objects, which share the memory tokens equally.
    """
    if previous is None:
        return ()
    logits = F.interpolate(previous, size=size, mode="bilinear", align_corners=False)
    owners = memory_owners(memories, previous.shape[1], previous.device)
    return ((logits[:, owners] >= 0).flatten(2),)
