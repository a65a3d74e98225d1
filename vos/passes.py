"""One pass of a tracker over frames in either direction: forget what has ended, give the prompts, step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seem_core.errors import PromptError
from seem_core.prompts import MaskPrompt, Prompt, ReferencePrompt
from trackers.base import ObjectMasks, Tracker
from vos.frames import Frame
from vos.working_size import WorkingSize

PromptsAt = Callable[[int], Sequence[Prompt]]  # frame number -> prompts in pixels of the working image
Ends = Mapping[int, tuple[int, ...]]  # frame number -> ids of objects that are not followed from there on


def run_pass(
    frames: Iterable[Frame],
    tracker: Tracker,
    prompts_at: PromptsAt,
    ends: Ends,
    size: WorkingSize,
    *,
    backward: bool,
    known: tuple[int, ...] = (),
) -> Generator[tuple[Frame, ObjectMasks], None, None]:
    """Step ``tracker`` over ``frames`` as they come; masks are of the working size.

    An object that ends on frame k has no mask from k on. Forward it is forgotten before k is stepped, before the
    prompts of k; backward before the first frame that is less than k, so that what follows a new beginning at or after
    k reaches down to k and no farther. ``known`` are the objects that the tracker knows already.
    """
    waiting = sorted(ends.items(), reverse=not backward)  # the next one to come last
    for frame in frames:
        while waiting and (waiting[-1][0] > frame.index if backward else waiting[-1][0] <= frame.index):
            for object_id in waiting.pop()[1]:
                if object_id in known or not backward:
                    tracker.forget(object_id)
        masks = tracker.step(size.image(frame.image), prompts_at(frame.index))
        known = masks.ids
        yield frame, masks


@dataclass(frozen=True)
class HandOver:
    """What a pass hands on of the prompts of one frame to the pass the other way: the masks that marks led to.

    So both passes agree where the user spoke, and marks that correct an object ("not this") work in a pass that has
    nothing yet to correct.

    ids      objects whose masks, as they were found, take the place of their marks or words
    prompts  given again as they are: masks and references, and those of objects that were not found
    """

    ids: tuple[int, ...]
    prompts: tuple[Prompt, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt], found: ObjectMasks) -> HandOver:
        """``found`` is the result of the frame on which ``prompts`` were given."""
        marked = {p.object_id for p in prompts if not isinstance(p, (MaskPrompt, ReferencePrompt))}
        there = set(np.flatnonzero(np.bincount(found.labels.reshape(-1))).tolist())
        ids = tuple(sorted(marked & there))
        return cls(ids, tuple(p for p in prompts if isinstance(p, ReferencePrompt) or p.object_id not in ids))

    def told(self, found: ObjectMasks | None) -> tuple[Prompt, ...]:
        """The prompts to give, from the same result read again."""
        if self.ids and found is None:
            raise ValueError("the masks that were handed over are not there any more")
        masks = () if found is None else tuple(MaskPrompt(found.mask(i), i) for i in self.ids)
        return (*masks, *self.prompts)


def check_backward(prompts: Mapping[int, Sequence[Prompt]], ends: Ends) -> None:
    """Refuse prompts that make no sense read from the end: an object whose last marks say only what it is not.

    Raises PromptError.
    """
    alive: set[int] = set()
    for frame in sorted({*prompts, *ends}, reverse=True):
        shown = {p.object_id for p in prompts.get(frame, ()) if getattr(p, "positive", True)}
        for prompt in prompts.get(frame, ()):
            if prompt.object_id not in alive | shown:
                what = f"backward, object {prompt.object_id} begins on frame {frame} with marks of what it is not"
                raise PromptError(f"{what}; add a point on the object there, or track in direction both")
        alive = (alive | shown) - set(ends.get(frame, ()))


def no_objects(height: int, width: int) -> ObjectMasks:
    """The result of a frame on which nothing is followed."""
    return ObjectMasks((), np.zeros((height, width), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.bool_))
