"""Label propagation on dense keys: a cell takes the labels of the remembered cells that look most like it.

Coarse to fine. Stride-16 keys pick a few cells in every remembered frame (for recent frames inside a circular window;
for pinned frames anywhere); stride-8 keys then compare only inside the cells that were picked, and the best ``top_k``
of all frames vote with softmax weights. The dense part of a tracker stands behind `DenseReader`, so that a learned
reader can take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.backbones.efficientnet_lite import load_lite0, normalise
from seem_core.features import Features
from trackers.base import Image
from trackers.memory_bank import Entry, MemoryBank


@dataclass(frozen=True, eq=False)
class Prior:
    """What memory says of one frame: for each of ``ids`` a (h, w) probability at the stride of the keys."""

    ids: tuple[int, ...]
    masks: Tensor  # (N, h, w) in 0..1


class DenseReader(Protocol):
    """The dense part of a tracker: encode keys, write a mask, read a prior."""

    def encode(self, image: Image) -> Features:
        """Encode an (H, W, 3) uint8 RGB image."""
        ...

    def write(self, features: Features, frame: int, masks: dict[int, Tensor], pinned: bool) -> Entry:
        """Make a memory entry from (h, w) soft masks in 0..1, one per object."""
        ...

    def read(self, features: Features, bank: MemoryBank, frame: int) -> Prior:
        """Where the objects of the bank are on this frame."""
        ...


@dataclass(frozen=True)
class PropagationConfig:
    """Numbers of label propagation; lengths are in coarse cells (stride 16 of the encoded image).

    pixels      area of the encoded image (the source is resized to about that, sides multiples of 16)
    taps        blocks of Lite0 whose normalised outputs are concatenated to keys
    window      radius of the circular window for recent frames
    cells_recent, cells_pinned   coarse cells picked per remembered frame
    top_k, temperature           how many fine cells vote, and how sharply
    """

    pixels: int = 480 * 864
    taps: tuple[int, ...] = (4, 10)
    window: float = 7.0
    cells_recent: int = 4
    cells_pinned: int = 8
    top_k: int = 10
    temperature: float = 0.07


class LabelPropagation:
    """The untrained `DenseReader`: ImageNet features of EfficientNet-Lite0 and top-k label propagation."""

    def __init__(self, config: PropagationConfig | None = None, device: str | torch.device = "cpu") -> None:
        self.config = config or PropagationConfig()
        self.device = torch.device(device)
        self._dtype = _fast_dtype(self.device)
        net = load_lite0(blocks=self.config.taps[-1] + 1).fold()
        self._net = net.to(self.device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(self, image: Image) -> Features:
        height, width = encoded_size(image.shape[0], image.shape[1], self.config.pixels)
        shrinks = height * width < image.shape[0] * image.shape[1]
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x = torch.from_numpy(resized).to(self.device)
        x = normalise(x.permute(2, 0, 1)[None].to(self._dtype)).contiguous(memory_format=torch.channels_last)
        size = (height // 8, width // 8)
        maps = []
        for level in self._net.features(x, self.config.taps):
            level = F.normalize(level.float(), dim=1)
            if level.shape[-2:] != size:
                level = F.interpolate(level, size=size, mode="bilinear")
            maps.append(level)
        keys = F.normalize(torch.cat(maps, 1), dim=1)[0]
        return Features(keys, 8, height, width, image.shape[0], image.shape[1])

    @torch.inference_mode()
    def write(self, features: Features, frame: int, masks: dict[int, Tensor], pinned: bool) -> Entry:
        values = {i: pack(mask[None])[..., 0].contiguous() for i, mask in masks.items()}
        return Entry(frame, self._keys(features), values, pinned)

    def _keys(self, features: Features) -> tuple[Tensor, Tensor]:
        """((L, C) coarse, (L, 4 C) fine) keys of L coarse cells."""
        coarse = F.normalize(F.avg_pool2d(features.keys[None], 2), dim=1)[0].flatten(1).T
        return coarse.to(self._dtype).contiguous(), pack(features.keys).flatten(1).to(self._dtype)

    @torch.inference_mode()
    def read(self, features: Features, bank: MemoryBank, frame: int) -> Prior:
        config, ids = self.config, bank.ids
        h, w = features.height // 16, features.width // 16
        coarse, fine = self._keys(features)
        outside = outside_window(h, w, config.window, self.device)
        picked: list[Tensor] = []
        for entry in bank.entries:
            affinity = coarse @ entry.keys[0].T  # (L, L)
            if not entry.pinned:
                affinity = affinity.masked_fill(outside, -2.0)
            k = config.cells_pinned if entry.pinned else config.cells_recent
            picked.append(affinity.topk(min(k, h * w), dim=1, sorted=False).indices)  # (L, k)
        # cells whose candidates are all background stay background: only the others go on
        active = torch.zeros(h * w, dtype=torch.bool, device=self.device)
        for entry, index in zip(bank.entries, picked, strict=True):
            touched = torch.stack([v.amax(1) > 0 for v in entry.values.values()]).any(0)  # (L,)
            active |= touched[index].any(1)
        rows = active.nonzero()[:, 0]
        masks = torch.zeros(len(ids), h * w, 4, device=self.device)
        if len(rows):
            masks[:, rows] = self._vote(fine[rows], bank, [index[rows] for index in picked], ids)
        return Prior(ids, unpack(masks[..., None], h, w)[..., 0])

    def _vote(self, fine: Tensor, bank: MemoryBank, picked: list[Tensor], ids: tuple[int, ...]) -> Tensor:
        """fine: (R, 4 C) keys of the rows that go on, picked: per entry (R, k) coarse cells. Returns (N, R, 4)."""
        rows, channels = fine.shape[0], fine.shape[1] // 4
        query = fine.view(rows, 4, channels)
        affinity = []
        for entry, index in zip(bank.entries, picked, strict=True):
            keys = entry.keys[1][index.flatten()].view(rows, -1, channels)  # (R, 4 k, C)
            affinity.append(query @ keys.transpose(1, 2))
        best = torch.cat(affinity, 2).float().topk(self.config.top_k, dim=2)  # (R, 4, K)
        weights = (best.values / self.config.temperature).softmax(2)
        masks = torch.empty(len(ids), rows, 4, device=self.device)
        for n, object_id in enumerate(ids):
            labels, known = [], []
            for entry, index in zip(bank.entries, picked, strict=True):
                value = entry.values.get(object_id)
                shape = (rows, 1, index.shape[1] * 4)
                labels.append(fine.new_zeros(shape, dtype=torch.float32) if value is None else value[index].view(shape))
                known.append(fine.new_full(shape, float(value is not None), dtype=torch.float32))
            label = torch.cat(labels, 2).expand(-1, 4, -1).gather(2, best.indices)
            seen = torch.cat(known, 2).expand(-1, 4, -1).gather(2, best.indices)
            masks[n] = (weights * label).sum(2) / (weights * seen).sum(2).clamp(min=1e-6)
        return masks


def encoded_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Size near ``pixels`` with the aspect of (height, width), sides multiples of 16, at least 32."""
    scale = (pixels / (height * width)) ** 0.5
    return max(32, round(height * scale / 16) * 16), max(32, round(width * scale / 16) * 16)


def pack(maps: Tensor) -> Tensor:
    """(C, 2 h, 2 w) -> (h w, 4, C): the four fine cells of every coarse cell side by side."""
    c, h, w = maps.shape
    return maps.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 2, 4, 0).reshape(h * w // 4, 4, c)


def unpack(cells: Tensor, h: int, w: int) -> Tensor:
    """(N, h w, 4, C) -> (N, 2 h, 2 w, C), the inverse of `pack` for N maps."""
    n, _, _, c = cells.shape
    return cells.view(n, h, w, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)


def outside_window(h: int, w: int, radius: float, device: torch.device) -> Tensor:
    """(h w, h w) bool: True where two cells are farther apart than ``radius`` cells."""
    y = torch.arange(h, device=device).repeat_interleave(w)
    x = torch.arange(w, device=device).repeat(h)
    return (y[:, None] - y[None]) ** 2 + (x[:, None] - x[None]) ** 2 > radius**2


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units take it, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    return torch.float32


def shrink_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of mask in every cell: (H, W) bool -> (height, width) float32 in 0..1."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
