"""What trackers and programs see of a segmentation model: `Segmenter`, its `Prediction` and its `ObjectTokens`.

    features = segmenter.encode(image)                     once per picture
    segmenter.segment(features, prompts)                   marks, references, words -> masks
    tokens = segmenter.remember(features, masks)           masks -> what is worth keeping of the objects
    segmenter.recall(later_features, tokens, prior)        the same objects on another picture

A segmenter holds a model and no memory: what lasts from picture to picture is in `ObjectTokens` and `Prediction`, and
belongs to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.geometry import Geometry
from seem_core.prompts import Prompt

Trained = Literal["none", "backbone", "full"]
LOGIT_STRIDE = 4


@dataclass(frozen=True, eq=False)
class ObjectTokens:
    """One object as it looked on one picture: what a later picture is searched with (about 3 MB in float32 for SEEM).

    levels: per feature level (T_l, C) tokens that the decoder reads; T_l may be 0 and differs from level to level.
    positive: (C,) mean mask feature on the object, None where nothing was marked as positive; it chooses the mask.
    """

    object_id: int
    levels: tuple[Tensor, ...]
    positive: Tensor | None

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        tensors = (*self.levels, *(() if self.positive is None else (self.positive,)))
        return sum(t.numel() * t.element_size() for t in tensors)

    def __repr__(self) -> str:
        return f"ObjectTokens(object {self.object_id}, tokens per level={tuple(len(t) for t in self.levels)})"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Masks of N objects on one picture, at stride 4 of the network's input until they are wanted larger.

    ids: in ascending order. logits: (N, h, w) float32, above 0 is the object; they cover the *padded* input of
    `geometry`. scores: (N,) float32 in 0..1, how sure the model is of each mask. class_names: one per object, None
    where no class fits; empty where the segmenter has no vocabulary.
    """

    ids: tuple[int, ...]
    logits: Tensor
    scores: Tensor
    geometry: Geometry
    class_names: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        cells = logit_size(self.geometry)
        if list(self.ids) != sorted(set(self.ids)):
            raise ValueError(f"ids must ascend without repetition: {self.ids}")
        if tuple(self.logits.shape) != (len(self.ids), *cells) or tuple(self.scores.shape) != (len(self.ids),):
            raise ValueError(
                f"{len(self.ids)} objects need logits {(len(self.ids), *cells)} and as many scores, "
                f"not {tuple(self.logits.shape)} and {tuple(self.scores.shape)}"
            )

    def __repr__(self) -> str:
        h, w = self.geometry.source
        return f"Prediction(ids={self.ids}, scores={[round(s, 2) for s in self.scores.tolist()]}, source={w}x{h})"

    def select(self, ids: Sequence[int]) -> Prediction:
        """The same of some objects. Raises PromptError for an id that is not there."""
        for object_id in ids:
            if object_id not in self.ids:
                raise PromptError(f"there is no object {object_id} among {list(self.ids)}")
        wanted = sorted(set(ids))
        rows = [self.ids.index(i) for i in wanted]
        names = tuple(self.class_names[r] for r in rows) if self.class_names else ()
        return Prediction(tuple(wanted), self.logits[rows], self.scores[rows], self.geometry, names)

    def mask(self, object_id: int) -> npt.NDArray[np.bool_]:
        """(H, W) bool mask of one object at source size, whatever else overlaps it."""
        mask: npt.NDArray[np.bool_] = (self._source_logits(self.select([object_id]).logits) > 0).cpu().numpy()
        return mask

    def labels(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """(H, W) label map at source size: each pixel to the object with the largest logit, 0 where none is above 0.

        Ties go to the smaller id. Made object by object: at most four full-size maps exist at a time.
        """
        best = torch.zeros(self.geometry.source, device=self.logits.device)
        owner = torch.zeros(self.geometry.source, dtype=torch.int32, device=self.logits.device)
        for n, object_id in enumerate(self.ids):
            full = self._source_logits(self.logits[n : n + 1])
            owner[full > best] = object_id
            torch.maximum(best, full, out=best)
        labels: npt.NDArray[np.int32] = owner.cpu().numpy()
        return labels.astype(np.uint8) if max(self.ids, default=0) <= 255 else labels.astype(np.uint16)

    def _source_logits(self, logits: Tensor) -> Tensor:
        """(1, h, w) -> (H, W)."""
        return self.geometry.logits_to_source(logits)[0]

    def on(self, geometry: Geometry) -> Prediction:
        """The same masks on the grid of a picture that is encoded at another size (and shows the same view)."""
        if geometry == self.geometry:
            return self
        cells = self.geometry.logits_to_image(self.logits)  # (N, h, w) of the resized picture
        inside = F.interpolate(cells[None], size=geometry.image, mode="bilinear", align_corners=False)[0]
        return Prediction(self.ids, _to_cells(inside, geometry), self.scores, geometry, self.class_names)


def logit_size(geometry: Geometry) -> tuple[int, int]:
    """(h, w) of a prediction's logits."""
    return geometry.padded[0] // LOGIT_STRIDE, geometry.padded[1] // LOGIT_STRIDE


def masks_as_prediction(masks: Tensor, geometry: Geometry, ids: Sequence[int] | None = None) -> Prediction:
    """Known masks in the form of a prediction: logits 1 inside, -1 outside, in between along borders; scores 1.

    masks: (N, H, W) bool at source size. ids: ascending, by default 1..N. Raises MaskError for another size.
    """
    ids = tuple(range(1, len(masks) + 1)) if ids is None else tuple(ids)
    _check_count(masks, ids)
    inside = [geometry.mask_to_padded(mask[None])[:, : geometry.image[0], : geometry.image[1]] for mask in masks]
    signs = [2.0 * mask.float() - 1.0 for mask in inside]
    logits = [_to_cells(sign, geometry) for sign in signs]
    h, w = logit_size(geometry)
    stacked = torch.cat(logits) if logits else masks.new_zeros((0, h, w), dtype=torch.float32)
    return Prediction(ids, stacked, torch.ones(len(ids), device=masks.device), geometry)


def _to_cells(maps: Tensor, geometry: Geometry) -> Tensor:
    """(N, H, W) logits of the resized picture -> (N, h, w) cells of the padded input, the padding being outside."""
    bottom, right = geometry.padded[0] - geometry.image[0], geometry.padded[1] - geometry.image[1]
    return F.avg_pool2d(F.pad(maps, (0, right, 0, bottom), value=-1.0)[None], LOGIT_STRIDE)[0]


def _check_count(masks: Tensor, ids: Sequence[int]) -> None:
    if masks.ndim != 3 or len(masks) != len(ids):
        raise MaskError(f"{len(ids)} objects need (N, H, W) masks with N = {len(ids)}, not {tuple(masks.shape)}")


@runtime_checkable
class Segmenter(Protocol):
    """One picture and prompts to masks. `encode` returns what the segmenter's other methods read; callers pass it on.

    Every method raises a `VosError` with one sentence for input that cannot be used.
    """

    @property
    def name(self) -> str:
        """Which model, as `run.json` and memory files record it."""
        ...

    @property
    def trained(self) -> Trained:
        """What of the model has seen training data; masks of ``none`` and ``backbone`` mean nothing."""
        ...

    def encode(self, image: Tensor) -> Any:
        """(3, H, W) uint8 RGB -> features of one picture, with an attribute ``geometry``."""
        ...

    def segment(self, features: Any, prompts: Sequence[Prompt], previous: Prediction | None = None) -> Prediction:
        """Masks of the objects that `prompts` name. previous: their masks of the round before, where there is one."""
        ...

    def remember(self, features: Any, masks: Tensor, ids: Sequence[int] | None = None) -> list[ObjectTokens]:
        """Tokens of N objects with (N, H, W) bool masks at source size; ids are 1..N where they are not given."""
        ...

    def recall(self, features: Any, memory: Sequence[ObjectTokens], prior: Prediction | None = None) -> Prediction:
        """Masks of the remembered objects. memory: any number of views of each. prior: where they may be expected."""
        ...
