"""Pieces that the backbones share: the feature pyramid they return, the two-layer perceptron, a depthwise convolution.

All backbones keep their tokens as (B, H, W, C) between layers: linear layers and layer norms then read contiguous
memory, and seen as (B, C, H, W) the same memory is ``channels_last``, which convolutions like; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BYTES_PER_BLOCK = 1 << 22
"""Size of the widest tensor that is in work at once on a CPU: about what a core's caches hold."""


class Pyramid(NamedTuple):
    """Image features at four strides, each (B, C_i, ceil(H / stride), ceil(W / stride))."""

    res2: Tensor
    """stride 4"""
    res3: Tensor
    """stride 8"""
    res4: Tensor
    """stride 16"""
    res5: Tensor
    """stride 32"""


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) seen as (B, C, H, W); no copy."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) seen as (B, H, W, C); contiguous where `x` is channels_last."""
    return x.permute(0, 2, 3, 1)


class Mlp(nn.Module):
    """Linear, exact GELU, linear on the last axis: (..., C) -> (..., C).

    The hidden layer is several times as wide as the map: see `cell_by_cell`.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return cell_by_cell(self.whole, x, widest=self.fc1.out_features)

    def whole(self, x: Tensor) -> Tensor:
        """All cells at once."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


def cell_by_cell(function: Callable[..., Tensor], x: Tensor, *others: Tensor, widest: int) -> Tensor:
    """``function(x, *others)``, worked off in blocks of cells that stay in the cache; each (..., C_i) -> (..., C).

    For functions whose result at a cell depends on that cell alone, and is as wide as `x`. widest: values per cell in
    its widest intermediate. Half the time on a CPU at stride 4, where whole maps would be fresh memory on every call;
    with gradients, and on other devices, all cells are done at once.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return function(x, *others)
    y = torch.empty_like(x)
    step = max(1, BYTES_PER_BLOCK // (widest * x.element_size()))
    for place, *block in zip(*(torch.split(t.flatten(0, -2), step) for t in (y, x, *others)), strict=True):
        place.copy_(function(*block))
    return y


class DepthwiseConv(nn.Conv2d):
    """One k x k filter per channel on (B, H, W, C), size kept by zero padding."""

    def __init__(self, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(super().forward(to_nchw(x)))


def channels_last(image: Tensor) -> Tensor:
    """The same (B, C, H, W) values in channels_last memory."""
    return image.contiguous(memory_format=torch.channels_last)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (n, window^2, C): windows row by row, zeros below and right where the size is no multiple."""
    H, W, C = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -W % window, 0, -H % window))
    x = x.view(len(x), x.shape[1] // window, window, x.shape[2] // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


def join_windows(windows: Tensor, window: int, size: tuple[int, int, int]) -> Tensor:
    """The reverse of `split_windows`, cropped to size (B, H, W): (n, window^2, C) -> (B, H, W, C)."""
    B, H, W = size
    rows, columns = -(-H // window), -(-W // window)
    x = windows.view(B, rows, columns, window, window, -1).transpose(2, 3)
    return x.reshape(B, rows * window, columns * window, -1)[:, :H, :W]
