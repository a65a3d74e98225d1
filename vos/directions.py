"""Tracking forward, backward, or both ways: `DirectedResults`, what `track` and `track_to_folder` iterate.

    forward pass  -> results on disk      first prompt to the last frame
    backward pass -> results on disk      last prompt to the first frame; frames are read again
    frames read once more -> merge -> results in ascending order

Nothing but one frame, one stretch of frames (`vos.backwards`) and the tracker's memory is held, so memory does not grow
with the length of the video. The results on disk lie in a temporary folder that is removed at the end, also on errors.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from seem_core.errors import InputError, VideoError
from seem_core.prompts import Prompt
from trackers.base import ObjectMasks, Tracker
from vos.backwards import backwards, check_seekable
from vos.frames import Frame, FrameResult
from vos.mask_spool import MaskSpool
from vos.merging import Anchors, merge_passes
from vos.passes import HandOver, PromptsAt, check_backward, no_objects, run_pass
from vos.prefetch import prefetch
from vos.writing import writing

if TYPE_CHECKING:
    from vos.pipeline import Job

Direction: TypeAlias = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)

FRAMES_AHEAD = 4  # decoded frames that wait for the tracker
SPOOL_PREFIX = ".passes-"  # names of the temporary folders

OnStep = Callable[[int, int], None]  # steps done, steps in all (every pass counts its frames)


def check_direction(job: Job, direction: Direction) -> None:
    """Refuse what a direction cannot do. Raises InputError, PromptError, VideoError, before any frame is tracked."""
    if direction not in DIRECTIONS:
        raise InputError(f"there is no direction {direction!r}; use {', '.join(DIRECTIONS)}")
    if direction != "forward":
        check_seekable(job.source, f"direction {direction}")
    if direction == "backward":
        check_backward(job.prompts, job.forgets)


class DirectedResults:
    """Iterate it once: results of all tracked frames, backward or both ways, in ascending order of frames.

    job        checked by `check_direction`; its prompts are taken out as they are used
    tracker    a fresh one; with "both" it is set back to its present state for the second pass
    folder     where the temporary folder is made; None takes the system's
    stop       once set, the pass at work ends, and what is known by then comes out
    on_step    called after every step

    ``stopped``    whether ``stop`` was set before the first result came out; all that is known then comes out
    ``cut_short``  whether it ended a pass before its end, so that results are missing or come from one pass alone
    """

    def __init__(
        self,
        job: Job,
        tracker: Tracker,
        direction: Literal["backward", "both"],
        *,
        folder: Path | None = None,
        stop: threading.Event | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.stopped = self.cut_short = False
        self._job, self._tracker, self._direction = job, tracker, direction
        self._folder, self._stop, self._on_step = folder, stop, on_step
        self._anchors = Anchors.of(job.tracked, [(f, p.object_id) for f, given in job.prompts.items() for p in given])
        self._ahead, self._back = _reach(job)
        both = len(self._ahead) if direction == "both" else 0
        self._steps, self._total = 0, both + len(self._back) + len(job.tracked)

    def __iter__(self) -> Generator[FrameResult, None, None]:
        """Raises VideoError where not a single frame can be decoded; any fault of the reader is raised here."""
        job = self._job
        with _temporary_folder(self._folder) as folder:
            forward, backward = MaskSpool(folder / "forward"), MaskSpool(folder / "backward")
            if self._direction == "both":
                fresh = self._tracker.state_dict()
                handed = self._run_forward(forward)
                self._tracker.load_state_dict(fresh)
                prompts_at = partial(_handed, handed, forward)
            else:
                prompts_at = partial(_given, job)
            if not self.cut_short:
                with prefetch(backwards(job.source, self._back), FRAMES_AHEAD) as frames:
                    self._run(frames, prompts_at, backward, last=self._back[0], is_backward=True)
            self.stopped = self._is_stopped()
            yield from self._merged(forward, backward)

    def _run_forward(self, spool: MaskSpool) -> dict[int, HandOver]:
        """The forward pass; returns what it hands over."""
        job, handed = self._job, {}
        spoken: dict[int, Sequence[Prompt]] = {}

        def prompts_at(index: int) -> Sequence[Prompt]:
            now = _given(job, index)
            if now:
                spoken[index] = now
            return now

        def hand_over(index: int, masks: ObjectMasks) -> None:
            if index in spoken:
                handed[index] = HandOver.of(spoken.pop(index), masks)

        ahead = self._ahead
        with prefetch(job.source.frames(ahead.start, ahead.stop, ahead.step), FRAMES_AHEAD) as frames:
            self._run(frames, prompts_at, spool, last=ahead[-1], is_backward=False, on_masks=hand_over)
        return handed

    def _run(
        self,
        frames: Iterable[Frame],
        prompts_at: PromptsAt,
        spool: MaskSpool,
        *,
        last: int,
        is_backward: bool,
        on_masks: Callable[[int, ObjectMasks], None] | None = None,
    ) -> None:
        """One pass into ``spool``, until frame ``last`` or ``stop``."""
        job = self._job
        with closing(run_pass(frames, self._tracker, prompts_at, job.forgets, job.size, backward=is_backward)) as run:
            for frame, masks in run:
                spool.put(frame.index, masks)
                if on_masks is not None:
                    on_masks(frame.index, masks)
                self._count()
                if self._is_stopped() and frame.index != last:
                    self.cut_short = True
                    return

    def _merged(self, forward: MaskSpool, backward: MaskSpool) -> Iterator[FrameResult]:
        """Read the frames once more, with what the passes found. A run that was cut short gives what it has."""
        job, any_frame = self._job, False
        tracked = job.tracked
        with prefetch(job.source.frames(tracked.start, tracked.stop, tracked.step), FRAMES_AHEAD) as frames:
            for frame in frames:
                any_frame = True
                index = frame.index
                masks = merge_passes(forward.get(index), backward.get(index), self._anchors, index)
                if masks is None and self.cut_short:
                    continue
                self._count()
                found = no_objects(*job.size.source) if masks is None else job.size.back(masks)
                yield FrameResult(frame, found)
        if not any_frame:
            raise VideoError(f"none of the frames {tracked[0]}..{tracked[-1]} of {job.source.info.path} can be decoded")

    def _count(self) -> None:
        self._steps += 1
        if self._on_step is not None:
            self._on_step(self._steps, self._total)

    def _is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()


def remove_left_over(folder: Path) -> None:
    """Remove temporary folders in ``folder`` that a killed run left there."""
    for path in folder.glob(f"{SPOOL_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _given(job: Job, index: int) -> Sequence[Prompt]:
    """The prompts of a frame, taken out of the job, in pixels of the working image."""
    return [job.size.prompt(prompt) for prompt in job.prompts.pop(index, ())]


def _handed(handed: Mapping[int, HandOver], forward: MaskSpool, index: int) -> Sequence[Prompt]:
    return handed[index].told(forward.get(index)) if index in handed else ()


def _reach(job: Job) -> tuple[range, range]:
    """The frames of the forward and of the backward pass: from the first prompt on, and up to the last one.

    Objects that no prompt names are known from a saved memory, and looked for everywhere.
    """
    tracked = job.tracked
    spoken = {prompt.object_id for given in job.prompts.values() for prompt in given}
    if not job.prompts or set(job.ids) - spoken:
        return tracked, tracked
    first, last = (tracked.index(limit(job.prompts)) for limit in (min, max))
    return tracked[first:], tracked[: last + 1]


@contextmanager
def _temporary_folder(within: Path | None) -> Iterator[Path]:
    """A new folder, removed at the end. Raises OutputError where it cannot be made, DiskFullError without room."""
    place = within or Path(tempfile.gettempdir())
    with writing(place):
        folder = Path(tempfile.mkdtemp(prefix=SPOOL_PREFIX, dir=within))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
