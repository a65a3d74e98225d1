"""Label propagation on dense keys: a cell takes the labels of the remembered cells that look most like it.

Coarse to fine, so that the reach is that of the whole frame and the borders are those of stride 4:

    stride 16   picks a few cells in every remembered frame: inside a circular window for recent frames, anywhere for
                pinned ones
    stride 8    compares only inside the picked cells; the best ``top_k`` of all frames vote with softmax weights
    stride 4    where the vote is undecided or a border passes, compares inside the ``top_k`` cells of the level above

Jabri et al. (arXiv:2006.14613) describe the single-level form; the features here are those of an ImageNet classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.backbones.efficientnet_lite import load_lite0, normalise
from seem_core.features import Features
from trackers.base import Image
from trackers.dense import Keys, Prior, quadtree_rows, to_cells, to_maps
from trackers.memory_bank import Entry, MemoryBank


@dataclass(frozen=True)
class PropagationConfig:
    """Numbers of label propagation; lengths are in coarse cells (stride 16 of the encoded image).

    pixels       area of the encoded image (the source is resized to about that, sides multiples of 32)
    taps         blocks of Lite0 whose outputs become keys, at strides 4, 8 and 16
    channels     of coarse and fine keys, of finest keys: principal components of the first frame
    window       radius of the circular window for recent frames
    cells_recent, cells_pinned   coarse cells picked per remembered frame
    top_k        how many fine cells vote, and then how many finest ones
    temperature, temperature_finest   how sharply they vote
    border       fine cells are refined unless all their 3 x 3 neighbours are below it, or all above 1 - it
    faint        an object whose best cell stays below is taken for lost
    tail         probabilities below are written as zero: long faint tails cost time and carry nothing
    """

    pixels: int = 480 * 864
    taps: tuple[int, int, int] = (2, 4, 10)
    channels: tuple[int, int] = (64, 64)
    window: float = 7.0
    cells_recent: int = 4
    cells_pinned: int = 8
    top_k: int = 10
    temperature: float = 0.1
    temperature_finest: float = 0.07
    border: float = 0.1
    faint: float = 0.2
    tail: float = 0.02


class LabelPropagation:
    """The untrained `DenseReader`: ImageNet features of EfficientNet-Lite0 and top-k label propagation."""

    def __init__(self, config: PropagationConfig | None = None, device: str | torch.device = "cpu") -> None:
        self.config = config or PropagationConfig()
        self._device = torch.device(device)
        self._dtype = fast_dtype(self.device)
        net = load_lite0(blocks=self.config.taps[-1] + 1).fold()
        net.to(device=self.device, dtype=self._dtype)
        self._net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def encode(self, image: Image) -> Features:
        height, width = encoded_size(image.shape[0], image.shape[1], self.config.pixels)
        shrinks = height * width < image.shape[0] * image.shape[1]
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x = torch.from_numpy(resized).to(self.device)[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
        shallow, middle, deep = self._net.features(normalise(x.to(self._dtype)), self.config.taps)
        deep = F.interpolate(F.normalize(deep.float(), dim=1), size=middle.shape[-2:], mode="bilinear")
        middle = F.normalize(middle.float().permute(0, 2, 3, 1), dim=3)
        # between two deep cells interpolation shortens that part of the key: there it says less, and counts less
        keys = F.normalize(torch.cat([middle, deep.permute(0, 2, 3, 1)], 3), dim=3)[0]  # (h, w, C)
        return Features(keys.permute(2, 0, 1), 8, height, width, image.shape[0], image.shape[1], (shallow[0],))

    @torch.inference_mode()
    def keys(self, features: Features, bank: MemoryBank) -> Keys:
        h, w = features.keys.shape[1] // 2, features.keys.shape[2] // 2
        cells = features.keys.permute(1, 2, 0).flatten(0, 1)  # (4 h w, C) row by row
        if not bank.space:
            bank.space = principal_components(cells, self.config.channels[0])
        fine = project(cells, *bank.space[:2])
        coarse = F.normalize(fine.view(h, 2, w, 2, -1).mean((1, 3)), dim=2)
        as_map = fine.view(1, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)
        upsampled = F.interpolate(as_map, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
        shallow = F.normalize(features.levels[0].float().permute(1, 2, 0), dim=2)
        finest = torch.cat([shallow, upsampled], 2).flatten(0, 1)  # (16 h w, D) row by row
        if len(bank.space) == 2:
            bank.space += principal_components(finest, self.config.channels[1])
        finest = project(finest, *bank.space[2:])
        return Keys(
            coarse.view(h * w, -1).to(self._dtype),
            fine.to(self._dtype).view(h, 2, w, 2, -1).transpose(1, 2).reshape(h * w, -1),
            quadtree_rows(finest.to(self._dtype), h, w),
            h,
            w,
        )

    @torch.inference_mode()
    def write(self, keys: Keys, bank: MemoryBank, frame: int, masks: dict[int, Tensor], pinned: bool) -> None:
        values = {i: to_cells(m[None].to(self.device)).view(-1, 4).half() for i, m in masks.items()}
        bank.write(Entry(frame, keys.tensors, values, pinned))

    @torch.inference_mode()
    def read(self, keys: Keys, bank: MemoryBank) -> Prior:
        ids, cells = bank.ids, keys.height * keys.width
        memory = _Memory.of(bank, ids)
        rows, picked = self._pick(keys, bank, memory)
        masks = torch.zeros(len(ids), 4 * cells, device=self.device)
        if len(rows) == 0:
            return Prior(ids, to_maps(masks.repeat_interleave(4, 1), keys.height, keys.width))
        weights, voters = self._vote(keys, bank, picked, rows)
        masks.view(len(ids), cells, 4)[:, rows] = memory.labels(weights, voters)
        top = masks.amax(1, keepdim=True)
        gain = torch.where(top > self.config.faint, 1 / top, 0.0)
        refined = self._refine(keys, bank, memory, masks * gain, gain, rows, voters)
        return Prior(ids, refined * (refined > self.config.tail))

    def _pick(self, keys: Keys, bank: MemoryBank, memory: _Memory) -> tuple[Tensor, list[Tensor]]:
        """The R coarse cells of this frame that an object can reach, and for every entry the (R, k) cells most like
        them. Elsewhere every candidate is background, whatever the affinity.
        """
        h, w, config = keys.height, keys.width, self.config
        there = memory.objects()  # (E, L)
        near = torch.zeros(h * w, dtype=torch.bool, device=self.device)
        picked = []
        for e, entry in enumerate(bank.entries):
            if entry.pinned:
                picked.append(most_alike(keys.coarse @ entry.keys[0].T, config.cells_pinned))
                near |= there[e][picked[-1]].any(1)
        recent = [entry for entry in bank.entries if not entry.pinned]
        if recent:
            reach = 2 * int(config.window) + 1
            seen = there[len(picked) :].any(0).view(1, h, w).float()
            near |= F.max_pool2d(seen, reach, 1, reach // 2).flatten() > 0
        rows = positions(near)
        picked = [index[rows] for index in picked]
        window = window_bias(h, w, config.window, self.device, self._dtype)[rows]
        query = keys.coarse[rows]
        for entry in recent:
            picked.append(most_alike(torch.addmm(window, query, entry.keys[0].T), config.cells_recent))
        touched = torch.stack([there[e][index].any(1) for e, index in enumerate(picked)]).any(0)
        kept = positions(touched)
        return rows[kept], [index[kept] for index in picked]

    def _vote(self, keys: Keys, bank: MemoryBank, picked: list[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and voters (entry x 4 L + fine cell) of the fine cells in ``rows``, both (R, 4, K)."""
        r, cells = len(rows), keys.fine.shape[0]
        query = keys.fine[rows].view(r, 4, -1)
        affinity, voters = [], []
        for e, (entry, index) in enumerate(zip(bank.entries, picked, strict=True)):
            candidates = entry.keys[1][index.flatten()].view(r, -1, query.shape[2])  # (R, 4 k, C)
            affinity.append(query @ candidates.transpose(1, 2))
            voters.append(children(index + e * cells))
        return strongest(torch.cat(affinity, 2), torch.cat(voters, 1), self.config.top_k, self.config.temperature)

    def _refine(
        self, keys: Keys, bank: MemoryBank, memory: _Memory, masks: Tensor, gain: Tensor, rows: Tensor, voters: Tensor
    ) -> Tensor:
        """Fine (N, 4 L) probabilities -> (N, 4 h, 4 w): borders voted on again at the finest level."""
        n, h, w = len(masks), keys.height, keys.width
        maps = masks.view(n, h, w, 2, 2).transpose(2, 3).reshape(n, 2 * h, 2 * w)
        finest = to_cells(F.interpolate(maps[None], scale_factor=2, mode="bilinear")[0]).view(n, -1, 4)
        border = self._border(maps).view(h, 2, w, 2).transpose(1, 2).reshape(-1, 4)  # (L, 4)
        at = positions(border[rows].flatten())
        if len(at):
            cell = children(rows[:, None]).flatten()[at]
            parents = voters.flatten(0, 1)[at]  # (B, K)
            query = keys.finest[cell].view(len(at), 4, -1)
            candidates = gather_entries([entry.keys[2] for entry in bank.entries], parents)
            affinity = query @ candidates.view(len(at), -1, query.shape[2]).transpose(1, 2)  # (B, 4, 4 K)
            temperature = self.config.temperature_finest
            votes = memory.labels_finest(*strongest(affinity, children(parents), self.config.top_k, temperature))
            finest[:, cell] = votes * gain[..., None]
        return to_maps(finest.flatten(1).clamp(0, 1), h, w)

    def _border(self, maps: Tensor) -> Tensor:
        """(2 h, 2 w) bool: where any of (N, 2 h, 2 w) probabilities is undecided or changes sides within a cell."""
        high, low = F.max_pool2d(maps, 3, 1, 1), -F.max_pool2d(-maps, 3, 1, 1)
        return ((high > self.config.border) & (low < 1 - self.config.border)).any(0)


@dataclass(frozen=True, eq=False)
class _Memory:
    """The values of a bank side by side. values: (N, E, 4 L, 4); known: (N, E), 0 where an entry says nothing of an
    object, or None if every entry speaks of every object."""

    values: Tensor
    known: Tensor | None

    @staticmethod
    def of(bank: MemoryBank, ids: tuple[int, ...]) -> _Memory:
        some = next(iter(bank.entries[0].values.values()))
        nothing = torch.zeros_like(some)
        values = torch.stack([torch.stack([e.values.get(i, nothing) for e in bank.entries]) for i in ids])
        known = [[float(i in e.values) for e in bank.entries] for i in ids]
        complete = all(min(row) == 1 for row in known)
        return _Memory(values, None if complete else torch.tensor(known, device=some.device))

    def objects(self) -> Tensor:
        """(E, L) bool: the coarse cells that carry any object."""
        return (self.values.amax((0, 3)) > 0).view(self.values.shape[1], -1, 4).any(2)

    def labels(self, weights: Tensor, voters: Tensor) -> Tensor:
        """(N, ...) labels by weighted vote of fine cells; weights, voters: (..., K)."""
        return self._voted(self.values.float().mean(3).flatten(1), weights, voters)

    def labels_finest(self, weights: Tensor, voters: Tensor) -> Tensor:
        return self._voted(self.values.flatten(1), weights, voters)

    def _voted(self, values: Tensor, weights: Tensor, voters: Tensor) -> Tensor:
        masks = torch.stack([(weights * v[voters]).sum(-1) for v in values])
        if self.known is None:
            return masks
        entry = voters // (values.shape[1] // self.known.shape[1])
        seen = torch.stack([(weights * k[entry]).sum(-1) for k in self.known])
        return masks / seen.clamp(min=1e-6)


def most_alike(affinity: Tensor, k: int) -> Tensor:
    """Indices (R, k) of the largest of (R, L) affinities, L a multiple of four.

    Cells are compared in groups of four that lie a quarter of the frame apart, and only the best of each group goes
    on: a search among a quarter of the candidates that loses next to nothing.
    """
    groups = affinity.view(len(affinity), 4, -1)  # (R, 4, L / 4)
    best = groups.amax(1).topk(min(k, groups.shape[2]), dim=1, sorted=False).indices
    member = groups.gather(2, best[:, None].expand(-1, 4, -1)).argmax(1)
    return member * groups.shape[2] + best


def positions(flags: Tensor, multiple: int = 128) -> Tensor:
    """Where ``flags`` (M,) is True; if anywhere, the first position is repeated until there are a ``multiple`` of them.

    Matrix kernels are compiled and cached for every size they meet: with few sizes, memory stays flat over a video.
    """
    found = flags.nonzero()[:, 0]
    return torch.cat([found, found[:1].expand(-len(found) % multiple)]) if len(found) else found


def children(cells: Tensor) -> Tensor:
    """(..., k) cells -> (..., 4 k) their children on the next finer level."""
    return (cells[..., None] * 4 + torch.arange(4, device=cells.device)).flatten(-2)


def strongest(affinity: Tensor, voters: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax weights and voters of the ``k`` largest affinities. affinity: (R, 4, M), voters: (R, M)."""
    best = affinity.topk(min(k, affinity.shape[2]), dim=2, sorted=False)
    weights = (best.values.float() / temperature).softmax(2)
    return weights, voters[:, None].expand(-1, affinity.shape[1], -1).gather(2, best.indices)


def gather_entries(tensors: list[Tensor], index: Tensor) -> Tensor:
    """Rows ``index`` of the concatenation of ``tensors`` (all (M, C)), without concatenating them."""
    flat, size = index.flatten(), len(tensors[0])
    out = tensors[0].new_empty(len(flat), tensors[0].shape[1])
    for e, tensor in enumerate(tensors):
        here = ((flat >= e * size) & (flat < (e + 1) * size)).nonzero()[:, 0]
        out[here] = tensor[flat[here] - e * size]
    return out


def principal_components(samples: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and basis (C, channels) of (M, C) samples; signs are fixed, so that the result is reproducible."""
    mean = samples.mean(0)
    covariance = (samples - mean).T @ (samples - mean) / len(samples)
    basis = torch.linalg.eigh(covariance.cpu().double()).eigenvectors[:, -channels:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    return mean, basis.to(samples)


def project(samples: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """(M, C) samples about ``mean`` in ``basis`` (C, channels), every row L2-normalised."""
    return F.normalize(torch.addmm(-(mean @ basis), samples, basis), dim=1)


def encoded_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Size near ``pixels`` with the aspect of (height, width), sides multiples of 32; at most twice the source."""
    scale = min(2.0, (pixels / (height * width)) ** 0.5)
    return max(32, round(height * scale / 32) * 32), max(32, round(width * scale / 32) * 32)


@lru_cache(maxsize=2)
def window_bias(h: int, w: int, radius: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(h w, h w): 0 where two cells are at most ``radius`` cells apart, -4 (less than any cosine) elsewhere."""
    y = torch.arange(h, device=device).repeat_interleave(w)
    x = torch.arange(w, device=device).repeat(h)
    outside = (y[:, None] - y[None]) ** 2 + (x[:, None] - x[None]) ** 2 > radius**2
    return outside.to(dtype) * -4


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on processors with matrix units for it, float16 on CUDA, else float32."""
    if device.type == "cuda":
        return torch.float16
    amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if amx else torch.float32
