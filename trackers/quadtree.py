"""Cells as a quadtree: every level of a map is stored in the same order.

Cell i of a coarse level has the children 4 i .. 4 i + 3 on the next finer one (top left, top right, bottom left, bottom
right). A map of the finest level with h x w coarse cells is thus a flat list of ``16 h w`` numbers that any level can
be taken from by averaging.
"""

from __future__ import annotations

import torch
from torch import Tensor

SUBCELLS = 16  # finest cells (stride 4) in a coarse one (stride 16)


def quadtree_rows(cells: Tensor, h: int, w: int) -> Tensor:
    """(16 h w, D) cells of a 4 h x 4 w grid, row by row -> (4 h w, 4 D) in quadtree order."""
    d = cells.shape[1]
    return cells.view(h, 2, 2, w, 2, 2, d).permute(0, 3, 1, 4, 2, 5, 6).reshape(4 * h * w, 4 * d)


def to_cells(masks: Tensor) -> Tensor:
    """(N, 4 h, 4 w) maps -> (N, 16 h w) in quadtree order."""
    n, h, w = masks.shape
    cells = masks.view(n, h // 4, 2, 2, w // 4, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return cells.reshape(n, h * w)


def to_maps(cells: Tensor, h: int, w: int) -> Tensor:
    """(N, 16 h w) in quadtree order -> (N, 4 h, 4 w) maps; the inverse of `to_cells`."""
    n = cells.shape[0]
    return cells.view(n, h, w, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, 4 * h, 4 * w)


def children(cells: Tensor) -> Tensor:
    """(..., k) cells -> (..., 4 k) their children on the next finer level."""
    return (cells[..., None] * 4 + torch.arange(4, device=cells.device)).flatten(-2)
