"""A video and prompts in, a results folder out: `track_to_folder`, the way of `vos track`.

    reader thread -> queue -> this thread (tracker, memory) -> queue -> writer thread, then overlay and contact sheet

The writer also saves the tracker's states that this thread copies now and then (`vos.checkpoints`), from which a run
that was killed can go on (`vos.resuming`).

A fault in any stage ends the others and is raised here; what is whole stays, and run.json says how it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Literal

from seem_core.errors import InputError, VosError
from trackers.base import Tracker
from vos.checkpoints import Checkpoint, Checkpoints, check_seconds
from vos.directions import DirectedResults, Direction, remove_left_over
from vos.earlier_run import STATES_FOLDER
from vos.frames import FrameResult, VideoSource
from vos.output import FrameRecord, InputRecord, RunRecord, check_inputs
from vos.pipeline import (
    Job,
    TrackOptions,
    check_kinds,
    make_tracker,
    notes_of,
    open_source,
    prepare,
    settle,
    stream,
)
from vos.prefetch import WriteBehind
from vos.prompt_gathering import AnyMask, GivenPrompt
from vos.prompt_sources import MaskFile
from vos.render import CONTACT, OVERLAY, Rendered, render
from vos.resuming import Opened, frames_after, made_from, open_results
from vos.run_record import MASKS_FOLDER
from vos.saved_memory import keep_memory
from vos.tracker_states import PackedState

RESULTS_BEHIND = 4  # finished frames that wait for the writer
PARTS = frozenset({"masks", "overlay", "contact"})
_PICTURES = {"overlay": OVERLAY, "contact": CONTACT}

OnProgress = Callable[[int, int], None]  # frames finished, frames in all


@dataclass(frozen=True)
class ObjectSummary:
    """One object over the whole run: on how many frames it was seen, its mean score (0..1) there, its last frame, its
    class, where the tracker's model tells classes apart, and the name it has in a file of prompts."""

    id: int
    frames_seen: int
    mean_score: float
    last_seen: int | None
    class_name: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class TrackSummary:
    """How a run ended.

    state     done, or interrupted (what was finished is kept)
    frames    masks written; ``gaps`` are the frames that could not be decoded and have none
    seconds   wall-clock time from the first decoded frame to the last written mask; of a run that was gone on with,
              the time before the interruption counts too
    made      paths of what was made: the folder of masks first
    resumed_after   the frame that was the last one done when this run went on with an unfinished one, else None
    """

    out: Path
    state: Literal["done", "interrupted"]
    frames: int
    gaps: tuple[int, ...]
    seconds: float
    objects: tuple[ObjectSummary, ...]
    warnings: tuple[str, ...]
    made: tuple[Path, ...]
    resumed_after: int | None = None


def track_to_folder(
    video: str | Path | VideoSource,
    out: str | PathLike[str],
    prompts: Iterable[GivenPrompt] | GivenPrompt = (),
    *,
    mask: AnyMask | Sequence[str | Path | MaskFile] | None = None,
    options: TrackOptions | None = None,
    save: Set[str] = PARTS,
    overwrite: bool = False,
    resume: bool = False,
    checkpoint_seconds: float | None = None,
    on_progress: OnProgress | None = None,
    on_render: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> TrackSummary:
    """Follow objects through a video and write masks, frames.jsonl, run.json and what ``save`` names into ``out``.

    video, prompts, mask   as for `vos.pipeline.track`
    save                   of "masks", "overlay", "contact"; masks are always kept, the others are made from them
    resume                 go on with an unfinished run in ``out``, from its last saved state, so that it ends with the
                           masks that it would have had; a finished one stays, and pictures that it lacks are made. What
                           cannot be gone on with (another direction than forward, other versions of libraries or
                           another device than before) is begun again, and ``warnings`` say so
    checkpoint_seconds     seconds between two saved states, more where saving takes long; None is
                           `vos.checkpoints.DEFAULT_SECONDS`, 0 saves none
    on_progress            called on this thread after every frame with (frames finished, frames in all); backward and
                           both ways every pass over the frames counts
    on_render              likewise while the overlay is made
    stop                   once set, the frame in work is finished and the run ends as interrupted

    Raises what `vos.pipeline.track` raises, OutputError where ``out`` cannot be written, holds a finished run (with
    ``resume``: a run with other inputs or options), or would replace what is read, DiskFullError where no room is left.
    Nothing is written before everything was checked.
    """
    if unknown := set(save) - PARTS:
        raise InputError(f"{', '.join(sorted(unknown))} cannot be saved; choose from {', '.join(sorted(PARTS))}")
    check_seconds(checkpoint_seconds)
    options = options or TrackOptions()
    source = open_source(video, options)
    try:
        job = prepare(source, prompts, mask, options, document=True)
        check_inputs(Path(out), [source.info.path, *(path for _, path in job.inputs)])
        options = settle(options)
        tracker = make_tracker(options)
        check_kinds(job, tracker)
        record = _record(job, options, notes_of(tracker))
        opened = open_results(out, record, resume=resume, overwrite=overwrite)
        with opened.folder as folder:
            saving = _checkpoints(opened, record, checkpoint_seconds)
            tally, opened = _Tally.of(opened.kept), replace(opened, kept=())
            if opened.finished is None:
                _follow(job, tracker, _Writing(opened, tally, saving), options.direction, on_progress, stop)
                keep_memory(tracker, options.save_memory)
            run = opened.finished or folder.finish(
                "interrupted" if _is_set(stop) and not tally.whole else "done",
                gaps=tuple(gap for gap in source.gaps if gap in job.tracked),
                warnings=source.warnings,
                class_names=dict(getattr(tracker, "class_names", {})),
            )
    finally:
        if source is not video:
            source.close()
    made: tuple[Path, ...] = (folder.path / MASKS_FOLDER,)
    if options.save_memory is not None:
        made = (*made, Path(options.save_memory))
    made += tuple(folder.path / _PICTURES[part] for part in sorted(save) if _PICTURES.get(part) in run.rendered)
    warnings = (*opened.notes, *run.warnings, *saving.trouble)
    state: Literal["done", "interrupted"] = "done" if run.state == "done" else "interrupted"
    pictures = {part for part in save if part in _PICTURES and _PICTURES[part] not in run.rendered}
    if state == "done" and pictures:
        moved = None if opened.finished is None else source.info.path
        rendered = _render(folder.path, moved, pictures, on_render, stop)
        state = "done" if rendered.made else "interrupted"
        made, warnings = made + rendered.made, warnings + rendered.warnings
    objects = tally.objects(job.ids, run.class_names, job.names)
    last = None if opened.checkpoint is None else opened.checkpoint.frame
    return TrackSummary(
        folder.path, state, run.frames_done, run.gaps, run.seconds, objects, warnings, made, resumed_after=last
    )


class _StopRenderingError(Exception):
    """The caller wants no more pictures."""


def _render(
    folder: Path, moved: Path | None, pictures: Set[str], on_render: OnProgress | None, stop: threading.Event | None
) -> Rendered:
    """Overlay and contact sheet; nothing, with a warning, once ``stop`` is set."""

    def heard(done: int, total: int) -> None:
        if on_render is not None:
            on_render(done, total)
        if _is_set(stop):
            raise _StopRenderingError

    try:
        return render(folder, what=pictures, video=moved, progress=heard)
    except _StopRenderingError:
        return Rendered((), (f"the pictures were not finished; `vos render {folder}` makes them from the masks",))
    except VosError as error:
        error.add_note(f"the masks are whole; `vos render {folder}` makes the pictures from them")
        raise


@dataclass
class _Tally:
    """What is known of the objects so far; filled by the writer thread, read when it has ended."""

    seen: dict[int, int] = field(default_factory=dict)
    score: dict[int, float] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    whole: bool = False  # the last frame was reached

    @classmethod
    def of(cls, kept: Iterable[FrameRecord]) -> _Tally:
        """With the frames of an earlier run that stay."""
        tally = cls()
        for record in kept:
            tally.count(record)
        return tally

    def count(self, record: FrameRecord) -> None:
        for found in record.objects:
            if found.area:
                self.seen[found.id] = self.seen.get(found.id, 0) + 1
                self.score[found.id] = self.score.get(found.id, 0.0) + found.score
                self.last[found.id] = record.frame

    def objects(
        self, ids: tuple[int, ...], class_names: Mapping[int, str], names: Mapping[int, str]
    ) -> tuple[ObjectSummary, ...]:
        return tuple(self._summary(i, class_names.get(i), names.get(i)) for i in ids)

    def _summary(self, object_id: int, class_name: str | None, name: str | None) -> ObjectSummary:
        seen = self.seen.get(object_id, 0)
        score = round(self.score.get(object_id, 0.0) / max(1, seen), 4)
        return ObjectSummary(object_id, seen, score, self.last.get(object_id), class_name, name)


@dataclass(frozen=True)
class _Writing:
    """Where results go: masks and lines into the folder, counts into the tally, states beside them."""

    opened: Opened
    tally: _Tally
    saving: Checkpoints

    def __call__(self, item: FrameResult | PackedState) -> None:
        """On the writer thread: a state comes after the result of its frame, and so after all that it presupposes."""
        if isinstance(item, FrameResult):
            self.tally.count(self.opened.folder.add(item))
        else:
            self.saving.write(item)


def _checkpoints(opened: Opened, record: RunRecord, seconds: float | None) -> Checkpoints:
    """Saves states where the run could be gone on with."""
    forward = record.options["direction"] == "forward"
    taken = 0.0 if opened.checkpoint is None else opened.checkpoint.seconds
    folder = opened.folder.path / STATES_FOLDER
    return Checkpoints(folder, made_from(record), seconds if forward else 0, taken=taken)


def _results(job: Job, tracker: Tracker, last: Checkpoint | None) -> Generator[FrameResult, None, None]:
    """The frames forward: all of them, or those after ``last``."""
    if last is None:
        return stream(job, tracker)
    tracker.load_state_dict(dict(last.tracker))
    last.tracker.clear()  # from here on the tracker decides how long its memory lives
    return stream(job, tracker, rest=frames_after(job.source, job.tracked, last), last=last.frame)


def _follow(
    job: Job,
    tracker: Tracker,
    writing: _Writing,
    direction: Direction,
    on_progress: OnProgress | None,
    stop: threading.Event | None,
) -> None:
    """Track every frame until the end or ``stop``; returns when the last finished frame is written."""
    tally, saving = writing.tally, writing.saving
    directed: DirectedResults | None = None
    results: Generator[FrameResult, None, None]
    if direction == "forward":
        results = _results(job, tracker, writing.opened.checkpoint)
    else:
        folder = writing.opened.folder.path
        remove_left_over(folder)
        directed = DirectedResults(job, tracker, direction, folder=folder, stop=stop, on_step=on_progress)
        results = iter(directed)

    with WriteBehind(writing, RESULTS_BEHIND) as writer, closing(results):
        for result in results:
            writer.put(result)
            if on_progress is not None and directed is None:
                on_progress(job.tracked.index(result.frame.index) + 1, len(job.tracked))
            stopped = _is_set(stop) and not (directed is not None and directed.stopped)
            if (stopped or saving.is_due) and (state := saving.take(result, tracker, job.source)) is not None:
                writer.put(state)
            if stopped:
                tally.whole = result.frame.index == job.tracked[-1]
                break
        else:
            tally.whole = directed is None or not directed.cut_short


def _record(job: Job, options: TrackOptions, notes: tuple[str, ...]) -> RunRecord:
    """What run.json says before the first frame."""
    inputs = [InputRecord.of("video", job.source.info.path)]
    inputs += [InputRecord.of(role, path) for role, path in job.inputs]
    if options.model is not None:
        from seem_core.model_store import locate

        inputs.append(InputRecord.of("weights", locate(options.model)))
    return RunRecord(
        video=replace(job.source.info, path=job.source.info.path.absolute()),
        tracked=(job.tracked.start, job.tracked.stop, job.tracked.step),
        ids=job.ids,
        inputs=tuple(inputs),
        options={**asdict(options), "prompts": dict(job.document or {})},
        warnings=(*job.warnings, *notes),
    )


def _is_set(stop: threading.Event | None) -> bool:
    return stop is not None and stop.is_set()
