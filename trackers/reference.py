"""The `reference` tracker: SEEM's published video behaviour (SPEC §7.1), the control that others must beat.

    tokens of the reference, once  ->  every frame on its own: encode, recall, the largest logit owns the pixel

The prompt is never refreshed. There is no previous mask, no memory of frames, no doubt: a mask is always returned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from seem_core.errors import InputError, PromptError, VideoError, VosError
from seem_core.geometry import InputSize
from seem_core.prompts import Prompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import Segmenter
from trackers.base import Image, ObjectMasks, Traits
from trackers.memory_bank import MEGABYTE, MemoryBank
from trackers.object_views import (
    ViewBudget,
    apart,
    begin_with_views,
    pin_references,
    pin_views,
    views_model,
    views_of_masks,
)
from trackers.prompting import as_picture, device_of, given_masks, references, usable_kinds
from trackers.recall import notes_on, object_masks, recall

PUBLISHED_RATE = 5.0  # frames per second
PUBLISHED_SIZE = InputSize(512)


class ReferenceTracker:
    """Finds objects on every frame by how they look on the frame, or the other picture, that showed them.

    A prompted frame is no exception: its mask is the reference, and what SEEM then finds on it is returned. Another
    prompt on an object replaces its reference.

    segmenter  what encodes and recalls
    published  frames are encoded with a short side of 512, as in the published demo, whatever the model's own size
    max_bytes  bound of the memory; references beyond it raise LimitError
    memory     where to begin: the bank of another video, or a file that one was saved to; objects that are pinned there
               are known from the first frame on
    """

    name = "reference"
    traits = Traits(returns_first_mask=False, refinds=True, uses_memory=False)

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        published: bool = False,
        max_bytes: int = 512 * MEGABYTE,
        memory: MemoryBank | str | os.PathLike[str] | None = None,
    ) -> None:
        self.segmenter = _at_published_size(segmenter) if published else segmenter
        self._bank = MemoryBank(max_bytes=max_bytes)
        self._budget = ViewBudget(frames=0)
        self._size: tuple[int, int] | None = None  # (height, width) of the video
        self._frame = 0
        self.notes = notes_on(segmenter)
        self.class_names: dict[int, str] = {}
        if memory is not None:
            begin_with_views(self._bank, memory, self.segmenter)

    @property
    def memory(self) -> MemoryBank:
        """The references; nothing else is ever remembered."""
        return self._bank

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Write the references to a file, for ``memory`` of another tracker. Raises OutputError."""
        self._bank.save(path, model=views_model(self.segmenter))

    @property
    def prompt_kinds(self) -> frozenset[type[Prompt]]:
        """The kinds of prompts that `step` can use."""
        return usable_kinds(self.segmenter)

    @torch.inference_mode()
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame; see `trackers.base.Tracker.step`.

        Raises PromptError and MaskError as stated there, VideoError for a frame of another size than the others,
        LimitError when the references no longer fit into the memory.
        """
        shape = (image.shape[0], image.shape[1])
        if self._size not in (None, shape):
            raise VideoError(f"a frame is {shape}, the ones before {self._size}; track it as another video")
        self._size = shape
        found = object_masks(None, shape)
        if self._bank.ids or prompts:
            found = self._follow(image, prompts, shape)
        self._frame += 1
        return found

    def _follow(self, image: Image, prompts: Sequence[Prompt], shape: tuple[int, int]) -> ObjectMasks:
        features = self.segmenter.encode(as_picture(image))
        if prompts:
            held = self._bank.snapshot()
            try:
                self._refer(image, prompts, features)
            except VosError:
                self._bank.restore(held)
                raise
        return self._find(features, shape)

    def _find(self, features: Any, shape: tuple[int, int]) -> ObjectMasks:
        seen = recall(self.segmenter, features, self._bank, self._bank.ids, self._budget)
        if seen is not None:
            self.class_names |= {i: c for i, c in zip(seen.ids, seen.class_names, strict=False) if c is not None}
        return object_masks(seen, shape)

    def _refer(self, image: Image, prompts: Sequence[Prompt], features: Any) -> None:
        """Every prompted object is from now on found by this frame, by the other pictures of it, or by both."""
        found = self._find(features, (image.shape[0], image.shape[1]))
        given = given_masks(image, prompts, found, segmenter=self.segmenter, features=features)
        pictures = references(prompts)
        for object_id in {*given, *pictures}:
            self._bank.forget(object_id)
        pin_views(self._bank, self._frame, views_of_masks(self.segmenter, features, apart(given)))
        pin_references(self.segmenter, self._bank, pictures)

    def forget(self, object_id: int) -> None:
        """Stop following an object. Raises PromptError if it is not known."""
        if object_id not in self._bank.ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self._bank.ids)}")
        self._bank.forget(object_id)
        self.class_names.pop(object_id, None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "frame": self._frame,
            "size": None if self._size is None else list(self._size),
            "class_names": dict(self.class_names),
            "bank": self._bank.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))
        self.class_names = {int(i): str(name) for i, name in state["class_names"].items()}
        self._bank.load_state_dict(state["bank"], device_of(self.segmenter))


def _at_published_size(segmenter: Segmenter) -> Segmenter:
    if not isinstance(segmenter, SeemSegmenter):
        raise InputError(f"the published size is that of SEEM models, not of {segmenter.name}; leave out published")
    return segmenter.at(PUBLISHED_SIZE)
