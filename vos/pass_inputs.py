"""Everything that decides a pass's results, in short: `PassInputs` names it by digests.

The result of a frame depends on what the pass was told on the frames that it came by before, and on that frame, and on
nothing else. `PassInputs.made_from` gives a text that is the same exactly when all this is the same; kept beside a
result, it tells whether the result still holds, whatever was changed and changed back since.
"""

from __future__ import annotations

import dataclasses
import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seem_core.prompts import Prompt
from vos.prompts import Forget

_LENGTH = 16  # hexadecimal digits of a text


@dataclass(frozen=True, eq=False)
class PassInputs:
    """What a pass over ``tracked`` is told.

    backward  whether it runs from the last frame to the first one
    setting   digest of what is the same on all frames: video, tracker, options
    told      frame -> digest of its prompts
    ends      frame -> ids of objects that are not followed from there on, see `vos.passes.run_pass`
    """

    tracked: range
    backward: bool
    setting: str
    told: Mapping[int, str]
    ends: Mapping[int, tuple[int, ...]]

    @cached_property
    def begin(self) -> int | None:
        """The frame on which the pass begins: the first one with prompts that it comes by."""
        return (max if self.backward else min)(self.told, default=None)

    @cached_property
    def frames(self) -> range:
        """The frames of the pass, ascending; empty without prompts."""
        if self.begin is None:
            return self.tracked[:0]
        place = self.tracked.index(self.begin)
        return self.tracked[: place + 1] if self.backward else self.tracked[place:]

    def made_from(self, frame: int) -> str | None:
        """The text for the result of ``frame``; None where the pass does not come."""
        if frame not in self.frames:
            return None
        at = bisect_right(self._texts, self._order(frame), key=lambda item: item[0])
        return self._texts[at - 1][1]

    def ends_after(self, frame: int | None) -> dict[int, tuple[int, ...]]:
        """The ends that a pass still comes by once it has stepped ``frame``; all of them with None."""
        return {k: ids for k, ids in self.ends.items() if frame is None or (k <= frame) == self.backward}

    def _order(self, frame: int) -> int:
        return -frame if self.backward else frame

    @cached_property
    def _texts(self) -> list[tuple[int, str]]:
        """(place in the pass, text from there on), for every place at which the pass is told something."""
        if self.begin is None:
            return []
        # an end on frame k takes effect before that frame forward, and before the frame below it backward
        ends = [(self._order(k - 1 if self.backward else k), 0, f"{k} end {ids}") for k, ids in self.ends.items()]
        told = [(self._order(frame), 1, f"{frame} {digest}") for frame, digest in self.told.items()]
        texts, text = [], self.setting
        for place, _, what in sorted(ends + told):
            if place >= self._order(self.begin):
                text = digest_of([text, what])
                texts.append((place, text))
        return texts


def digest_of(parts: Iterable[str]) -> str:
    """A short text that stands for a sequence of texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()[:_LENGTH]


def prompt_digest(prompt: Prompt | Forget) -> str:
    """A short text that stands for a prompt: its kind and its values, to the bit."""
    parts = [type(prompt).__name__]
    for field in dataclasses.fields(prompt):
        value = getattr(prompt, field.name)
        if isinstance(value, np.ndarray):
            parts += [str(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
        else:
            parts.append(repr(value))
    return digest_of(parts)
