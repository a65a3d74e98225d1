"""Label propagation on dense keys: a cell takes the labels of the remembered cells that look most like it.

Coarse to fine, so that the reach is that of the whole frame and the borders are those of stride 4:

    stride 16   picks a few cells in every remembered frame: inside a circular window for recent frames, anywhere for
                pinned ones
    stride 8    compares only inside the picked cells; the best ``top_k`` of all frames vote with softmax weights
    stride 4    where the vote is undecided or a border passes, compares inside the ``top_k`` cells of the level above

Jabri et al. (arXiv:2006.14613) describe the single-level form; the features here are those of an ImageNet classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.backbones.efficientnet_lite import normalise
from seem_core.backbones.lite_trunk import load_trunk
from seem_core.errors import InputError
from seem_core.features import Features
from trackers.base import Image
from trackers.dense import Reading
from trackers.local_search import local_search
from trackers.memory_bank import Entry, MemoryBank
from trackers.merge import soft_aggregate
from trackers.quadtree import children, quadtree_rows, to_cells, to_maps
from trackers.voting import NEVER, Pick, Voters, gather_entries, most_alike, positions, strongest

LATELY = 3  # recent frames that say where an object may be now


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


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of one frame, in the space of one bank; L = rows x columns coarse cells.

    coarse (L, C), fine (L, 4 C), finest (4 L, 4 D): each row holds the children of one cell of the level above
    """

    coarse: Tensor
    fine: Tensor
    finest: Tensor
    rows: int
    columns: int

    @property
    def height(self) -> int:
        """Rows of the finest level, which is that of masks."""
        return 4 * self.rows

    @property
    def width(self) -> int:
        return 4 * self.columns

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.coarse, self.fine, self.finest


class LabelPropagation:
    """The untrained `DenseReader`: ImageNet features of EfficientNet-Lite0 and top-k label propagation."""

    def __init__(self, config: PropagationConfig | None = None, device: str | torch.device = "cpu") -> None:
        self.config = config or PropagationConfig()
        self._device = torch.device(device)
        self._dtype = fast_dtype(self.device)
        net = load_trunk(self.config.taps[-1] + 1)
        net.to(device=self.device, dtype=self._dtype)
        self._net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def name(self) -> str:
        taps, channels = ("-".join(map(str, numbers)) for numbers in (self.config.taps, self.config.channels))
        return f"label-propagation lite0 blocks {taps} channels {channels}"

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def encode(self, image: Image) -> Features:
        """Keys at stride 8 before they are projected, and the levels at strides 2 and 4."""
        height, width = encoded_size(image.shape[0], image.shape[1], self.config.pixels)
        shrinks = height * width < image.shape[0] * image.shape[1]
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        x = torch.from_numpy(resized).to(self.device)[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
        half, shallow, middle, deep = self._net.features(normalise(x.to(self._dtype)), (0, *self.config.taps))
        deep = F.interpolate(F.normalize(deep.float(), dim=1), size=middle.shape[-2:], mode="bilinear")
        middle = F.normalize(middle.float().permute(0, 2, 3, 1), dim=3)
        # between two deep cells interpolation shortens that part of the key: there it says less, and counts less
        keys = F.normalize(torch.cat([middle, deep.permute(0, 2, 3, 1)], 3), dim=3)[0]  # (h, w, C)
        return Features(keys.permute(2, 0, 1), 8, height, width, image.shape[0], image.shape[1], (half[0], shallow[0]))

    @torch.inference_mode()
    def look(self, features: Features, bank: MemoryBank) -> Keys:
        h, w = features.keys.shape[1] // 2, features.keys.shape[2] // 2
        cells = features.keys.permute(1, 2, 0).flatten(0, 1)  # (4 h w, C) row by row
        if not bank.space:
            bank.space = principal_components(cells, self.config.channels[0])
        fine = project(cells, *bank.space[:2])
        top, bottom = fine.view(h, 2, w, 2, -1).unbind(1)
        coarse = F.normalize((top + bottom).sum(2), dim=2)
        as_map = fine.view(1, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)
        upsampled = F.interpolate(as_map, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
        shallow = F.normalize(features.levels[1].float().permute(1, 2, 0), dim=2)
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
    def write(
        self,
        view: Keys,
        bank: MemoryBank,
        frame: int,
        masks: Mapping[int, Tensor],
        *,
        pinned: Set[int] = frozenset(),
        doubtful: Set[int] = frozenset(),
        looks: Mapping[int, Tensor] | None = None,
    ) -> None:
        """See `DenseReader.write`. looks: how pinned objects look, kept with them."""
        values = {i: _as_value(m.to(self.device)) for i, m in masks.items()}
        grid = (view.rows, view.columns)
        kept = {i: v for i, v in values.items() if i in pinned}
        if kept:
            bank.write(Entry(frame, view.tensors, kept, pinned=True, grid=grid, looks=looks or {}))
        good = {i: v for i, v in values.items() if i not in pinned and i not in doubtful}
        if good:
            bank.write(Entry(frame, view.tensors, good, grid=grid))

    @torch.inference_mode()
    def read(self, view: Keys, bank: MemoryBank) -> Reading:
        """Each object's masks by vote; see `as_reading`."""
        return as_reading(bank.ids, self.read_masks(view, bank))

    def adopt(self, bank: MemoryBank) -> None:
        """See `DenseReader.adopt`."""
        coarse, finest = self.config.channels
        widths = [(coarse,), (4 * coarse,), (4 * finest,)]
        fit = all([k.shape[1:] for k in e.keys] == widths and _fits(e) for e in bank.dense)
        if not fit or (bank.dense and len(bank.space) != 4):
            raise InputError("the memory holds keys of other sizes than the reader's; save it again with this version")
        bank.to(self.device, self._dtype)

    @torch.inference_mode()
    def read_masks(self, keys: Keys, bank: MemoryBank) -> Tensor:
        """(N, 4 h, 4 w) probabilities of each object of the bank on its own, by vote."""
        return self.read_versions(keys, bank, 1)[:, 0]

    @torch.inference_mode()
    def read_versions(self, keys: Keys, bank: MemoryBank, versions: int) -> Tensor:
        """(N, V, 4 h, 4 w) the same from each of V versions of the remembered masks."""
        masks = self._read_all(keys, bank, versions)
        return masks.view(-1, versions, keys.height, keys.width)

    def _read_all(self, keys: Keys, bank: MemoryBank, versions: int) -> Tensor:
        """(N V, 4 h, 4 w), the versions of an object one after the other."""
        ids, cells = bank.ids, keys.rows * keys.columns
        if not bank.dense:
            return torch.zeros(len(ids) * versions, keys.height, keys.width, device=self.device)
        memory = Voters.of(bank.dense, ids, versions)
        rows, picks = self._pick(keys, memory)
        masks = torch.zeros(len(ids) * versions, 4 * cells, device=self.device)
        if len(rows) == 0:
            return to_maps(masks.repeat_interleave(4, 1), keys.rows, keys.columns)
        weights, voters = self._vote(keys, memory, picks, rows)
        masks.view(len(masks), cells, 4)[:, rows] = memory.labels(weights, voters)
        if bank.long_term.cells:
            bank.count_votes(memory.votes(weights, voters))
        top = masks.amax(1, keepdim=True)
        gain = torch.where(top > self.config.faint, 1 / top, 0.0)
        refined = self._refine(keys, memory, masks * gain, gain, rows, voters)
        return refined * (refined > self.config.tail)

    def _pick(self, keys: Keys, memory: Voters) -> tuple[Tensor, list[Pick]]:
        """The R coarse cells of this frame that an object can reach, and for every entry the cells most like them.
        Elsewhere every candidate is background, whatever the affinity.

        An object can reach the window around where it was lately, and what looks most like it on a prompted frame.
        Recent frames are searched within the window, and once more without it for objects that were not seen last.
        """
        h, w, config = keys.rows, keys.columns, self.config
        there = memory.objects()  # per entry (L,)
        windowed = [not entry.pinned and entry.grid == (h, w) for entry in memory.entries]
        near = torch.zeros(h * w, dtype=torch.bool, device=self.device)
        picks: list[Pick] = []
        for e in (e for e, inside in enumerate(windowed) if not inside):
            picks.append(Pick(e, most_alike(keys.coarse @ memory.entries[e].keys[0].T, config.cells_pinned)))
            near |= there[e][picks[-1].index].any(1)
        for e, carries in memory.missed():
            if windowed[e]:
                index = most_alike(keys.coarse @ memory.entries[e].keys[0].T, config.cells_recent)
                picks.append(Pick(e, index, carries[index]))
                near |= carries[index].any(1)
        recent = [e for e, inside in enumerate(windowed) if inside]
        if recent:
            reach = 2 * int(config.window) + 1
            seen = torch.stack([there[e] for e in recent[-LATELY:]]).any(0).view(1, h, w).float()
            near |= F.max_pool2d(seen, reach, 1, reach // 2).flatten() > 0
        rows = positions(near)
        picks = [pick.at(rows) for pick in picks]
        telling = recent[-1:] + recent[:-1][:1]  # the newest and the oldest: what neither takes for an object is none
        picks += self._pick_recent(keys, memory, rows, telling)
        kept = positions(torch.stack([pick.touches(there[pick.entry]) for pick in picks]).any(0))
        rows, picks = rows[kept], [pick.at(kept) for pick in picks]
        return rows, picks + self._pick_recent(keys, memory, rows, recent[1:-1])

    def _pick_recent(self, keys: Keys, memory: Voters, rows: Tensor, recent: list[int]) -> list[Pick]:
        """The cells of some recent entries that are most like the cells in ``rows``, within the window around them."""
        if not recent:
            return []
        search = local_search(keys.rows, keys.columns, self.config.window, self.device, self._dtype)
        remembered = [memory.entries[e].keys[0] for e in recent]
        found = search.nearest(keys.coarse, rows, remembered, self.config.cells_recent)
        return [Pick(e, index) for e, index in zip(recent, found, strict=True)]

    def _vote(self, keys: Keys, memory: Voters, picks: list[Pick], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and voters (fine cells of all entries, one after the other) of the fine cells in ``rows``, both
        (R, 4, K)."""
        r = len(rows)
        query = keys.fine.index_select(0, rows).view(r, 4, -1)
        affinity, voters = [], []
        for pick in picks:
            entry = memory.entries[pick.entry]
            candidates = entry.keys[1].index_select(0, pick.index.flatten()).view(r, -1, query.shape[2])  # (R, 4 k, C)
            affinity.append(query @ candidates.transpose(1, 2))
            if pick.counts is not None:
                affinity[-1] = affinity[-1].masked_fill(~pick.counts.repeat_interleave(4, 1)[:, None], NEVER)
            voters.append(children(pick.index + memory.starts[pick.entry]))
        return strongest(torch.cat(affinity, 2), torch.cat(voters, 1), self.config.top_k, self.config.temperature)

    def _refine(self, keys: Keys, memory: Voters, masks: Tensor, gain: Tensor, rows: Tensor, voters: Tensor) -> Tensor:
        """Fine (N, 4 L) probabilities -> (N, 4 h, 4 w): borders voted on again at the finest level."""
        n, h, w = len(masks), keys.rows, keys.columns
        maps = masks.view(n, h, w, 2, 2).transpose(2, 3).reshape(n, 2 * h, 2 * w)
        finest = to_cells(F.interpolate(maps[None], scale_factor=2, mode="bilinear")[0]).view(n, -1, 4)
        border = self._border(maps).view(h, 2, w, 2).transpose(1, 2).reshape(-1, 4)  # (L, 4)
        at = positions(border[rows].flatten())
        if len(at):
            cell = children(rows[:, None]).flatten()[at]
            parents = voters.flatten(0, 1)[at]  # (B, K)
            query = keys.finest.index_select(0, cell).view(len(at), 4, -1)
            candidates = gather_entries([entry.keys[2] for entry in memory.entries], parents)
            affinity = query @ candidates.view(len(at), -1, query.shape[2]).transpose(1, 2)  # (B, 4, 4 K)
            temperature = self.config.temperature_finest
            votes = memory.labels_finest(*strongest(affinity, children(parents), self.config.top_k, temperature))
            finest[:, cell] = votes * gain[..., None]
        return to_maps(finest.flatten(1).clamp(0, 1), h, w)

    def _border(self, maps: Tensor) -> Tensor:
        """(2 h, 2 w) bool: where any of (N, 2 h, 2 w) probabilities is undecided or changes sides within a cell."""
        high, low = F.max_pool2d(maps, 3, 1, 1), -F.max_pool2d(-maps, 3, 1, 1)
        return ((high > self.config.border) & (low < 1 - self.config.border)).any(0)


def refiner_features(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """What the refiner sees of a frame that label propagation encoded: (C, h, w) at strides 2, 4 and 8."""
    half, quarter = features.levels
    return half, quarter, features.keys


def as_reading(ids: tuple[int, ...], masks: Tensor) -> Reading:
    """One owner per cell of (N, h, w) probabilities; a score is the mean probability of the cells an object owns."""
    shares = soft_aggregate(masks)
    owned = shares[1:] == shares.amax(0)
    area = owned.sum((1, 2))
    scores = (masks * owned).sum((1, 2)) / area.clamp(min=1)
    shares[1:] *= (area > 0)[:, None, None]  # who owns no cell owns no pixel either
    return Reading(ids, shares, masks, scores.float())


def _as_value(mask: Tensor) -> Tensor:
    """(h, w) mask, or (V, h, w) versions of it -> (4 L, 4 V) float16."""
    cells = to_cells(mask[None] if mask.dim() == 2 else mask).half()  # (V, 16 L)
    return cells.view(len(cells), -1, 4).transpose(0, 1).flatten(1)


def _fits(entry: Entry) -> bool:
    """Whether the tensors have as many rows as the quadtree of the entry's cells, and columns for the finest."""
    levels = [len(k) // entry.cells for k in entry.keys] == [1, 1, 4]
    return (
        levels
        and entry.cells % 4 == 0
        and all(v.shape[0] == 4 * entry.cells and v.shape[1] in (4, 8) for v in entry.values.values())
    )


def principal_components(samples: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean (C,) and basis (C, channels) of (M, C) samples; signs are fixed, so that the result is reproducible."""
    mean = samples.mean(0)
    covariance = (samples - mean).T @ (samples - mean) / len(samples)
    basis = torch.linalg.eigh(covariance.cpu().double()).eigenvectors[:, -channels:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    return mean, basis.to(samples).contiguous()  # as it comes back from a file: another layout rounds otherwise


def project(samples: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """(M, C) samples about ``mean`` in ``basis`` (C, channels), every row L2-normalised."""
    return F.normalize(torch.addmm(-(mean @ basis), samples, basis), dim=1)


def encoded_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Size near ``pixels`` with the aspect of (height, width), sides multiples of 32; at most twice the source."""
    scale = min(2.0, (pixels / (height * width)) ** 0.5)
    return max(32, round(height * scale / 32) * 32), max(32, round(width * scale / 32) * 32)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on processors with matrix units for it, float16 on CUDA, else float32."""
    if device.type == "cuda":
        return torch.float16
    amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if amx else torch.float32
