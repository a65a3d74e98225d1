"""What encoding an image leaves behind: three feature levels, and mask features that are projected as late as possible.

Mask features (SPEC §3) are the last convolution of the pixel decoder at stride 4: with 512 channels and a
3x3 kernel it costs as much as the whole backbone. Everything read from them afterwards is linear: means at prompt
points, bilinear resizing to each level, dot products with mask embeddings. Linear maps commute, so `MaskFeatures` keeps
the convolution's *input* and applies the kernel where the answer is small: at a few points, on each level's coarser
grid, or folded with one query's embedding into a kernel with one output channel (SPEC §12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class MaskFeatures:
    """The features whose dot product with a mask embedding is that mask's logits, at stride 4; not yet projected.

    base: (B, D, h, w). weight: (C, D, k, k) with k odd. bias: (C,). The features themselves would be (B, C, h, w).
    """

    base: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def before(cls, projection: nn.Conv2d, base: Tensor) -> MaskFeatures:
        """What ``projection(base)`` would be; the convolution keeps the size of its input."""
        bias = projection.bias if projection.bias is not None else base.new_zeros(projection.out_channels)
        return cls(base, projection.weight, bias)

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.base.shape[0]

    @property
    def size(self) -> Size:
        """(h, w) cells at stride 4."""
        return self.base.shape[2], self.base.shape[3]

    def full(self) -> Tensor:
        """(B, C, h, w): the projection in full. Costly; only training and the plain path ask for it."""
        return F.conv2d(self.base, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    def resized(self, sizes: Sequence[Size]) -> list[Tensor]:
        """`full()` resized bilinearly (no half-pixel shift of corners, no antialias) to each (h', w'): (B, C, h', w').

        By an even factor f, bilinear resizing is the mean of the two pixels around each new centre, along both axes.
        That mean commutes with the convolution, which then runs with stride f on box-filtered input.
        """
        factors = [self._even_factor(size) for size in sizes]
        if 0 in factors:
            full = self.full()
            return [F.interpolate(full, size=size, mode="bilinear", align_corners=False) for size in sizes]
        # mean of each cell and the next, with the convolution's zeros around the map
        boxes = F.avg_pool2d(self.base, 2, stride=1, padding=self.weight.shape[-1] // 2)
        return [self._strided(boxes[..., f // 2 - 1 :, f // 2 - 1 :], f) for f in factors]

    def _strided(self, boxes: Tensor, stride: int) -> Tensor:
        """The convolution on every `stride`-th cell of (B, D, h, w)."""
        k = self.weight.shape[-1]
        if stride < k:
            return F.conv2d(boxes, self.weight, self.bias, stride=stride)
        # windows that do not overlap: gathered and multiplied in half the time that a convolution takes
        windows = boxes.unfold(2, k, stride).unfold(3, k, stride).permute(0, 2, 3, 4, 5, 1)  # (B, h', w', k, k, D)
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C, k * k * D)
        return F.linear(windows.flatten(3), kernels, self.bias).permute(0, 3, 1, 2)

    def _even_factor(self, size: Size) -> int:
        """By how much both axes shrink to `size`, 0 if not by the same even number."""
        down, right = self.size[0] // size[0], self.size[1] // size[1]
        exact = (size[0] * down, size[1] * right) == self.size
        return down if exact and down == right and down % 2 == 0 else 0

    def logits(self, embeddings: Tensor) -> Tensor:
        """(B', Q, C) mask embeddings -> (B', Q, h, w) mask logits; B' is `batch`, or any number for one image.

        Each embedding is folded with the kernel into a filter of its own: cheap for few queries, still cheaper than
        `full()` for a hundred. The filters are made in the precision of the embeddings, which is also the result's.
        """
        C, D, k, _ = self.weight.shape
        taps = self.weight.permute(0, 2, 3, 1).reshape(C, -1).to(embeddings.dtype)  # (C, k * k * D)
        kernels = (embeddings @ taps).view(*embeddings.shape[:2], k, k, D)
        kernels = kernels.permute(0, 1, 4, 2, 3).contiguous()  # (B', Q, D, k, k)
        offsets = embeddings @ self.bias.to(embeddings.dtype)  # (B', Q)
        groups = [kernels.flatten(0, 1)] if self.batch == 1 else list(kernels)
        images = torch.split(self.base, 1)  # slices keep their memory format, unlike indexing
        padding = self.weight.shape[-1] // 2
        maps = [F.conv2d(one, k.to(one.dtype), padding=padding) for one, k in zip(images, groups, strict=True)]
        flat = torch.cat(maps).view(*embeddings.shape[:2], *self.size)
        return flat.to(embeddings.dtype) + offsets[:, :, None, None]

    def mean_at(self, image: int, points: Tensor) -> Tensor:
        """(C,): mean of the features of one image, sampled bilinearly at `points`, (n, 2) row and column in 0..1.

        0 and 1 are the centres of the first and last cells. The mean is float32 where the features are less.
        """
        k = self.weight.shape[-1]
        h, w = self.size
        cells = points * points.new_tensor((h - 1, w - 1))
        weights = bilinear_mean_weights(cells, (h, w))  # (h, w), sums to one
        # weights shifted by every kernel tap: (k * k, h * w), nearly all zero
        shifted = F.unfold(weights[None, None], k, padding=k // 2)[0].flip(0)
        touched = shifted.any(dim=0).nonzero()[:, 0]
        precise = torch.promote_types(self.base.dtype, torch.float32)
        rows = self.base[image].flatten(1).T[touched].to(precise)  # (n, D)
        taps = shifted[:, touched].to(precise) @ rows  # (k * k, D)
        return self.weight.permute(0, 2, 3, 1).flatten(1).to(precise) @ taps.flatten() + self.bias


def bilinear_mean_weights(cells: Tensor, size: Size) -> Tensor:
    """(h, w): each cell's share in the mean of bilinear samples at `cells`, (n, 2) fractional row and column."""
    h, w = size
    low = cells.floor()
    fraction = cells - low
    weights = cells.new_zeros(h * w)
    for down in (0, 1):
        for right in (0, 1):
            step = cells.new_tensor((down, right))
            index = (low + step).long()
            share = (fraction * step + (1 - fraction) * (1 - step)).prod(dim=1) / len(cells)
            inside = (index[:, 0] < h) & (index[:, 1] < w)
            weights.index_add_(0, (index[:, 0] * w + index[:, 1])[inside], share[inside])
    return weights.view(h, w)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One encoded batch of images.

    levels: three maps (B, C, h_l, w_l) at stride 32, 16, 8. mask_features: stride 4. padded: (H, W) of the network's
    input, image: (H, W) of the image within it (top left; the rest is padding).
    """

    levels: tuple[Tensor, Tensor, Tensor]
    mask_features: MaskFeatures
    padded: Size
    image: Size

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.levels[0].shape[0]
