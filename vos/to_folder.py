"""A video and prompts in, a results folder out: `track_to_folder`, the way of `vos track`.

    reader thread -> queue -> this thread (tracker, memory) -> queue -> writer thread, then overlay and contact sheet

A fault in any stage ends the others and is raised here; what is whole stays, and run.json says how it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Literal

from seem_core.errors import InputError, VosError
from trackers.base import Tracker
from vos.directions import DirectedResults, Direction, remove_left_over
from vos.frames import FrameResult, VideoSource
from vos.output import FrameRecord, InputRecord, ResultFolder, RunRecord, check_inputs
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
from vos.render import Rendered, render
from vos.run_record import MASKS_FOLDER
from vos.saved_memory import keep_memory

RESULTS_BEHIND = 4  # finished frames that wait for the writer
PARTS = frozenset({"masks", "overlay", "contact"})

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
    seconds   wall-clock time from the first decoded frame to the last written mask
    made      paths of what was made: the folder of masks first
    """

    out: Path
    state: Literal["done", "interrupted"]
    frames: int
    gaps: tuple[int, ...]
    seconds: float
    objects: tuple[ObjectSummary, ...]
    warnings: tuple[str, ...]
    made: tuple[Path, ...]


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
    resume                 go on from the last saved state of an unfinished run of the same inputs and options
    checkpoint_seconds     seconds between two saved states; None for the default, 0 for none
    on_progress            called on this thread after every frame with (frames finished, frames in all); backward and
                           both ways every pass over the frames counts
    on_render              likewise while the overlay is made
    stop                   once set, the frame in work is finished and the run ends as interrupted

    Raises what `vos.pipeline.track` raises, OutputError where ``out`` cannot be written, holds a finished run, or would
    replace what is read, DiskFullError where no room is left. Nothing is written before everything was checked.
    """
    if unknown := set(save) - PARTS:
        raise InputError(f"{', '.join(sorted(unknown))} cannot be saved; choose from {', '.join(sorted(PARTS))}")
    options = options or TrackOptions()
    source = open_source(video, options)
    try:
        job = prepare(source, prompts, mask, options, document=True)
        check_inputs(Path(out), [source.info.path, *(path for _, path in job.inputs)])
        options = settle(options)
        tracker = make_tracker(options)
        check_kinds(job, tracker)
        record = _record(job, options, notes_of(tracker))
        with ResultFolder.create(out, overwrite=overwrite) as folder:
            folder.begin(record)
            tally = _follow(job, tracker, folder, options.direction, on_progress, stop)
            state: Literal["done", "interrupted"] = "interrupted" if _is_set(stop) and not tally.whole else "done"
            gaps = tuple(gap for gap in source.gaps if gap in job.tracked)
            names = dict(getattr(tracker, "class_names", {}))
            run = folder.finish(state, gaps=gaps, warnings=source.warnings, class_names=names)
        keep_memory(tracker, options.save_memory)
    finally:
        if source is not video:
            source.close()
    made: tuple[Path, ...] = (folder.path / MASKS_FOLDER,)
    if options.save_memory is not None:
        made = (*made, Path(options.save_memory))
    warnings = run.warnings
    if state == "done" and (pictures := save & {"overlay", "contact"}):
        rendered = _render(folder.path, pictures, on_render, stop)
        state = "done" if rendered.made else "interrupted"
        made, warnings = made + rendered.made, warnings + rendered.warnings
    objects = tally.objects(job.ids, run.class_names, job.names)
    return TrackSummary(folder.path, state, run.frames_done, gaps, run.seconds, objects, warnings, made)


class _StopRenderingError(Exception):
    """The caller wants no more pictures."""


def _render(folder: Path, pictures: Set[str], on_render: OnProgress | None, stop: threading.Event | None) -> Rendered:
    """Overlay and contact sheet; nothing, with a warning, once ``stop`` is set."""

    def heard(done: int, total: int) -> None:
        if on_render is not None:
            on_render(done, total)
        if _is_set(stop):
            raise _StopRenderingError

    try:
        return render(folder, what=pictures, progress=heard)
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


def _follow(
    job: Job,
    tracker: Tracker,
    folder: ResultFolder,
    direction: Direction,
    on_progress: OnProgress | None,
    stop: threading.Event | None,
) -> _Tally:
    """Track every frame until the end or ``stop``; returns when the last finished frame is written."""
    tally = _Tally()
    directed: DirectedResults | None = None
    if direction == "forward":
        results = stream(job, tracker)
    else:
        remove_left_over(folder.path)
        directed = DirectedResults(job, tracker, direction, folder=folder.path, stop=stop, on_step=on_progress)
        results = iter(directed)

    def write(result: FrameResult) -> None:
        tally.count(folder.add(result))

    with WriteBehind(write, RESULTS_BEHIND) as writer, closing(results):
        for result in results:
            writer.put(result)
            if on_progress is not None and directed is None:
                on_progress(job.tracked.index(result.frame.index) + 1, len(job.tracked))
            if _is_set(stop) and not (directed is not None and directed.stopped):
                tally.whole = result.frame.index == job.tracked[-1]
                break
        else:
            tally.whole = directed is None or not directed.cut_short
    return tally


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
