"""The `lite` tracker: a learned dense reader carries masks from frame to frame.

Per frame: encode, read memory (pinned frames, every few recent frames, and the previous frame), decode, write. All
objects are read from one encoding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import CheckpointError, MaskError, PromptError, VideoError
from seem_core.prompts import MaskPrompt, Prompt
from seem_core.reader import MULTIPLE, DenseReader, FrameFeatures, FrameValues, Memory, probabilities
from seem_core.reader_weights import load_reader
from trackers.base import Image, ObjectMasks, Traits
from trackers.borders import label_map
from trackers.memory_bank import MEGABYTE, Entry, MemoryBank
from trackers.propagate import disjoint, impose, no_objects

Mask = npt.NDArray[np.bool_]
SHIPPED_WEIGHTS = "weights/lite_reader.safetensors"  # in seem_core


def shipped_weights() -> Path:
    """The weights that come with the package. Raises CheckpointError if they do not."""
    import seem_core

    path = Path(seem_core.__file__).parent / SHIPPED_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; train a reader (docs/gpu.md) and give its weights file")
    return path


@dataclass(frozen=True)
class LearnedConfig:
    """Numbers of the tracker.

    pixels       area of the encoded image; the source is resized to about that, sides multiples of 16
    every        one frame in so many goes into the bank of recent frames
    max_recent   most recent frames in the bank (the previous frame is read besides)
    top_k        cells that vote per cell in the global matching; 0 = all
    min_quality  a frame on which an object's expected IoU is lower is not remembered for it
    max_bytes    bound of the bank
    """

    pixels: int = 480 * 864
    every: int = 5
    max_recent: int = 3
    top_k: int = 32
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
    """Follows objects with a learned `DenseReader`.

    An object's score is the product of what the reader says of its presence and of its mask's IoU; it is lost where
    it owns no pixel.

    weights  file of `seem_core.reader_weights`, by default the one that comes with the package
    reader   a reader to use instead of a file
    """

    name = "lite"
    traits = Traits(returns_first_mask=True, refinds=True, uses_memory=True)

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        reader: DenseReader | None = None,
        device: str = "cpu",
        config: LearnedConfig | None = None,
    ) -> None:
        self.config = config or LearnedConfig()
        self._device = torch.device(device)
        self._reader = reader.eval() if reader is not None else load_reader(weights or shipped_weights())
        self._reader.to(self._device)
        self._reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._bank = MemoryBank(self.config.max_recent, self.config.max_bytes)
        self._previous: tuple[int, tuple[int, ...], FrameValues] | None = None  # frame, ids, values
        self._ids: tuple[int, ...] = ()
        self._frame = 0
        self._size: tuple[int, int] | None = None  # (height, width) of the video

    @property
    def memory(self) -> MemoryBank:
        return self._bank

    @torch.inference_mode()
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame; see `trackers.base.Tracker.step`.

        Raises PromptError and MaskError as stated there, VideoError for a frame of another size than the others,
        LimitError when the prompted frames alone no longer fit into the memory bank.
        """
        if self._size not in (None, image.shape[:2]):
            raise VideoError(f"a frame is {image.shape[:2]}, the ones before {self._size}; track it as another video")
        self._size = (image.shape[0], image.shape[1])
        if not self._ids and not prompts:
            self._frame += 1
            return no_objects(image)
        with self._autocast():
            features = self._encode(image)
            read = self._read(features)
        found = _masks(read, image)
        given = self._given(image, prompts, found) if prompts else {}
        found = impose(found, given)
        with self._autocast():
            self._write(features, found.ids, read, given)
        self._ids = found.ids
        self._frame += 1
        return found

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
        return {
            "frame": self._frame,
            "size": None if self._size is None else list(self._size),
            "ids": list(self._ids),
            "bank": self._bank.state_dict(),
            "previous": previous,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))
        self._ids = tuple(int(i) for i in state["ids"])
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
            reading = self._reader.read(features, memory, previous, self.config.top_k)
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

    def _write(self, features: FrameFeatures, ids: tuple[int, ...], read: _Found, given: dict[int, Mask]) -> None:
        """Prompted masks are pinned; of the others, every so many frames, those that are likely right are recent."""
        h, w = features.stride2.shape[-2:]
        shares = {}
        if read.ids:
            shares = dict(zip(read.ids, probabilities(read.logits[None])[0], strict=True))
        for object_id, mask in disjoint(given).items():
            cells = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            shares[object_id] = torch.from_numpy(cells).to(self._device)
        for object_id in set(shares) - set(given):  # a given mask owns its pixels
            for other in given:
                shares[object_id] = shares[object_id] * (1 - shares[other])
        values = self._reader.write(features, torch.stack([shares[i] for i in ids])[None])
        if given:
            self._bank.write(self._entry(values, ids, list(given), pinned=True))
        if self._frame % self.config.every == 0:
            likely = dict(zip(read.ids, (read.quality >= self.config.min_quality).tolist(), strict=True))
            good = [i for i in ids if i not in given and likely[i]]
            if good:
                self._bank.write(self._entry(values, ids, good, pinned=False))
        self._previous = (self._frame, ids, values)

    def _entry(self, values: FrameValues, ids: tuple[int, ...], chosen: Sequence[int], pinned: bool) -> Entry:
        stored = {i: values.value[0, ids.index(i)].clone() for i in chosen}
        return Entry(self._frame, (values.key.clone(),), stored, pinned)

    def _given(self, image: Image, prompts: Sequence[Prompt], found: ObjectMasks) -> dict[int, Mask]:
        """Object id -> (H, W) mask of every prompted object."""
        given = {p.object_id: p.mask for p in prompts if isinstance(p, MaskPrompt)}
        if not all(isinstance(p, MaskPrompt) for p in prompts):
            from seem_core.grabcut import masks_from_prompts

            given = masks_from_prompts(image, prompts, {i: found.mask(i) for i in found.ids} or None)
        for object_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise MaskError(
                    f"the mask of object {object_id} is {mask.shape[1]}x{mask.shape[0]}, the frame"
                    f" {image.shape[1]}x{image.shape[0]}; give a mask of the frame's size"
                )
            if not mask.any():
                raise PromptError(f"the mask of object {object_id} is empty; mark at least one pixel")
        return given


def _masks(found: _Found, image: Image) -> ObjectMasks:
    if not found.ids:
        return no_objects(image)
    maps = torch.cat([torch.zeros_like(found.logits[:1]), found.logits])  # the background's logit is 0
    labels = label_map(maps.float().cpu().numpy(), found.ids, image.shape[0], image.shape[1])
    there = np.isin(np.array(found.ids), np.unique(labels))
    scores = (found.presence * found.quality).cpu().numpy().astype(np.float32)
    return ObjectMasks(found.ids, labels, scores, ~there)


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
