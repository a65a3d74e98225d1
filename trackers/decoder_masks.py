"""A segmenter's masks on the grid of a dense reader, and back: both cover the same picture with cells of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.geometry import Geometry
from seem_core.segmenter_types import Prediction, logit_size

CERTAIN = 0.99
"""No probability counts for more than this, none for less than its complement: one opinion must not silence another."""


def log_odds(masks: Tensor) -> Tensor:
    """Probabilities as log-odds, the certain ones held back."""
    return torch.logit(masks.clamp(1 - CERTAIN, CERTAIN))


def masks_on_grid(prediction: Prediction, height: int, width: int) -> Tensor:
    """(N, h, w) logits over the padded input -> (N, height, width) log-odds over the picture alone, held back."""
    geometry = prediction.geometry
    y = _centres(height) * (geometry.image[0] / geometry.padded[0])
    x = _centres(width) * (geometry.image[1] / geometry.padded[1])
    most = float(torch.logit(torch.tensor(CERTAIN)))
    return _sampled(prediction.logits.float(), y, x).clamp(-most, most)


def masks_as_prior(masks: Tensor, ids: Sequence[int], geometry: Geometry) -> Prediction:
    """(N, height, width) probabilities over the picture -> what a decoder reads as masks that may be expected.

    The padding is outside of every mask; scores are 1.
    """
    h, w = logit_size(geometry)
    y = _centres(h) * (geometry.padded[0] / geometry.image[0])
    x = _centres(w) * (geometry.padded[1] / geometry.image[1])
    inside = ((y < 1)[:, None] & (x < 1)).to(masks.device)
    probabilities = _sampled(masks.float(), y.clamp(max=1), x.clamp(max=1)) * inside
    return Prediction(tuple(ids), log_odds(probabilities), masks.new_ones(len(ids)), geometry)


def _centres(cells: int) -> Tensor:
    """(cells,) centres of equal cells that fill 0..1."""
    return (torch.arange(cells) + 0.5) / cells


def _sampled(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(N, H, W) maps over 0..1 each way -> (N, h, w), interpolated bilinearly at rows ``y`` and columns ``x``."""
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], 2) * 2 - 1  # (h, w, 2)
    grid = grid[None].to(maps)
    return F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
