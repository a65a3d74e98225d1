"""Label maps at source size, made in row blocks, so that memory never holds a full-size map per object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trackers.base import Labels

BLOCK_BYTES = 64 * 2**20  # of float maps at a time


def label_map(shares: Tensor, ids: Sequence[int], height: int, width: int) -> Labels:
    """(height, width) label map of the largest of ``shares`` (N + 1, h, w), background first, upsampled bilinearly."""
    labels = np.zeros((height, width), label_dtype(ids))
    if not ids:
        return labels
    owners = np.array([0, *ids], labels.dtype)
    block = max(1, BLOCK_BYTES // (4 * (len(ids) + 1) * width))
    for top in range(0, height, block):
        rows = min(block, height - top)
        shares_here = upsample_rows(shares, top, rows, height, width)
        labels[top : top + rows] = owners[shares_here.argmax(0).cpu().numpy()]
    return labels


def upsample_rows(maps: Tensor, top: int, rows: int, height: int, width: int) -> Tensor:
    """Rows top..top + rows of the bilinear upsampling of (N, h, w) to (N, height, width), pixel centres aligned."""
    h = maps.shape[1]
    y = (torch.arange(top, top + rows, device=maps.device) + 0.5) * (h / height) - 0.5
    y = y.clamp(0, h - 1)
    above = y.floor().long()
    below = (above + 1).clamp(max=h - 1)
    weight = (y - above)[:, None]
    mixed = maps[:, above] * (1 - weight) + maps[:, below] * weight  # (N, rows, w)
    return F.interpolate(mixed[None], size=(rows, width), mode="bilinear")[0]


def label_dtype(ids: Sequence[int]) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if max(ids, default=0) <= 255 else np.uint16
