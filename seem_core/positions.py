"""Sine position encoding of a feature map: where a cell is, as fixed waves of row and column.

Vaswani et al., "Attention Is All You Need" section 3.5, in the normalised two-dimensional form of DETR: the last row
and the last column lie at 2 pi whatever the size (SPEC §3.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine_positions(
    height: int,
    width: int,
    channels: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(1, channels, height, width): the first half of the channels encodes the row, the second the column.

    `channels` is a multiple of 4. Within a half, even channels are sines and odd ones cosines of one frequency.
    Computed in float32 per axis (the map is separable), then cast to `dtype`. The memory is channels_last.
    """
    rows = _axis(height, channels // 2, device).to(dtype)  # (height, channels/2)
    columns = _axis(width, channels // 2, device).to(dtype)  # (width, channels/2)
    both = torch.cat(
        (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), dim=-1
    )  # (height, width, channels)
    return both.permute(2, 0, 1)[None]


def _axis(length: int, channels: int, device: torch.device | str | None) -> Tensor:
    """(length, channels) waves along one axis."""
    place = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    place = place / (length + 1e-6) * (2 * math.pi)
    pair = torch.arange(channels, device=device) // 2
    wave = place[:, None] / TEMPERATURE ** (2 * pair / channels)
    return torch.stack((wave[:, 0::2].sin(), wave[:, 1::2].cos()), dim=-1).flatten(1)
