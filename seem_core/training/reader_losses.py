"""Losses of the dense reader on one frame: masks, matching, presence and quality.

Masks: cross-entropy over background and objects in which hard pixels count more (a smooth form of the bootstrapped
cross-entropy usual in video object segmentation), plus dice per object. The priors, masks that the two matchings alone
propagate, are supervised too, so that keys learn from the first step. Everything is computed in float32 and without
waiting for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.reader import Reading, probabilities

ABSENT = -1e4  # logit of a slot that holds no object


@dataclass(frozen=True)
class ReaderLossWeights:
    mask: float = 1.0
    dice: float = 1.0
    prior: float = 0.3
    local_prior: float = 0.3
    presence: float = 0.1
    quality: float = 0.1


def reader_losses(reading: Reading, labels: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Scalar losses of one frame, each a mean over what is valid.

    labels (B, S, S) uint8, slot + 1 or 0; valid (B, N) bool, slots that hold an object. ``reading.logits`` is at half
    the size of ``labels``.
    """
    n = valid.shape[1]
    truth = torch.stack([labels == i + 1 for i in range(n)], 1).float()  # (B, N, S, S)
    used, count = valid.float(), valid.float().sum().clamp(min=1)
    logits = F.interpolate(reading.logits.float(), scale_factor=2.0, mode="bilinear", align_corners=False)
    logits = logits.masked_fill(~valid[:, :, None, None], ABSENT)
    entropy = F.cross_entropy(F.pad(logits, (0, 0, 0, 0, 1, 0)), labels.long(), reduction="none")  # (B, S, S)
    hard = 1 - torch.exp(-entropy.detach()) + 0.05
    image = valid.any(1).float()
    mask = (((entropy * hard).sum((1, 2)) / hard.sum((1, 2))) * image).sum() / image.sum().clamp(min=1)
    predicted = probabilities(logits)
    overlap = (predicted * truth).sum((2, 3))
    size, area = predicted.sum((2, 3)), truth.sum((2, 3))
    dice = ((1 - (2 * overlap + 1) / (size + area + 1)) * used).sum() / count
    visible = (area > 0).float()
    with torch.no_grad():
        binary = predicted > 0.5
        both = (binary & (truth > 0.5)).sum((2, 3)).float()
        union = (binary | (truth > 0.5)).sum((2, 3)).float()
        iou = torch.where(union > 0, both / union.clamp(min=1), 1.0)
    return {
        "mask": mask,
        "dice": dice,
        "prior": _prior_loss(reading.prior, truth, used, count),
        "local_prior": _prior_loss(reading.local_prior, truth, used, count),
        "presence": _score_loss(reading.presence, visible, used, count),
        "quality": _score_loss(reading.quality, iou, used, count),
        "iou": (iou * used).sum() / count,
    }


def total_loss(losses: dict[str, Tensor], weights: ReaderLossWeights) -> Tensor:
    """Weighted sum; ``iou`` is a measure and does not count."""
    return sum((getattr(weights, k) * v for k, v in losses.items() if k != "iou"), torch.zeros_like(losses["mask"]))


def _prior_loss(prior: Tensor, truth: Tensor, used: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy of a propagated mask against the share of mask in each of its cells."""
    share = F.avg_pool2d(truth, truth.shape[-1] // prior.shape[-1])
    p = prior.float().clamp(1e-3, 1 - 1e-3)
    entropy = -(share * p.log() + (1 - share) * (1 - p).log())
    return (entropy.mean((2, 3)) * used).sum() / count


def _score_loss(logit: Tensor, target: Tensor, used: Tensor, count: Tensor) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logit.float(), target, reduction="none")
    return (entropy * used).sum() / count
