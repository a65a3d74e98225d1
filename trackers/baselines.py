"""Two baselines that any real tracker must beat: repeat the last given mask, or move it along optical flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import PromptError, VideoError
from seem_core.grabcut import masks_from_prompts
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt
from trackers.base import Image, Labels, ObjectMasks, Traits

Mask = npt.NDArray[np.bool_]
Soft = npt.NDArray[np.float32]

BY_COLOUR: frozenset[type[Prompt]] = frozenset({MaskPrompt, PointPrompt, BoxPrompt, ScribblePrompt, PolygonPrompt})

_MAX_BYTE_ID = 255
_GREY_LEVELS = 32  # difference to the warped previous frame at which a pixel counts 1/e
_INSIDE = 0.5  # a pixel belongs to an object from this soft value on


class CopyTracker:
    """Repeats the masks that were given last: what a score is worth when nothing is tracked at all.

    State is one label map, whatever the number of objects. The score of an object that has pixels is 1, of one that
    has none 0.
    """

    name = "copy"
    traits = Traits(returns_first_mask=True, refinds=False, uses_memory=False)
    prompt_kinds = BY_COLOUR

    def __init__(self) -> None:
        self._ids: tuple[int, ...] = ()
        self._labels: Labels | None = None  # (H, W)

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """The label map as it was last prompted; see `trackers.base.Tracker.step`. Raises PromptError, MaskError."""
        labels = _empty(image.shape[:2], self._ids) if self._labels is None else self._labels
        _check_size(labels.shape, image.shape[:2])
        if prompts:
            given = masks_from_prompts(image, prompts, previous=_named_masks(labels, self._ids, prompts))
            self._ids = _merged_ids(self._ids, given)
            labels = _place(labels, given, self._ids)
        if self._ids:
            self._labels = labels
        lost = np.array([not (labels == i).any() for i in self._ids], dtype=np.bool_)
        return ObjectMasks(self._ids, labels.copy(), (~lost).astype(np.float32), lost)

    def forget(self, object_id: int) -> None:
        """Drop an object. Raises PromptError if it is not known."""
        position = _position(self._ids, object_id)
        self._ids = self._ids[:position] + self._ids[position + 1 :]
        if self._labels is not None:
            self._labels[self._labels == object_id] = 0

    def state_dict(self) -> dict[str, Any]:
        return {"ids": list(self._ids), "labels": None if self._labels is None else self._labels.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ids = tuple(int(i) for i in state["ids"])
        self._labels = None if state["labels"] is None else np.array(state["labels"])


class FlowTracker:
    """Moves each object's soft mask along dense optical flow from frame to frame (DIS, Kroeger et al., ECCV 2016).

    Flow and soft masks live at a working size (``short_side`` pixels at most), label maps at source size are made one
    object at a time, so that memory at source size does not grow with the number of objects. The score of an object
    is the mean over its pixels of its soft mask times how well the warped previous frame agrees with this one there:
    it drops at cuts and occlusions, where there is nothing to follow.

    The soft values are sharpened after every warp (``gain``): repeated interpolation would otherwise blur thin
    objects away within a few dozen frames.
    """

    name = "flow"
    traits = Traits(returns_first_mask=True, refinds=False, uses_memory=False)
    prompt_kinds = BY_COLOUR

    def __init__(self, *, short_side: int = 480, gain: float = 1.5) -> None:
        if short_side < 16:
            raise ValueError(f"short_side is at least 16, not {short_side}")
        if gain < 1:
            raise ValueError(f"gain is at least 1, not {gain}")
        self._short_side = short_side
        self._gain = gain
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._ids: tuple[int, ...] = ()
        self._soft: Soft = np.zeros((0, 0, 0), np.float32)  # (N, h, w), 0..1
        self._grey: npt.NDArray[np.uint8] | None = None  # (h, w), the previous frame
        self._size: tuple[int, int] | None = None  # (H, W) of the video

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Warp every mask into this frame, then apply prompts; see `trackers.base.Tracker.step`."""
        shape = (image.shape[0], image.shape[1])
        _check_size(self._size or shape, shape)
        if not self._ids and not prompts:
            return ObjectMasks((), _empty(shape, ()), np.zeros(0, np.float32), np.zeros(0, np.bool_))
        grey = self._working_grey(image)
        agreement = np.ones(grey.shape, np.float32)
        if self._ids and self._grey is not None:
            agreement = self._warp(self._grey, grey)
        labels = self._labels(shape)
        given: dict[int, Mask] = {}
        if prompts:
            given = masks_from_prompts(image, prompts, previous=_named_masks(labels, self._ids, prompts))
            self._adopt(given, grey.shape)
            labels = _place(labels, given, self._ids)
        self._grey, self._size = grey, shape
        scores = np.array(
            [
                _mean_inside(soft, np.ones_like(soft) if i in given else agreement)
                for i, soft in zip(self._ids, self._soft, strict=True)
            ],
            dtype=np.float32,
        )
        lost = np.array([not (labels == i).any() for i in self._ids], dtype=np.bool_)
        return ObjectMasks(self._ids, labels, np.where(lost, np.float32(0), scores), lost)

    def forget(self, object_id: int) -> None:
        """Drop an object. Raises PromptError if it is not known."""
        position = _position(self._ids, object_id)
        self._ids = self._ids[:position] + self._ids[position + 1 :]
        self._soft = np.delete(self._soft, position, axis=0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "ids": list(self._ids),
            "soft": self._soft.copy(),
            "grey": None if self._grey is None else self._grey.copy(),
            "size": None if self._size is None else list(self._size),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ids = tuple(int(i) for i in state["ids"])
        self._soft = np.array(state["soft"], dtype=np.float32)
        self._grey = None if state["grey"] is None else np.array(state["grey"], dtype=np.uint8)
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))

    def _working_grey(self, image: Image) -> npt.NDArray[np.uint8]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # (H, W)
        scale = min(1.0, self._short_side / min(grey.shape))
        if scale < 1.0:
            size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        if min(grey.shape) < 16:  # the flow needs a few patches of 8 pixels each way
            grey = cv2.copyMakeBorder(grey, 0, max(0, 16 - grey.shape[0]), 0, max(0, 16 - grey.shape[1]), 1)
        return np.ascontiguousarray(grey, dtype=np.uint8)

    def _warp(self, before: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]) -> Soft:
        """Flow from now to before says where each pixel of now came from: the masks are sampled there.

        Returns (h, w) how well the previous frame, sampled there too, agrees with this one: 1 is exactly.
        """
        h, w = now.shape
        flow = self._flow.calc(now, before, np.zeros((h, w, 2), np.float32))  # (h, w, 2)
        x = flow[..., 0] + np.arange(w, dtype=np.float32)
        y = flow[..., 1] + np.arange(h, dtype=np.float32)[:, None]
        for soft in self._soft:
            moved = cv2.remap(soft, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            soft[...] = np.clip((moved - _INSIDE) * self._gain + _INSIDE, 0, 1)
        difference = cv2.absdiff(now, np.asarray(cv2.remap(before, x, y, cv2.INTER_LINEAR), dtype=np.uint8))
        return np.asarray(np.exp(difference.astype(np.float32) / np.float32(-_GREY_LEVELS)), dtype=np.float32)

    def _labels(self, shape: tuple[int, int]) -> Labels:
        labels = _empty(shape, self._ids)
        best = np.full(shape, _INSIDE, np.float32)
        for object_id, soft in zip(self._ids, self._soft, strict=True):
            full = self._to_source(soft, shape)
            wins = full > best
            labels[wins] = object_id
            best[wins] = full[wins]
        return labels

    def _to_source(self, soft: Soft, shape: tuple[int, int]) -> Soft:
        h, w = self._content(shape)
        return np.asarray(cv2.resize(soft[:h, :w], shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)

    def _content(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the working frame that hold picture (tiny pictures are padded)."""
        scale = min(1.0, self._short_side / min(shape))
        return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))

    def _adopt(self, given: Mapping[int, Mask], working: tuple[int, int]) -> None:
        """Given masks replace an object's soft mask and take their pixels from objects that were not prompted."""
        ids = _merged_ids(self._ids, given)
        soft = np.zeros((len(ids), *working), np.float32)  # (N, h, w)
        for object_id, old in zip(self._ids, self._soft, strict=True):
            soft[ids.index(object_id)] = old
        for object_id, mask in given.items():
            h, w = self._content(mask.shape)
            small = cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            for i, other in enumerate(ids):
                if other not in given:
                    soft[i, :h, :w] *= 1 - small
            soft[ids.index(object_id)] = 0
            soft[ids.index(object_id), :h, :w] = small
        self._ids, self._soft = ids, soft


def _empty(shape: tuple[int, ...], ids: tuple[int, ...]) -> Labels:
    if ids and ids[-1] > _MAX_BYTE_ID:
        return np.zeros(shape[:2], np.uint16)
    return np.zeros(shape[:2], np.uint8)


def _place(labels: Labels, given: Mapping[int, Mask], ids: tuple[int, ...]) -> Labels:
    """A new label map with the given masks in it: they beat what was there, and the first given beats the next."""
    placed = _empty(labels.shape, ids)
    placed[...] = np.where(np.isin(labels, list(given)), 0, labels)
    for object_id, mask in reversed(list(given.items())):
        placed[mask] = object_id
    return placed


def _named_masks(labels: Labels, ids: tuple[int, ...], prompts: Sequence[Prompt]) -> dict[int, Mask]:
    """Present masks of those objects that the prompts correct."""
    return {i: np.asarray(labels == i) for i in {p.object_id for p in prompts} & set(ids)}


def _merged_ids(ids: tuple[int, ...], given: Mapping[int, Mask]) -> tuple[int, ...]:
    return tuple(sorted({*ids, *given}))


def _position(ids: tuple[int, ...], object_id: int) -> int:
    if object_id not in ids:
        raise PromptError(f"object {object_id} is not being tracked; known objects: {list(ids)}")
    return ids.index(object_id)


def _check_size(known: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if known[:2] != shape[:2]:
        raise VideoError(f"a frame is {shape[1]}x{shape[0]}, the frames before {known[1]}x{known[0]}; sizes must agree")


def _mean_inside(soft: Soft, agreement: Soft) -> float:
    inside = soft > _INSIDE
    return float((soft[inside] * agreement[inside]).mean()) if inside.any() else 0.0
