"""The learned dense reader behind the interface of `trackers.dense`, and a tracker with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import Tensor

from seem_core.errors import InputError
from seem_core.reader import MULTIPLE, FrameFeatures, FrameValues, Memory, probabilities
from seem_core.reader import DenseReader as ReaderNet
from seem_core.reader_weights import load_reader
from trackers.base import Image
from trackers.dense import Reading
from trackers.gate import Gate
from trackers.memory_bank import Entry, MemoryBank, Previous
from trackers.propagate import DenseTracker


@dataclass(frozen=True)
class LearnedConfig:
    """Numbers of the reader.

    pixels  area of the encoded image; the source is resized to about that, sides multiples of 16
    every   one frame in so many goes into recent memory; the frame just before is read besides
    top_k   cells that vote per cell in the global matching; 0 = all
    """

    pixels: int = 480 * 864
    every: int = 5
    top_k: int = 32


@dataclass(frozen=True, eq=False)
class LearnedView:
    """One encoded frame; masks live at stride 2 of it."""

    features: FrameFeatures

    @property
    def height(self) -> int:
        return self.features.stride2.shape[-2]

    @property
    def width(self) -> int:
        return self.features.stride2.shape[-1]

    @property
    def cells(self) -> tuple[int, int]:
        """Grid of the keys, stride 16."""
        return self.features.key.shape[-2], self.features.key.shape[-1]


class LearnedReader:
    """A trained `seem_core.reader.DenseReader` as the dense part of a tracker.

    An object's score is the product of what the net says of its presence and of its mask's IoU. Beside the entries of
    the bank it reads the frame just before, which it keeps in the bank's slot for that.

    weights  file of `seem_core.reader_weights`
    net      a net to use instead of a file
    Raises InputError where neither is given.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        net: ReaderNet | None = None,
        device: str | torch.device = "cpu",
        config: LearnedConfig | None = None,
    ) -> None:
        self.config = config or LearnedConfig()
        self._device = torch.device(device)
        if net is None:
            if weights is None:
                raise InputError("no reader ships with the package; train one (docs/gpu.md) and give its weights file")
            net = load_reader(weights)
        self._net = net.eval()
        self._net.to(self._device)
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._name = ""

    @property
    def name(self) -> str:
        if not self._name:
            digest = hashlib.sha256()
            for key, tensor in sorted(self._net.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
            self._name = f"dense-reader {digest.hexdigest()[:12]}"
        return self._name

    @property
    def device(self) -> torch.device:
        return self._device

    def encode(self, image: Image) -> FrameFeatures:
        height, width = image.shape[:2]
        scale = (self.config.pixels / (height * width)) ** 0.5
        size = (_side(width * scale), _side(height * scale))
        method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_LINEAR
        x = torch.from_numpy(cv2.resize(image, size, interpolation=method)).to(self._device)
        with torch.inference_mode(), self._autocast():
            return self._net.encode(x.permute(2, 0, 1)[None].float())  # (1, 3, H, W), channels_last in memory

    def look(self, features: FrameFeatures, bank: MemoryBank) -> LearnedView:
        return LearnedView(features)

    @torch.inference_mode()
    def read(self, view: LearnedView, bank: MemoryBank) -> Reading:
        """Read every known object; those that are remembered from the same frames together."""
        ids = bank.ids
        logits = torch.zeros(len(ids), view.height, view.width, device=self._device)
        scores = torch.zeros(len(ids), device=self._device)
        for entries, some in groups(bank):
            with self._autocast():
                previous = self._previous(view, bank, some)
                memory = self._memory(entries, bank, some)
                found = self._net.read(view.features, memory, previous, self.config.top_k)
            rows = torch.tensor([ids.index(i) for i in some], device=self._device)
            logits[rows] = found.logits[0].float()
            scores[rows] = found.presence[0].float().sigmoid() * found.quality[0].float().sigmoid()
        maps = torch.cat([torch.zeros_like(logits[:1]), logits])  # the background's logit is 0
        return Reading(ids, maps, probabilities(logits[None])[0], scores)

    @torch.inference_mode()
    def write(
        self,
        view: LearnedView,
        bank: MemoryBank,
        frame: int,
        masks: Mapping[int, Tensor],
        *,
        pinned: Set[int] = frozenset(),
        doubtful: Set[int] = frozenset(),
    ) -> None:
        if not masks:
            return
        values = self._values(view.features, list(masks.values()))
        rows = {i: n for n, i in enumerate(masks)}
        kept = [i for i in masks if i in pinned]
        if kept:
            bank.write(_entry(view, values, frame, rows, kept, pinned=True))
        if frame < 0:
            return
        good = [i for i in masks if i not in pinned and i not in doubtful]
        if good and frame % self.config.every == 0:
            bank.write(_entry(view, values, frame, rows, good, pinned=False))
        own = {i: (values.value[0, n].T, values.local_value[0, n], values.mask[0, n]) for i, n in rows.items()}
        keys = (_own(values.key[0].T), _own(values.local_key[0]))
        bank.keep_previous(Previous(frame, keys, {i: tuple(map(_own, tensors)) for i, tensors in own.items()}))

    def adopt(self, bank: MemoryBank) -> None:
        """See `trackers.dense.DenseReader.adopt`."""
        key, value = self._net.config.key, self._net.config.value + 1
        for entry in bank.dense:
            shapes = [k.shape for k in entry.keys], [v.shape for v in entry.values.values()]
            if shapes != ([(entry.cells, key)], [(entry.cells, value)] * len(entry.values)):
                raise InputError("the memory holds keys or values of other sizes than the reader's; save it again")
        bank.to(self._device, None if self._mixes_precisions else torch.float32)

    def _autocast(self) -> torch.autocast:
        """bfloat16 where matrix units take it."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixes_precisions)

    @property
    def _mixes_precisions(self) -> bool:
        return self._device.type == "cuda" or torch.cpu._is_amx_tile_supported()

    def _values(self, features: FrameFeatures, masks: Sequence[Tensor]) -> FrameValues:
        with self._autocast():
            return self._net.write(features, torch.stack([m.to(self._device) for m in masks])[None])

    def _memory(self, entries: Sequence[Entry], bank: MemoryBank, ids: Sequence[int]) -> Memory:
        """Memory of the objects ``ids``: the entries, and the frame before where it is not among them."""
        keys = [e.keys[0] for e in entries]
        stored = [torch.stack([e.values[i] for i in ids]) for e in entries]  # (N, L, Cv + 1)
        before = bank.previous
        if (
            before is not None
            and all(i in before.values for i in ids)
            and all(e.frame != before.frame for e in entries)
        ):
            keys.append(before.keys[0])
            stored.append(torch.stack([before.values[i][0] for i in ids]))
        summary = torch.stack([_summary(v) for v in stored]).mean(0)[None]
        return Memory(torch.cat(keys).T[None], torch.cat(stored, 1).transpose(1, 2)[None], summary)

    def _previous(self, view: LearnedView, bank: MemoryBank, ids: Sequence[int]) -> FrameValues:
        """The frame before; for objects that it does not know, this frame without them."""
        before = bank.previous
        if before is None or not all(i in before.values for i in ids):
            nothing = torch.zeros(view.height, view.width, device=self._device)
            return self._values(view.features, [nothing] * len(ids))
        value, local, mask = (torch.stack(t)[None] for t in zip(*(before.values[i] for i in ids), strict=True))
        key, local_key = before.keys
        value = value.transpose(2, 3)  # (1, N, Cv + 1, L)
        return FrameValues(key.T[None], value, _summary(value[0].transpose(1, 2))[None], local_key[None], local, mask)


class LearnedTracker(DenseTracker):
    """A dense tracker with a `LearnedReader`; poor masks are not remembered.

    weights, net, device, config  of `LearnedReader`
    options                       of `DenseTracker`
    """

    name = "learned"

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        net: ReaderNet | None = None,
        device: str = "cpu",
        config: LearnedConfig | None = None,
        max_recent: int = 3,
        gate: Gate | None = None,
        **options: Any,
    ) -> None:
        reader = LearnedReader(weights, net=net, device=device, config=config)
        super().__init__(reader, max_recent=max_recent, gate=gate or Gate(min_score=0.3), **options)


def groups(bank: MemoryBank) -> Iterator[tuple[tuple[Entry, ...], list[int]]]:
    """The objects of a bank by where they are known: entries, and the objects that all of these know."""
    entries = bank.dense
    before = bank.previous.values if bank.previous else {}
    found: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for i in bank.ids:
        where = tuple(k for k, e in enumerate(entries) if i in e.values)
        found.setdefault((where, i in before), []).append(i)
    for (where, _), ids in found.items():
        yield tuple(entries[k] for k in where), ids


def _entry(
    view: LearnedView, values: FrameValues, frame: int, rows: Mapping[int, int], ids: Sequence[int], *, pinned: bool
) -> Entry:
    stored = {i: _own(values.value[0, rows[i]].T) for i in ids}  # (L, Cv + 1)
    return Entry(frame, (_own(values.key[0].T),), stored, pinned=pinned, grid=view.cells)


def _own(tensor: Tensor) -> Tensor:
    """A copy that keeps nothing else alive."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _summary(value: Tensor) -> Tensor:
    """(N, L, Cv + 1) stored values -> (N, 2 Cv), mean inside and outside the mask (the last channel)."""
    flat, inside = value[:, :, :-1], value[:, :, -1:]
    return torch.cat([(flat * w).sum(1) / w.sum(1).clamp(min=1.0) for w in (inside, 1 - inside)], 1)


def _side(pixels: float) -> int:
    return max(2 * MULTIPLE, round(pixels / MULTIPLE) * MULTIPLE)
