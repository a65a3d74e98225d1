"""States of a run in OUT/.state, from which it can go on after a kill: `Checkpoints` saves them, `Checkpoint` is one.

A state is copied on the thread that tracks and written on the one that writes masks, after the mask and the line of its
frame. So where a state is, everything before it is; and the tracker waits for the copy alone.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from seem_core.errors import InputError, VosError
from trackers.base import Tracker
from vos.frames import Frame, FrameResult, VideoSource
from vos.tracker_states import PackedState, SavedState, TrackerStates, pack

DEFAULT_SECONDS: Final = 10.0
SHARE: Final = 0.02  # of the time that saving may take
MOST: Final = 2  # states that are kept: the last one, and the one before in case that is damaged

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after ``frame``.

    picture  checksum of the frame's pixels, to see that decoding goes on with the same ones
    intact   nothing about the video was wrong until then: no gap, no damaged packet, no warning
    seconds  wall-clock time that the run had taken
    tracker  the tracker's `state_dict`
    """

    frame: int
    picture: int
    intact: bool
    seconds: float
    tracker: dict[str, Any]


def picture_of(frame: Frame) -> int:
    """Checksum of a frame's pixels."""
    return zlib.crc32(frame.image.data)


class Checkpoints:
    """Saves a run's states about every ``every`` seconds, less often where that would cost more than `SHARE` of the
    time.

    made_from  a text for a file name that stands for everything that the run's masks depend on
    every      None is `DEFAULT_SECONDS`, 0 saves nothing
    taken      seconds that the run took before it was gone on with

    A place that is full, or cannot be written, ends the saving and not the run: `trouble` then holds a sentence.
    Raises InputError for an ``every`` below 0.
    """

    def __init__(
        self,
        folder: Path,
        made_from: str,
        every: float | None = None,
        *,
        taken: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._made_from, self._clock = folder, made_from, clock
        self._every = check_seconds(every)
        self._began = clock() - taken
        self._saves = self._every > 0
        self._next: float | None = clock() + self._every  # None while a state is being written
        self._copying = 0.0  # seconds that the copy took which is being written
        self._frames: list[int] = []
        self.trouble: tuple[str, ...] = ()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next state; not while one is being written."""
        return self._saves and self._next is not None and self._clock() >= self._next

    def take(self, result: FrameResult, tracker: Tracker, source: VideoSource) -> PackedState | None:
        """A copy of the run's state after a frame, for `write`, due or not; None where nothing is saved."""
        if not self._saves:
            return None
        began, self._next = self._clock(), None
        state = {
            "picture": picture_of(result.frame),
            "intact": is_intact(source),
            "seconds": began - self._began,
            "tracker": tracker.state_dict(),
        }
        packed = pack(SavedState(result.frame.index, result.masks.ids, state))
        self._copying = self._clock() - began
        return packed

    def write(self, packed: PackedState) -> None:
        """Put a state on disk and let go the oldest; raises nothing that is about the place."""
        began = self._clock()
        try:
            states = TrackerStates(self._folder, MOST)
            self._frames = [*self._frames, packed.frame][-MOST:]
            states.write(packed, self._made_from, lambda frame, text: text == self._made_from and frame in self._frames)
        except VosError as error:
            self._saves = False
            self.trouble = (f"no more states are saved to go on from after an interruption: {error}",)
            log.info(*self.trouble)
            return
        now = self._clock()
        self._next = now + max(self._every, (self._copying + now - began) / SHARE)


def check_seconds(every: float | None) -> float:
    """The time between two states, None being `DEFAULT_SECONDS`. Raises InputError for less than 0."""
    seconds = DEFAULT_SECONDS if every is None else every
    if not seconds >= 0:
        raise InputError(f"states cannot be saved every {seconds:g} seconds; give 0 to save none, or more")
    return seconds


def find_checkpoints(folder: Path, made_from: str, last: int) -> Iterator[Checkpoint]:
    """The states of a run until its frame ``last``, the newest first; damaged ones are passed over."""
    if not folder.is_dir():
        return
    states, bound = TrackerStates(folder, MOST), last + 1
    while (saved := states.nearest(bound, lambda _: made_from, backward=False)) is not None:
        bound = saved.frame
        try:
            yield _checkpoint(saved)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the state after frame %d is damaged: %r", saved.frame, error)


def is_intact(source: VideoSource) -> bool:
    """Whether nothing about a video was wrong so far."""
    return not (source.gaps or source.warnings or getattr(source, "damaged", False))


def _checkpoint(saved: SavedState) -> Checkpoint:
    state = saved.state
    return Checkpoint(
        saved.frame, int(state["picture"]), bool(state["intact"]), float(state["seconds"]), dict(state["tracker"])
    )
