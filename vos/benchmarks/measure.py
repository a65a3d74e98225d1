"""J and F of many frames, each read once, in this process or in several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from seem_core.errors import LimitError, MaskError
from trackers.base import Labels
from vos.label_files import VOID, read_labels
from vos.metrics.frame import measure_labels

Progress = Callable[[int, int], None]  # frames done, frames in all
_CHUNK = 16  # frames that a worker takes at a time
_ALONE = 48  # fewer frames than this are done before other processes have started
_MOST_MERGED = 64  # more values than this in a one-object mask are the shades of a smoothed border


@dataclass(frozen=True)
class FrameTask:
    """One frame. ``prediction`` is None where only the ids of the truth matter; ``one_object`` takes all ids as 1."""

    sequence: str
    frame: str
    truth: Path
    prediction: Path | None
    one_object: bool = False


@dataclass(frozen=True)
class FrameMeasures:
    """What one frame says.

    true_ids       ids in the truth, without void
    predicted_ids  ids in the prediction, 255 included
    values         id -> (J, F) for all of both; an object in neither has 1 and 1 and is not listed
    void           whether the truth has 8-bit pixels of value 255
    merged         ids that were taken as one object, of both files, where there was more than one
    """

    true_ids: tuple[int, ...]
    predicted_ids: tuple[int, ...]
    values: dict[int, tuple[float, float]]
    void: bool = False
    merged: tuple[int, ...] = ()


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_frames(tasks: Sequence[FrameTask], jobs: int = 1, progress: Progress | None = None) -> list[FrameMeasures]:
    """Measures of ``tasks``, in their order, by up to ``jobs`` processes.

    Raises MaskError for a file that is no label map or not of the truth's size, LimitError where a process was killed.
    """
    if jobs < 1:
        raise ValueError(f"jobs is at least 1, not {jobs}")
    report = progress or (lambda done, total: None)
    chunks = [tasks[i : i + _CHUNK] for i in range(0, len(tasks), _CHUNK)]
    workers = min(jobs, len(chunks))
    if workers <= 1 or len(tasks) < _ALONE:
        return list(_in_this_process(tasks, report))
    return _in_processes(chunks, workers, len(tasks), report)


def _in_this_process(tasks: Sequence[FrameTask], report: Progress) -> Iterator[FrameMeasures]:
    for done, task in enumerate(tasks, start=1):
        yield measure_frame(task)
        report(done, len(tasks))


def _in_processes(chunks: list[Sequence[FrameTask]], workers: int, total: int, report: Progress) -> list[FrameMeasures]:
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        futures: list[Future[list[FrameMeasures]]] = [pool.submit(_measure_chunk, chunk) for chunk in chunks]
        done = 0
        for future in as_completed(futures):
            done += len(future.result())
            report(done, total)
        return [measures for future in futures for measures in future.result()]
    except BrokenProcessPool as error:
        raise LimitError(
            f"one of {workers} scoring processes was killed, probably for want of memory; use fewer with --jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """An interrupt is the parent's affair; every worker computes on one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)


def _measure_chunk(tasks: Sequence[FrameTask]) -> list[FrameMeasures]:
    return [measure_frame(task) for task in tasks]


def measure_frame(task: FrameTask) -> FrameMeasures:
    """Read one frame's files and measure every object. Raises MaskError, naming sequence and frame."""
    truth = _read(task, task.truth)
    prediction = _read(task, task.prediction) if task.prediction is not None else None
    if prediction is not None and prediction.shape != truth.shape:
        (h, w), (H, W) = prediction.shape, truth.shape
        raise MaskError(
            f"frame {task.frame} of sequence {task.sequence!r}: {task.prediction} is {w}x{h}, the ground truth is "
            f"{W}x{H}; write masks at the size of the ground truth"
        )
    merged: set[int] = set()
    if task.one_object:
        truth = _as_one_object(task, truth, task.truth, merged)
        prediction = None if prediction is None else _as_one_object(task, prediction, task.prediction, merged)
    return _measures(prediction, truth, tuple(sorted(merged)))


def _measures(prediction: Labels | None, truth: Labels, merged: tuple[int, ...]) -> FrameMeasures:
    true_ids = present_ids(truth)
    void = truth.dtype == np.uint8 and VOID in true_ids
    if void:
        true_ids.remove(VOID)
    if prediction is None:
        return FrameMeasures(tuple(true_ids), (), {}, void, merged)
    predicted_ids = present_ids(prediction)
    ids = sorted({*true_ids, *predicted_ids} - ({VOID} if void else set()))
    rows = measure_labels(prediction, truth, ids).tolist()
    values = {object_id: (j, f) for object_id, (j, f) in zip(ids, rows, strict=True)}
    return FrameMeasures(tuple(true_ids), tuple(predicted_ids), values, void, merged)


def present_ids(labels: Labels) -> list[int]:
    """Ids that occur in an (H, W) label map, ascending, 0 left out."""
    highest = int(labels.max())
    if highest <= 16:  # a few comparisons are much quicker than a histogram
        return [i for i in range(1, highest + 1) if (labels == i).any()]
    counts = np.bincount(labels.reshape(-1))
    return [int(i) for i in np.flatnonzero(counts) if i]


def _read(task: FrameTask, path: Path) -> Labels:
    try:
        return read_labels(path)
    except MaskError as error:
        raise MaskError(f"frame {task.frame} of sequence {task.sequence!r}: {error}") from error


def _as_one_object(task: FrameTask, labels: Labels, path: Path | None, merged: set[int]) -> Labels:
    ids = present_ids(labels)
    if len(ids) > _MOST_MERGED:
        raise MaskError(
            f"frame {task.frame} of sequence {task.sequence!r}: {path} has {len(ids)} values above 0, not one object; "
            "write 0 and 255"
        )
    if len(ids) > 1:
        merged.update(ids)
    return (labels > 0).astype(np.uint8)
