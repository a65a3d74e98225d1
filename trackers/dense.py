"""The dense part of a tracker behind one small interface: encode keys, write a mask, read a prior.

Cells form a quadtree, and every level is stored in the same order: cell i of a coarse level has the children
4 i .. 4 i + 3 on the next finer one (top left, top right, bottom left, bottom right). A map of the finest level with
h x w coarse cells is thus a flat list of ``16 h w`` numbers that any level can be taken from by averaging.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.features import Features
from trackers.base import Image
from trackers.memory_bank import MemoryBank

SUBCELLS = 16  # finest cells (stride 4) in a coarse one (stride 16)


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of one frame, in the space of one bank; L = height x width coarse cells.

    coarse (L, C), fine (L, 4 C), finest (4 L, 4 D): each row holds the children of one cell of the level above
    """

    coarse: Tensor
    fine: Tensor
    finest: Tensor
    height: int
    width: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.coarse, self.fine, self.finest


@dataclass(frozen=True, eq=False)
class Prior:
    """What memory says of one frame: for each of ``ids`` a probability per finest cell, (N, 4 h, 4 w)."""

    ids: tuple[int, ...]
    masks: Tensor


class DenseReader(Protocol):
    """Encode keys, write a mask, read a prior. Stateless: what is remembered lies in the bank."""

    @property
    def device(self) -> torch.device: ...

    def encode(self, image: Image) -> Features:
        """Encode an (H, W, 3) uint8 RGB image."""
        ...

    def keys(self, features: Features, bank: MemoryBank) -> Keys:
        """Keys of a frame in the space of ``bank``; the first frame defines that space."""
        ...

    def read(self, keys: Keys, bank: MemoryBank) -> Prior:
        """Where the objects of the bank are on this frame."""
        ...

    def write(self, keys: Keys, bank: MemoryBank, frame: int, masks: dict[int, Tensor], pinned: bool) -> None:
        """Remember (4 h, 4 w) soft masks in 0..1, one per object."""
        ...


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


def shrink_mask(mask: npt.NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Share of the mask in each of height x width cells: (H, W) bool -> (height, width) float32 in 0..1.

    A mask too small to fill any cell is scaled up until it fills one: it would be too faint to propagate.
    """
    shrunk = torch.from_numpy(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))
    return shrunk / shrunk.max().clamp(min=1e-6)
