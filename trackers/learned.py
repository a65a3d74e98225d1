"""The `lite` tracker: a learned dense reader carries masks from frame to frame.

Per frame: encode, read memory (pinned frames, every few recent frames, and the previous frame), decode, write. All
objects are read from one encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import MaskPrompt, Prompt
from seem_core.reader import MULTIPLE, DenseReader, FrameFeatures, FrameValues, Memory, probabilities
from trackers.base import Image, Labels, ObjectMasks, Traits
from trackers.borders import label_dtype, label_map
from trackers.memory_bank import MEGABYTE, Entry, MemoryBank

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LearnedConfig:
    """Numbers of the tracker.

    pixels       area of the encoded image; the source is resized to about that, sides multiples of 16
    every        one frame in so many goes into the bank of recent frames
    max_recent   most recent frames in the bank (the previous frame is read besides)
    min_quality  a frame on which an object's expected IoU is lower is not remembered for it
    max_bytes    bound of the bank
    """

    pixels: int = 480 * 864
    every: int = 5
    max_recent: int = 3
    min_quality: float = 0.3
    max_bytes: int = 512 * MEGABYTE


@dataclass(frozen=True, eq=False)
class _Found:
    """What was read on one frame, for objects in ascending order of id: logits (N, h, w) at stride 2 of the encoded
    image, presence and quality (N,) in 0..1."""

    ids: tuple[int, ...]
    logits: Tensor
    presence: Tensor
    quality: Tensor


class LearnedTracker:
    """Follows objects with a `DenseReader`."""

    name = "lite"
    traits = Traits(returns_first_mask=True, refinds=True, uses_memory=True)

    def __init__(self, reader: DenseReader, config: LearnedConfig | None = None) -> None:
        self.config = config or LearnedConfig()
        self._reader = reader.eval()
        self._device = next(reader.parameters()).device
        self._reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._bank = MemoryBank(self.config.max_recent, self.config.max_bytes)
        self._previous: tuple[int, tuple[int, ...], FrameValues] | None = None  # frame, ids, values
        self._ids: tuple[int, ...] = ()
        self._frame = 0

    @property
    def memory(self) -> MemoryBank:
        return self._bank

    @torch.inference_mode()
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        frame, self._frame = self._frame, self._frame + 1
        if not self._ids and not prompts:
            return ObjectMasks((), np.zeros(image.shape[:2], np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))
        with self._autocast():
            features = self._encode(image)
            found = self._read(features)
        masks = _masks(found, image.shape[0], image.shape[1])
        given = self._given(image, prompts, masks)
        if given:
            masks = _impose(masks, given)
            self._ids = masks.ids
        with self._autocast():
            self._write(features, frame, found, given)
        return masks

    def forget(self, object_id: int) -> None:
        if object_id not in self._ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self._ids)}")
        self._ids = tuple(i for i in self._ids if i != object_id)
        self._bank.forget(object_id)
        if self._previous is not None:
            frame, ids, values = self._previous
            kept = [n for n, i in enumerate(ids) if i != object_id]
            self._previous = (frame, self._ids, _objects(values, kept)) if kept else None

    def state_dict(self) -> dict[str, Any]:
        previous = None
        if self._previous is not None:
            frame, ids, values = self._previous
            previous = {"frame": frame, "ids": list(ids), "values": dict(vars(values))}
        return {"frame": self._frame, "ids": list(self._ids), "bank": self._bank.state_dict(), "previous": previous}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._ids = tuple(state["ids"])
        self._bank.load_state_dict(state["bank"], self._device)
        self._previous = None
        if state["previous"] is not None:
            values = FrameValues(**{k: v.to(self._device) for k, v in state["previous"]["values"].items()})
            self._previous = (int(state["previous"]["frame"]), tuple(state["previous"]["ids"]), values)

    def _autocast(self) -> torch.autocast:
        """bfloat16 where matrix units take it."""
        fast = self._device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        return torch.autocast(self._device.type, torch.bfloat16, enabled=fast)

    def _encode(self, image: Image) -> FrameFeatures:
        height, width = image.shape[:2]
        scale = (self.config.pixels / (height * width)) ** 0.5
        size = (_side(width * scale), _side(height * scale))
        method = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_LINEAR
        x = torch.from_numpy(cv2.resize(image, size, interpolation=method)).to(self._device)
        return self._reader.encode(x.permute(2, 0, 1)[None].float())  # (1, 3, H, W), channels_last in memory

    def _read(self, features: FrameFeatures) -> _Found:
        """Read every known object; those that are remembered from the same frames together."""
        h, w = features.stride2.shape[-2:]
        found = _Found(self._ids, *(torch.zeros(len(self._ids), *s, device=self._device) for s in ((h, w), (), ())))
        for entries, ids in self._groups():
            memory, previous = self._memory(entries, ids)
            reading = self._reader.read(features, memory, previous)
            rows = torch.tensor([self._ids.index(i) for i in ids], device=self._device)
            found.logits[rows] = reading.logits[0].float()
            found.presence[rows] = reading.presence[0].float().sigmoid()
            found.quality[rows] = reading.quality[0].float().sigmoid()
        return found

    def _groups(self) -> Iterable[tuple[tuple[Entry, ...], list[int]]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        entries = self._bank.entries
        for i in self._ids:
            groups.setdefault(tuple(k for k, e in enumerate(entries) if i in e.values), []).append(i)
        for places, ids in groups.items():
            yield tuple(entries[k] for k in places), ids

    def _memory(self, entries: Sequence[Entry], ids: Sequence[int]) -> tuple[Memory, FrameValues]:
        """Memory of the objects ``ids``, and the previous frame."""
        if self._previous is None:
            raise RuntimeError("objects are known, but no previous frame is")
        frame, known, values = self._previous
        previous = _objects(values, [known.index(i) for i in ids])
        keys = [e.keys[0] for e in entries]
        stored = [torch.stack([e.values[i] for i in ids])[None] for e in entries]  # (1, N, Cv + 1, L)
        if not any(e.frame == frame for e in entries):
            keys.append(previous.key)
            stored.append(previous.value)
        summary = torch.stack([_summary(v) for v in stored]).mean(0)
        return Memory(torch.cat(keys, 2), torch.cat(stored, 3), summary), previous

    def _write(self, features: FrameFeatures, frame: int, found: _Found, given: Mapping[int, Mask]) -> None:
        h, w = features.stride2.shape[-2:]
        soft = probabilities(found.logits[None])[0] if found.ids else found.logits
        shares = dict(zip(found.ids, soft, strict=True))
        for object_id, mask in given.items():
            cells = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            shares[object_id] = torch.from_numpy(cells).to(self._device)
        for object_id in shares:  # a given mask owns its pixels
            if object_id not in given:
                for other in given:
                    shares[object_id] = shares[object_id] * (1 - shares[other])
        values = self._reader.write(features, torch.stack([shares[i] for i in self._ids])[None])
        self._previous = (frame, self._ids, values)
        if given:
            self._bank.write(self._entry(frame, values, list(given), pinned=True))
        quality = dict(zip(found.ids, found.quality.tolist(), strict=True))
        if frame % self.config.every == 0:
            good = [i for i in self._ids if i not in given and quality[i] >= self.config.min_quality]
            if good:
                self._bank.write(self._entry(frame, values, good, pinned=False))

    def _entry(self, frame: int, values: FrameValues, ids: Sequence[int], pinned: bool) -> Entry:
        stored = {i: values.value[0, self._ids.index(i)].clone() for i in ids}
        return Entry(frame, (values.key.clone(),), stored, pinned)

    def _given(self, image: Image, prompts: Sequence[Prompt], found: ObjectMasks) -> dict[int, Mask]:
        """Object id -> (H, W) mask of every prompted object; where prompts overlap, the later one has the pixel."""
        given = {p.object_id: p.mask for p in prompts if isinstance(p, MaskPrompt)}
        others = [p for p in prompts if not isinstance(p, MaskPrompt)]
        if others:
            from seem_core.grabcut import masks_from_prompts

            given |= masks_from_prompts(image, others, {i: found.mask(i) for i in found.ids} or None)
        for object_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise MaskError(f"the mask of object {object_id} is {mask.shape}, the image {image.shape[:2]}")
            if not mask.any():
                raise PromptError(f"the mask of object {object_id} is empty")
        return given


def _masks(found: _Found, height: int, width: int) -> ObjectMasks:
    if not found.ids:
        return ObjectMasks((), np.zeros((height, width), np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))
    maps = torch.cat([torch.zeros_like(found.logits[:1]), found.logits])  # the background's logit is 0
    labels = label_map(maps.float().cpu().numpy(), found.ids, height, width)
    there = np.isin(np.array(found.ids), np.unique(labels))
    scores = (found.presence * found.quality).cpu().numpy().astype(np.float32)
    return ObjectMasks(found.ids, labels, scores, ~there)


def _impose(masks: ObjectMasks, given: Mapping[int, Mask]) -> ObjectMasks:
    """``masks`` with the given ones in place."""
    ids = tuple(sorted({*masks.ids, *given}))
    labels: Labels = masks.labels.astype(label_dtype(ids), copy=True)  # type: ignore[assignment]
    for object_id, mask in given.items():
        labels[(labels == object_id) & ~mask] = 0
        labels[mask] = object_id
    scores = dict(zip(masks.ids, masks.scores, strict=True)) | dict.fromkeys(given, np.float32(1))
    there = np.isin(np.array(ids), np.unique(labels))
    return ObjectMasks(ids, labels, np.array([scores[i] for i in ids], np.float32), ~there)


def _objects(values: FrameValues, rows: list[int]) -> FrameValues:
    """The same frame with some of its objects."""
    if rows == list(range(values.value.shape[1])):
        return values
    return FrameValues(
        values.key, values.value[:, rows], values.summary[:, rows],
        values.local_key, values.local_value[:, rows], values.mask[:, rows],
    )  # fmt: skip


def _summary(value: Tensor) -> Tensor:
    """(1, N, Cv + 1, L) stored values -> (1, N, 2 Cv), mean inside and outside the mask (the last channel)."""
    flat, inside = value[:, :, :-1], value[:, :, -1:]
    return torch.cat([(flat * w).sum(3) / w.sum(3).clamp(min=1.0) for w in (inside, 1 - inside)], 2)


def _side(pixels: float) -> int:
    return max(2 * MULTIPLE, round(pixels / MULTIPLE) * MULTIPLE)
