"""The `prompt-memory` tracker: SEEM's decoder reads a memory of views and the mask of the frame before (SPEC §7.2).

    encode  ->  recall: views (pinned, recent) as visual tokens, previous masks as memory prompt  ->  merge  ->  learn

`PromptMemory` is what is remembered and how it is read and written; the tracker has one, and so has every clip that a
model is trained on (`trackers.clip`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import PromptError, VideoError, VosError
from seem_core.prompts import Prompt
from seem_core.segmenter_types import Prediction, Segmenter, masks_as_prediction
from trackers.base import Image, ObjectMasks, Traits
from trackers.gate import Gate, Observation, is_doubtful
from trackers.memory_bank import MEGABYTE, MemoryBank, Previous
from trackers.merge import one_owner
from trackers.object_views import (
    ViewBudget,
    apart,
    begin_with_views,
    pin_references,
    pin_views,
    views_model,
    views_of_masks,
    write_recent_views,
)
from trackers.prompting import as_picture, device_of, given_masks, references, usable_kinds
from trackers.propagate import impose, shares_of_picture
from trackers.recall import notes_on, object_masks, recall

Mask = npt.NDArray[np.bool_]  # (H, W)
AREAS = 15  # frames of which the usual area of an object is the median


@dataclass(frozen=True)
class PromptMemoryConfig:
    """Numbers of the tracker.

    views        how many tokens, and how many recent frames share them
    least_score  an object that is found with a lower score is taken for lost. A score is how well the chosen query fits
                 the object's views times how sure its mask is; a coin's toss on both is a quarter
    gate         what is not worth remembering
    use_previous whether masks of the frame before are read through the memory prompt
    max_bytes    bound of the memory
    """

    views: ViewBudget = field(default_factory=ViewBudget)
    least_score: float = 0.25
    gate: Gate = field(default_factory=lambda: Gate(min_score=0.5, min_area=0.4, max_area=2.5))
    use_previous: bool = True
    max_bytes: int = 512 * MEGABYTE


class PromptMemory:
    """Views of objects and their masks on the frame before, in a bank. The bank knows the objects: there are no others.

    Nothing here asks for gradients or forbids them: what the segmenter gives is passed on.
    """

    def __init__(self, segmenter: Segmenter, config: PromptMemoryConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or PromptMemoryConfig()
        self.bank = MemoryBank(max_bytes=self.config.max_bytes, max_views=max(1, self.config.views.frames))
        self.frame = 0
        self._areas: dict[int, list[float]] = {}  # object id -> areas on its last frames, as shares of the picture

    @property
    def ids(self) -> tuple[int, ...]:
        """The known objects, ascending."""
        return self.bank.ids

    def advance(
        self, features: Any, shape: tuple[int, int], prompted: Callable[[ObjectMasks], Mapping[int, Mask]] | None = None
    ) -> tuple[Prediction | None, ObjectMasks]:
        """One frame of (H, W) pixels: recall, decide, learn. What was recalled, and what the frame shows in the end.

        prompted: from what was found without prompts, the masks that are given on this frame by object id.
        """
        seen = self.recall(features)
        found = self.decide(seen, shape)
        given = {} if prompted is None else prompted(found)
        found = impose(found, given)
        self.learn(features, seen, found, given)
        return seen, found

    def recall(self, features: Any) -> Prediction | None:
        """Masks of all known objects on a frame, None where there are none.

        An object that was not seen on the frame before is looked for without a previous mask.
        """
        prior = self._previous_masks(features)
        return recall(self.segmenter, features, self.bank, self.ids, self.config.views, prior)

    def decide(self, seen: Prediction | None, shape: tuple[int, int]) -> ObjectMasks:
        """The objects at source size (H, W), one owner per pixel; who is not there."""
        return object_masks(seen, shape, least=self.config.least_score)

    def learn(self, features: Any, seen: Prediction | None, found: ObjectMasks, given: Mapping[int, Mask]) -> None:
        """Remember a frame and go on to the next.

        seen: what was recalled. found: what the frame shows in the end. given: masks that are certainly right; they are
        pinned. Of the others, those that pass the gate are recent memory. Raises LimitError where the given ones do not
        fit into the bank.
        """
        shown = apart(given)
        pin_views(self.bank, self.frame, views_of_masks(self.segmenter, features, shown))
        areas = shares_of_picture(found)
        if self.config.views.frames:
            likely = {i: found.mask(i) for i in self._likely(found, areas) if i not in shown}
            views = views_of_masks(self.segmenter, features, likely)
            write_recent_views(self.bank, self.frame, views, self.config.views)
        if self.config.use_previous:
            self._keep_masks(features, seen, found, shown)
        for i, area in areas.items():
            if area > 0:
                self._areas[i] = [*self._areas.get(i, ()), area][-AREAS:]
        self.frame += 1

    def forget(self, object_id: int) -> None:
        """Drop an object. Raises PromptError if it is not known."""
        if object_id not in self.ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self.ids)}")
        self.bank.forget(object_id)
        self._areas.pop(object_id, None)

    def state_dict(self) -> dict[str, Any]:
        areas = {i: list(of_one) for i, of_one in self._areas.items()}
        return {"frame": self.frame, "areas": areas, "bank": self.bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frame = int(state["frame"])
        self._areas = {int(i): [float(a) for a in of_one] for i, of_one in state["areas"].items()}
        self.bank.load_state_dict(state["bank"], device_of(self.segmenter))

    def _likely(self, found: ObjectMasks, areas: Mapping[int, float]) -> list[int]:
        """The objects whose masks may become memory."""
        likely = []
        for i, score, lost in zip(found.ids, found.scores.tolist(), found.lost, strict=True):
            seen = Observation(score, areas[i], self._areas.get(i, ()))
            if not lost and not is_doubtful(seen, self.config.gate):
                likely.append(i)
        return likely

    def _previous_masks(self, features: Any) -> Prediction | None:
        before = self.bank.previous
        if before is None or not before.values:
            return None
        logits = torch.stack([before.values[i][0] for i in sorted(before.values)])
        return Prediction(tuple(sorted(before.values)), logits, logits.new_ones(len(logits)), features.geometry)

    def _keep_masks(
        self, features: Any, seen: Prediction | None, found: ObjectMasks, shown: Mapping[int, Mask]
    ) -> None:
        """Logits of every object that is there, for the next frame."""
        logits: dict[int, Tensor] = {}
        if seen is not None:
            there = [i for i, lost in zip(found.ids, found.lost, strict=True) if not lost and i in seen.ids]
            logits = dict(zip(there, one_owner(seen.select(there).logits.detach()), strict=True))
        for object_id, mask in shown.items():
            known = masks_as_prediction(torch.from_numpy(mask)[None], features.geometry, [object_id])
            logits[object_id] = known.logits[0].to(device_of(self.segmenter))
        self.bank.keep_previous(Previous(self.frame, (), {i: (of_one,) for i, of_one in logits.items()}))


class PromptMemoryTracker:
    """Follows objects by what SEEM's decoder recalls of them.

    segmenter  what encodes, recalls and remembers; in the routing `demo` it does not read previous masks
    config     numbers of the tracker
    memory     where to begin: the bank of another video, or a file that one was saved to; what is pinned there is known
               from the first frame on
    """

    name = "prompt-memory"
    traits = Traits(returns_first_mask=True, refinds=True, uses_memory=True)

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        config: PromptMemoryConfig | None = None,
        memory: MemoryBank | str | os.PathLike[str] | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._state = PromptMemory(segmenter, config)
        if memory is not None:
            begin_with_views(self._state.bank, memory, segmenter)
        self._size: tuple[int, int] | None = None  # (height, width) of the video
        self.notes = notes_on(segmenter)
        self.class_names: dict[int, str] = {}

    @property
    def memory(self) -> MemoryBank:
        return self._state.bank

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Write the memory to a file, for ``memory`` of another tracker. Raises OutputError."""
        self._state.bank.save(path, model=views_model(self.segmenter))

    @property
    def prompt_kinds(self) -> frozenset[type[Prompt]]:
        """The kinds of prompts that `step` can use."""
        return usable_kinds(self.segmenter)

    @torch.inference_mode()
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame; see `trackers.base.Tracker.step`.

        Raises PromptError and MaskError as stated there, VideoError for a frame of another size than the others,
        LimitError when the prompted frames alone no longer fit into the memory bank.
        """
        shape = (image.shape[0], image.shape[1])
        if self._size not in (None, shape):
            raise VideoError(f"a frame is {shape}, the ones before {self._size}; track it as another video")
        self._size = shape
        if not self._state.ids and not prompts:
            self._state.frame += 1
            return self._state.decide(None, shape)
        held = self._state.bank.snapshot()
        try:
            return self._follow(image, prompts, shape)
        except VosError:
            self._state.bank.restore(held)
            raise

    def _follow(self, image: Image, prompts: Sequence[Prompt], shape: tuple[int, int]) -> ObjectMasks:
        features = self.segmenter.encode(as_picture(image))
        pin_references(self.segmenter, self._state.bank, references(prompts))
        seen, found = self._state.advance(
            features,
            shape,
            lambda known: given_masks(image, prompts, known, segmenter=self.segmenter, features=features),
        )
        if seen is not None and seen.class_names:
            names = zip(seen.ids, seen.class_names, strict=True)
            self.class_names |= {i: name for i, name in names if name is not None}
        return found

    def forget(self, object_id: int) -> None:
        """Drop an object. Raises PromptError if it is not known."""
        self._state.forget(object_id)
        self.class_names.pop(object_id, None)

    def state_dict(self) -> dict[str, Any]:
        size = None if self._size is None else list(self._size)
        return {"size": size, "class_names": dict(self.class_names), "memory": self._state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))
        self.class_names = {int(i): str(name) for i, name in state["class_names"].items()}
        self._state.load_state_dict(state["memory"])
