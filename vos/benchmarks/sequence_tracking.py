"""Run one tracker over annotated sequences, as a benchmark does: prompted by what the truth says of each object."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from seem_core.prompts import Prompt
from trackers.base import Image, Tracker
from vos.benchmarks.davis_prompts import (
    MASK_PROMPT,
    PromptChoice,
    check_size,
    first_masks,
    reference_prompts,
    sequence_images,
)
from vos.benchmarks.layouts import AnnotatedSequence
from vos.device import tune_process
from vos.images import read_image
from vos.label_files import write_labels
from vos.writing import writing

if TYPE_CHECKING:
    from seem_core.segmenter_types import Segmenter
    from trackers import DecoderUse

BuildTracker = Callable[[str, str], Tracker]  # name, device


@dataclass(frozen=True)
class Named:
    """Builds the trackers that `trackers.build_tracker` knows by name.

    model: name or file of a SEEM model, for those that can use one. decoder: for those that can do without. fast: the
    fast setting of those that have one.
    """

    model: str | None = None
    decoder: DecoderUse = "auto"
    fast: bool = False

    def __call__(self, name: str, device: str) -> Tracker:
        """A fresh tracker. Raises as `trackers.build_tracker` does."""
        from trackers import TRACKERS, build_tracker

        kind = TRACKERS[name]
        model = _segmenter(self.model, device) if self.model is not None and kind.model != "unused" else None
        decoder = self.decoder if kind.decoder else "auto"
        return build_tracker(name, device=device, model=model, decoder=decoder, fast=self.fast and kind.fast)


@lru_cache(maxsize=1)
def _segmenter(model: str, device: str) -> Segmenter:
    """Sequences have a fresh tracker each, but read the same weights."""
    from seem_core.segmenter import load_segmenter

    return load_segmenter(model, device=device)


build_named = Named()


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
    prompt: PromptChoice = MASK_PROMPT


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
    given = _prompter(sequence, images, request)
    folder = request.out / sequence.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tracker = request.build(request.tracker, request.device)
    tune_process(request.threads)
    began = time.perf_counter()
    for path in images:
        image = read_image(path)
        write_labels(folder / f"{path.stem}.png", tracker.step(image, given(path, image)).labels)
        send(1)
    return SequenceTime(sequence.name, len(images), time.perf_counter() - began)


def _prompter(
    sequence: AnnotatedSequence, images: Sequence[Path], request: TrackingRequest
) -> Callable[[Path, Image], list[Prompt]]:
    """What is given on each frame, by image file and (H, W, 3) image."""
    choice = request.prompt
    if choice.reference is not None:
        shown = reference_prompts(sequence, choice.reference, one_object=request.one_object)
        return lambda path, image: shown if path == images[0] else []
    masks = first_masks(sequence, one_object=request.one_object, late_objects=request.late_objects)

    def on_frame(path: Path, image: Image) -> list[Prompt]:
        given = masks.get(path.stem, ())
        if given:
            check_size(sequence.name, given[0].mask, image, path)
        return [prompt for mask in given for prompt in choice.of_object(sequence.name, mask)]

    return on_frame
