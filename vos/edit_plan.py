"""What follows from an editor's prompts: `EditPlan`, what each pass is told; it stays as it is while prompts change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from seem_core.prompts import MaskPrompt, PointPrompt, ReferencePrompt
from trackers.base import ObjectMasks
from vos.directions import Direction
from vos.merging import Anchors, merge_passes
from vos.pass_inputs import PassInputs, digest_of, prompt_digest
from vos.prompts import Forget, FramePrompt
from vos.stored_pass import StoredPass

Kind: TypeAlias = Literal["mask", "reference", "marks", "end"]

_KINDS: dict[type, Kind] = {MaskPrompt: "mask", ReferencePrompt: "reference", Forget: "end"}


@dataclass(frozen=True)
class PromptNote:
    """A prompt in short.

    kind   a mask or a reference says all, marks and words are made a mask by the tracker, an end is a `Forget`
    shows  whether it says what the object is, not only what it is not
    """

    number: int
    frame: int
    object_id: int
    kind: Kind
    shows: bool
    digest: str

    @classmethod
    def of(cls, number: int, item: FramePrompt) -> PromptNote:
        kind = _KINDS.get(type(item.prompt), "marks")
        shows = kind != "end" and getattr(item.prompt, "positive", True)
        return cls(number, item.frame, item.prompt.object_id, kind, shows, prompt_digest(item.prompt))

    def stand_in(self, size: tuple[int, int]) -> FramePrompt:
        """A prompt that begins, corrects or ends the same object, and takes no memory; ``size`` is (height, width)."""
        if self.kind == "end":
            return FramePrompt(self.frame, Forget(self.object_id))
        if self.kind == "mask":
            return FramePrompt(self.frame, MaskPrompt(np.broadcast_to(np.True_, size), self.object_id))
        return FramePrompt(self.frame, PointPrompt(0, 0, self.shows, self.object_id))


@dataclass(frozen=True, eq=False)
class EditPlan:
    """Prompts by frame (their numbers, in the order in which they were given), and what they mean for the passes."""

    direction: Direction
    prompts: Mapping[int, tuple[int, ...]]
    forward: PassInputs
    backward: PassInputs
    anchors: Anchors

    @classmethod
    def of(cls, direction: Direction, tracked: range, setting: str, notes: Iterable[PromptNote]) -> EditPlan:
        """``notes`` in the order in which the prompts were given; ``setting`` as for `PassInputs`."""
        told: dict[int, list[PromptNote]] = {}
        ends: dict[int, tuple[int, ...]] = {}
        for note in notes:
            if note.kind == "end":
                ends[note.frame] = (*ends.get(note.frame, ()), note.object_id)
            else:
                told.setdefault(note.frame, []).append(note)
        digests = {frame: digest_of(note.digest for note in given) for frame, given in told.items()}
        forward = PassInputs(tracked, False, setting, digests, ends)
        if direction != "backward":  # it is told the masks that the forward pass makes of marks
            marked = [frame for frame, given in told.items() if any(note.kind == "marks" for note in given)]
            digests = digests | {f: digest_of([digests[f], forward.made_from(f) or ""]) for f in marked}
        backward = PassInputs(tracked, True, setting, digests, ends)
        anchors = Anchors.of(tracked, [(frame, note.object_id) for frame, given in told.items() for note in given])
        numbers = {frame: tuple(note.number for note in given) for frame, given in told.items()}
        return cls(direction, numbers, forward, backward, anchors)

    def merge(self, forward: ObjectMasks | None, backward: ObjectMasks | None, frame: int) -> ObjectMasks | None:
        """The result of a frame from what the passes found; the direction says which of them count."""
        if self.direction != "both":
            return backward if self.direction == "backward" else forward
        return merge_passes(forward, backward, self.anchors, frame)

    def stale(self, forward: StoredPass, backward: StoredPass, gaps: Iterable[int]) -> set[int]:
        """Frames whose result does not hold any more, or is not there."""
        left = frozenset(gaps)
        ahead = [] if self.direction == "backward" else forward.missing(self.forward, left)
        back = [] if self.direction == "forward" else backward.missing(self.backward, left)
        return {*ahead, *back}
