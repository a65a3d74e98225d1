"""Run one tracker over annotated sequences, as a benchmark does: prompted by the first mask of each object."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seem_core.errors import DatasetError
from seem_core.prompts import MaskPrompt
from trackers.base import Labels, Tracker
from vos.benchmarks.layouts import AnnotatedSequence
from vos.device import set_threads
from vos.images import list_images, read_image
from vos.label_files import VOID, read_labels, write_labels
from vos.writing import writing

BuildTracker = Callable[[str, str], Tracker]  # name, device


def build_named(name: str, device: str) -> Tracker:
    """The tracker that `trackers.build_tracker` knows by this name."""
    from trackers import build_tracker

    return build_tracker(name, device=device)


@dataclass(frozen=True)
class TrackingRequest:
    """What one process is to do. Masks go to ``out/<sequence>/<frame>.png``.

    one_object   everything above 0 is object 1 (DAVIS-2016)
    late_objects objects that appear after the first annotated frame are prompted where they do
    """

    tracker: str
    sequences: tuple[AnnotatedSequence, ...]
    out: Path
    device: str = "cpu"
    threads: int | None = None
    one_object: bool = False
    late_objects: bool = True
    build: BuildTracker = build_named


@dataclass(frozen=True)
class SequenceTime:
    """Wall time of one sequence, from image files to written mask files; building the tracker is not in it."""

    sequence: str
    frames: int
    seconds: float

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / max(self.seconds, 1e-9)


def track_sequences(send: Callable[[int], None], request: TrackingRequest) -> tuple[SequenceTime, ...]:
    """Track every sequence with a fresh tracker; ``send(1)`` after each frame.

    Raises DatasetError for a sequence without objects, or with images that do not fit its masks.
    """
    return tuple(_track_sequence(sequence, send, request) for sequence in request.sequences)


def _track_sequence(sequence: AnnotatedSequence, send: Callable[[int], None], request: TrackingRequest) -> SequenceTime:
    images = sequence_images(sequence)
    prompts = first_masks(sequence, one_object=request.one_object, late_objects=request.late_objects)
    folder = request.out / sequence.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tracker = request.build(request.tracker, request.device)
    set_threads(request.threads)
    began = time.perf_counter()
    for path in images:
        image = read_image(path)
        given = prompts.get(path.stem, ())
        if given and given[0].mask.shape != image.shape[:2]:
            (h, w), (H, W) = given[0].mask.shape, image.shape[:2]
            raise DatasetError(
                f"sequence {sequence.name!r}: mask {path.stem}.png is {w}x{h}, its image {path} is {W}x{H}"
            )
        write_labels(folder / f"{path.stem}.png", tracker.step(image, given).labels)
        send(1)
    return SequenceTime(sequence.name, len(images), time.perf_counter() - began)


def sequence_images(sequence: AnnotatedSequence) -> list[Path]:
    """Image files of a sequence, in order. Raises DatasetError where there are none, or one lacks below a mask."""
    if sequence.images is None:
        raise DatasetError(
            f"sequence {sequence.name!r} has no images; JPEGImages/<resolution>/{sequence.name} is needed"
        )
    images = list_images(sequence.images)
    stems = {path.stem for path in images}
    if missing := [frame for frame in sequence.frames if frame not in stems]:
        raise DatasetError(f"sequence {sequence.name!r} has a mask but no image {missing[0]} in {sequence.images}")
    return images


def first_masks(
    sequence: AnnotatedSequence, *, one_object: bool = False, late_objects: bool = True
) -> dict[str, tuple[MaskPrompt, ...]]:
    """Frame name -> a mask prompt for each object that is annotated there for the first time.

    Raises DatasetError where no mask holds an object.
    """
    prompts: dict[str, tuple[MaskPrompt, ...]] = {}
    known: set[int] = set()
    frames = list(sequence.masks.items())
    for frame, path in frames if late_objects else frames[:1]:
        labels = _objects(read_labels(path), one_object)
        new = sorted(set(np.unique(labels).tolist()) - known - {0})
        if new:
            prompts[frame] = tuple(MaskPrompt(labels == object_id, object_id) for object_id in new)
            known.update(new)
        if one_object and known:
            break
    if not prompts:
        raise DatasetError(f"sequence {sequence.name!r} has no object in its masks; 0/255 masks need --year 2016")
    return prompts


def _objects(labels: Labels, one_object: bool) -> Labels:
    if one_object:
        return (labels > 0).astype(np.uint8)
    return np.where(labels == VOID, np.uint8(0), labels) if labels.dtype == np.uint8 else labels
