"""A model's answers within a training step: features of one picture, what a user makes of masks, how good they are.

S input side, N objects, h w cells at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.image_features import ImageFeatures, MaskFeatures
from seem_core.training.clicks import ClickMarks, next_click

Masks = npt.NDArray[np.bool_]


def one_image(features: ImageFeatures, index: int) -> ImageFeatures:
    """The features of one image of a batch."""
    row = slice(index, index + 1)
    levels = (features.levels[0][row], features.levels[1][row], features.levels[2][row])
    mask = features.mask_features
    return ImageFeatures(levels, MaskFeatures(mask.base[row], mask.weight, mask.bias), features.padded, features.image)


def without_gradient(features: ImageFeatures) -> ImageFeatures:
    """The same values, cut off from what made them."""
    mask = features.mask_features
    cut = MaskFeatures(mask.base.detach(), mask.weight.detach(), mask.bias.detach())
    levels = (features.levels[0].detach(), features.levels[1].detach(), features.levels[2].detach())
    return ImageFeatures(levels, cut, features.padded, features.image)


def corrected(marks: Sequence[ClickMarks], logits: Tensor, truth: Masks) -> list[ClickMarks]:
    """Marks and one more click per object, after answers (N, h, w); truth (N, S, S) bool."""
    found = F.interpolate(logits[None], size=truth.shape[1:], mode="bilinear")[0] > 0
    answers = found.cpu().numpy()
    return [
        mark.with_click(next_click(wanted, given, mark))
        for mark, wanted, given in zip(marks, truth, answers, strict=True)
    ]


def overlaps(found: Tensor, truth: Tensor) -> Tensor:
    """(N,) IoU of (N, H, W) bool masks; 1 where both are empty."""
    both, either = (found & truth).sum((1, 2)).float(), (found | truth).sum((1, 2)).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(either))


def paint_marks(masks: Masks) -> npt.NDArray[np.uint8]:
    """(N, H, W) bool -> (H, W) uint8: the last that covers a pixel, counted from 1."""
    labels = np.zeros(masks.shape[1:], np.uint8)
    for n, mask in enumerate(masks):
        labels[mask] = n + 1
    return labels
