"""A tracker over a `DenseReader`: encode, look, read, decide, write; and `propagate`, which needs no training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import PromptError, VideoError, VosError
from seem_core.prompts import Prompt, ReferencePrompt
from seem_core.segmenter_types import Segmenter
from trackers.base import Image, Labels, ObjectMasks, Traits
from trackers.borders import empty_labels, label_map
from trackers.dense import DenseReader, Reading, View, shrink_mask
from trackers.gate import Gate, Observation, is_doubtful
from trackers.memory_bank import MEGABYTE, LongTerm, MemoryBank
from trackers.prompting import given_masks, usable_kinds
from trackers.propagation import LabelPropagation, PropagationConfig

Mask = npt.NDArray[np.bool_]
ELSEWHERE = -1  # frame of what other pictures show
MANY = 32  # objects
SPAN = 64  # frames back that memory reaches
AREAS = 15  # frames of which the usual area of an object is the median


@dataclass(frozen=True, eq=False)
class Decision:
    """What a frame shows, and what of it may be remembered.

    found     the objects at source size
    masks     object id -> (h, w) soft mask on the view's grid, of the same objects
    doubtful  objects whose mask is not worth remembering
    """

    found: ObjectMasks
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    doubtful: frozenset[int] = frozenset()


class DenseTracker:
    """Follows objects by what a dense reader reads from its memory bank.

    The memory knows the objects: those that it has anything of are followed. Frames without an object are remembered
    too, as background: that is what keeps look-alikes out until it returns, and what it is recognised by then are the
    pinned frames. An object is lost where it owns no pixel.

    A subclass may replace the steps `_encode`, `_read`, `_decide`, `_given` and `_remember`.

    reader      the dense part
    segmenter   reads marks and words in prompts; without one, marks are read by colour
    max_recent  frames remembered besides the prompted ones: the last ones, and others spread over the ``span`` before
    max_bytes   bound of the memory bank; prompted frames beyond it raise LimitError
    gate        what is not worth remembering
    long_term   what is kept of frames that leave recent memory, by default nothing
    memory      where to begin: the bank of another video, or a file that one was saved to; what is pinned there is
                known from the first frame on. Raises InputError and LimitError, see `MemoryBank`
    """

    name = "dense"
    traits = Traits(returns_first_mask=True, refinds=True, uses_memory=True)

    def __init__(
        self,
        reader: DenseReader,
        *,
        segmenter: Segmenter | None = None,
        max_recent: int = 7,
        span: int = SPAN,
        max_bytes: int = 512 * MEGABYTE,
        gate: Gate | None = None,
        long_term: LongTerm | None = None,
        memory: MemoryBank | str | os.PathLike[str] | None = None,
    ) -> None:
        self.reader = reader
        self.gate = gate or Gate()
        self.segmenter = segmenter
        self.notes: tuple[str, ...] = ()
        self.class_names: dict[int, str] = {}
        self._bank = MemoryBank(max_recent, max_bytes, span=span, long_term=long_term)
        self._areas: dict[int, list[float]] = {}  # object id -> areas on its last frames, as shares of the picture
        self._frame = 0
        self._size: tuple[int, int] | None = None  # (height, width) of the video
        if memory is not None:
            self._begin_with(memory)

    @property
    def prompt_kinds(self) -> frozenset[type[Prompt]]:
        """The kinds of prompts that `step` can use."""
        return usable_kinds(self.segmenter)

    @property
    def memory(self) -> MemoryBank:
        return self._bank

    @property
    def memory_model(self) -> str:
        """Which model can read what is in memory: a saved memory is refused by any other."""
        return self.reader.name

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Write the memory to a file, for ``memory`` of another tracker. Raises OutputError."""
        self._bank.save(path, model=self.memory_model)

    @torch.inference_mode()
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame; see `trackers.base.Tracker.step`.

        Raises PromptError and MaskError as stated there, VideoError for a frame of another size than the others,
        LimitError when the prompted frames alone no longer fit into the memory bank.
        """
        if self._size not in (None, image.shape[:2]):
            raise VideoError(f"a frame is {image.shape[:2]}, the ones before {self._size}; track it as another video")
        self._size = (image.shape[0], image.shape[1])
        if not self._bank.ids and not prompts:  # not counted: where a video is begun does not change what follows
            return no_objects(image)
        held = self._bank.snapshot()
        try:
            found = self._follow(image, prompts)
        except VosError:
            self._bank.restore(held)
            raise
        self._note_areas(found)
        self._frame += 1
        return found

    def _follow(self, image: Image, prompts: Sequence[Prompt]) -> ObjectMasks:
        features = self._encode(image)
        view = self.reader.look(features, self._bank)
        self._pin_pictures([p for p in prompts if isinstance(p, ReferencePrompt)])
        decision = self._decide(image, features, view, self._read(view))
        given = self._given(image, features, prompts, decision.found) if prompts else {}
        self._remember(features, view, decision, given)
        return impose(decision.found, given)

    def _pin_pictures(self, prompts: Sequence[ReferencePrompt]) -> None:
        """Remember objects as other pictures show them: those of one picture together."""
        pictures: list[tuple[Image, dict[int, Mask]]] = []
        for prompt in prompts:
            if not prompt.mask.any():
                raise PromptError(f"the reference mask of object {prompt.object_id} is empty; mark at least one pixel")
            masks = next((masks for picture, masks in pictures if np.array_equal(picture, prompt.image)), None)
            if masks is None:
                pictures.append((prompt.image, masks := {}))
            masks[prompt.object_id] = prompt.mask | masks.get(prompt.object_id, False)
        for picture, masks in pictures:
            view = self.reader.look(self._encode(picture), self._bank)
            self.reader.write(view, self._bank, ELSEWHERE, self._cells(masks, view), pinned=set(masks))

    def _encode(self, image: Image) -> Any:
        """Features of a frame, for the reader; once per frame."""
        return self.reader.encode(image)

    def _read(self, view: View) -> Reading:
        """What memory says of the frame."""
        if not self._bank.ids:
            return Reading.nothing(view, self.reader.device)
        return self.reader.read(view, self._bank)

    def _decide(self, image: Image, features: Any, view: View, reading: Reading) -> Decision:
        """Who owns which pixel, how sure that is, who is not there, and what may be remembered."""
        found = owners(reading, image)
        return Decision(found, dict(zip(reading.ids, reading.remembered, strict=True)), self._doubtful(found))

    def _doubtful(self, found: ObjectMasks, agreement: Mapping[int, float] | None = None) -> frozenset[int]:
        """The objects whose masks are not worth remembering. agreement: IoU of two opinions, where there are two."""
        agreement = agreement or {}
        areas = shares_of_picture(found)
        doubtful = set()
        for i, score in zip(found.ids, found.scores.tolist(), strict=True):
            seen = Observation(score, areas[i], self._areas.get(i, ()), agreement.get(i))
            if is_doubtful(seen, self.gate):
                doubtful.add(i)
        return frozenset(doubtful)

    def _given(self, image: Image, features: Any, prompts: Sequence[Prompt], found: ObjectMasks) -> dict[int, Mask]:
        """Object id -> (H, W) mask of every prompted object."""
        return given_masks(image, prompts, found, segmenter=self.segmenter)

    def _remember(self, features: Any, view: View, decision: Decision, given: dict[int, Mask]) -> None:
        """Prompted masks are pinned and own their cells; what was found of the other objects is recent."""
        masks = dict(decision.masks)
        if given:
            cells = self._cells(given, view)
            free = 1 - torch.stack(list(cells.values())).sum(0).clamp(max=1)
            masks = {i: m * free for i, m in masks.items() if i not in given} | cells
        self.reader.write(view, self._bank, self._frame, masks, pinned=set(given), doubtful=decision.doubtful)

    def _cells(self, given: Mapping[int, Mask], view: View) -> dict[int, Tensor]:
        """(H, W) masks on the view's grid; where they overlap, the later one has the cell."""
        cells = {i: shrink_mask(m, view.height, view.width) for i, m in disjoint(given).items()}
        return {i: c.to(self.reader.device) for i, c in cells.items()}

    def _begin_with(self, memory: MemoryBank | str | os.PathLike[str]) -> None:
        if not isinstance(memory, MemoryBank):
            memory = MemoryBank.load(memory, model=self.memory_model, max_bytes=self._bank.max_bytes)
        self._bank.begin_with(memory)
        self.reader.adopt(self._bank)

    def _note_areas(self, found: ObjectMasks) -> None:
        for i, area in shares_of_picture(found).items():
            if area > 0:
                self._areas[i] = [*self._areas.get(i, ()), area][-AREAS:]

    def forget(self, object_id: int) -> None:
        """Drop an object. Raises PromptError if it is not known."""
        if object_id not in self._bank.ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self._bank.ids)}")
        self._bank.forget(object_id)
        self._areas.pop(object_id, None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "frame": self._frame,
            "size": None if self._size is None else list(self._size),
            "areas": {i: list(areas) for i, areas in self._areas.items()},
            "bank": self._bank.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))
        self._areas = {int(i): [float(a) for a in areas] for i, areas in state["areas"].items()}
        self._bank.load_state_dict(state["bank"], self.reader.device)
        self.reader.adopt(self._bank)


class PropagateTracker(DenseTracker):
    """Follows objects by propagating their labels along dense keys. No training, any object.

    reader   by default untrained label propagation with ``config`` on ``device``
    options  of `DenseTracker`
    """

    name = "propagate"

    def __init__(
        self,
        reader: DenseReader | None = None,
        *,
        device: str = "cpu",
        config: PropagationConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(reader or LabelPropagation(config, device), **options)


def owners(reading: Reading, image: Image) -> ObjectMasks:
    """The label map of what was read, at the image's size."""
    if not reading.ids:
        return no_objects(image)
    labels = label_map(reading.maps.float().cpu().numpy(), reading.ids, image.shape[0], image.shape[1])
    lost = _pixels(labels, reading.ids) == 0
    return ObjectMasks(reading.ids, labels, reading.scores.float().cpu().numpy(), lost)


def shares_of_picture(found: ObjectMasks) -> dict[int, float]:
    """Object id -> share of the picture that it owns."""
    shares = _pixels(found.labels, found.ids) / found.labels.size
    return dict(zip(found.ids, shares.tolist(), strict=True))


def _pixels(labels: Labels, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """(N,) pixels that each of ``ids`` has."""
    if len(ids) <= MANY:  # comparing with a few ids is faster than counting all
        return np.array([cv2.countNonZero((labels == i).view(np.uint8)) for i in ids], np.float64)
    return np.bincount(labels.ravel(), minlength=max(ids) + 1)[list(ids)].astype(np.float64)


def no_objects(image: Image) -> ObjectMasks:
    return ObjectMasks((), np.zeros(image.shape[:2], np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))


def disjoint(given: Mapping[int, Mask]) -> dict[int, Mask]:
    """The masks without what later ones cover: where prompts overlap, the later one has the pixel."""
    taken: Mask | None = None
    left = {}
    for object_id, mask in reversed(list(given.items())):
        left[object_id] = mask if taken is None else mask & ~taken
        taken = mask if taken is None else mask | taken
    return left


def impose(found: ObjectMasks, given: Mapping[int, Mask]) -> ObjectMasks:
    """What was found, with the given masks in place of it; where they overlap, the later one has the pixel."""
    if not given:
        return found
    ids = tuple(sorted({*found.ids, *given}))
    labels = empty_labels(found.labels.shape[0], found.labels.shape[1], ids)
    labels[:] = found.labels
    for object_id, mask in given.items():
        labels[(labels == object_id) & ~mask] = 0
        labels[mask] = object_id
    scores = dict(zip(found.ids, found.scores.tolist(), strict=True)) | dict.fromkeys(given, 1.0)
    lost = np.array([not (labels == i).any() for i in ids], bool)
    return ObjectMasks(ids, labels, np.array([scores[i] for i in ids], np.float32), lost)
