"""Masks read at a few points instead of everywhere, so that large masks can be compared cheaply.

PointRend (arXiv:1912.08193), as Mask2Former trains with it (arXiv:2112.01527 section 3.3; SPEC §9): comparing 12544
points costs what a mask of 112x112 does. Points are (x, y) in 0..1 of the mask's width and height, whatever its size,
so that logits at stride 4 and a full-size mask are read at the same places. n masks, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PointSampling:
    """How many points, from how many times as many candidates, and the share of them that is taken for uncertainty."""

    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise ValueError(f"{self} draws nothing; take points >= 1, oversample >= 1 and importance in 0..1")


PUBLISHED_SAMPLING = PointSampling()


def uniform_points(n: int, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """(n, count, 2) float32 points drawn evenly; by `generator`, on whatever device that is."""
    source = device if generator is None else generator.device
    return torch.rand(n, count, 2, generator=generator, device=source).to(device)


def read_points(masks: Tensor, points: Tensor) -> Tensor:
    """Values of n masks (n, H, W) at points (n, P, 2): (n, P), bilinear between pixel centres, 0 far outside."""
    grid = points[:, :, None] * 2 - 1  # (n, P, 1, 2)
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0, :, 0]


def uncertain_points(logits: Tensor, sampling: PointSampling, generator: torch.Generator | None = None) -> Tensor:
    """(n, points, 2): of even candidates those whose logit (n, h, w) is nearest to 0, and some drawn evenly."""
    n = len(logits)
    with torch.no_grad():
        candidates = uniform_points(n, int(sampling.points * sampling.oversample), logits.device, generator)
        uncertainty = -read_points(logits, candidates).abs()  # (n, candidates)
        taken = int(sampling.points * sampling.importance)
        best = uncertainty.topk(taken, dim=1).indices[..., None].expand(-1, -1, 2)
        even = uniform_points(n, sampling.points - taken, logits.device, generator)
        return torch.cat((candidates.gather(1, best), even), dim=1)
