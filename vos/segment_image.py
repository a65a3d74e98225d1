"""One picture and prompts in, masks out, in rounds: `segment_image`, the way of `vos segment`.

OUT/masks.png       label map at the picture's size: object ids, or regions of the panoptic map
OUT/overlay.png     the picture with the masks and the prompts drawn on it: positive green, negative blue
OUT/segments.json   per object score, area, box and class; per round how they changed; written last
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from seem_core.class_embeddings import default_cache
from seem_core.coco import COCO_PANOPTIC
from seem_core.errors import MaskError, OutputError, PromptError, VosError
from seem_core.geometry import InputSize
from seem_core.object_requests import OutputQuery
from seem_core.prompt_canvas import MARKS, check_mark
from seem_core.prompts import Prompt, TextPrompt
from seem_core.segmenter import Precision, SeemFeatures, SeemSegmenter, load_segmenter
from seem_core.segmenter_types import Prediction, masks_as_prediction
from seem_core.vocabulary import make_vocabulary
from trackers.base import Labels
from vos.device import pick_device, tune_process
from vos.drawing import Rgb, draw_objects
from vos.images import read_image
from vos.label_files import encode_labels, read_labels, write_whole
from vos.masks import MaskFormat
from vos.picture_limit import set_max_pixels
from vos.prompt_drawing import draw_prompts, write_below
from vos.prompt_file import PromptTarget, read_prompts
from vos.prompt_json import Numbering
from vos.prompt_sources import MaskFile, ReferenceFile, read_mask_file, read_reference
from vos.prompts import Forget, TimedPrompt, at_place

FORMAT = 1
MASKS_FILE, OVERLAY_FILE, SEGMENTS_FILE = "masks.png", "overlay.png", "segments.json"
DEFAULT_MODEL = "seem-focal-t-v0"
_LINES_BELOW = 12


@dataclass(frozen=True)
class SegmentOptions:
    """How a picture is segmented.

    model: a name or a converted file. size: how large pictures are encoded; None: as the model says.
    vocabulary: class names; empty: those of the model, if it has any. panoptic: everything, not what prompts name.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    size: InputSize | None = None
    precision: Precision = "fp32"
    output_query: OutputQuery = "auto"
    vocabulary: tuple[str, ...] = ()
    panoptic: bool = False
    mask_format: MaskFormat = "auto"
    threads: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class PromptFiles:
    """Prompts that lie in files. references: other pictures, or frames of videos, that show an object.

    rounds: one file of prompts per further round (`vos.prompt_file`). previous: label map of a round before the first.
    """

    masks: tuple[MaskFile, ...] = ()
    references: tuple[ReferenceFile, ...] = ()
    rounds: tuple[Path, ...] = ()
    previous: Path | None = None


@dataclass(frozen=True)
class SegmentedObject:
    """One object or region. score: 0..1. area: pixels. box: x0, y0, x1, y1 of its pixels, both ends inside, or None.

    class_name: None without a vocabulary and where no class fits. thing: whether it is countable, in panoptic maps.
    """

    id: int
    score: float
    area: int
    box: tuple[int, int, int, int] | None
    class_name: str | None = None
    thing: bool | None = None


@dataclass(frozen=True)
class RoundSummary:
    """One round: prompts of this round alone, whether a previous mask was read, and the objects after it."""

    prompts: int
    read_previous: bool
    objects: tuple[SegmentedObject, ...]


@dataclass(frozen=True)
class SegmentSummary:
    """What came out. encoded: (height, width) at which the picture was read. seconds: without loading the model."""

    out: Path
    image: Path
    size: tuple[int, int]
    encoded: tuple[int, int]
    model: str
    routing: str
    trained: str
    mode: Literal["prompts", "panoptic"]
    objects: tuple[SegmentedObject, ...]
    rounds: tuple[RoundSummary, ...]
    seconds: float
    warnings: tuple[str, ...]
    made: tuple[Path, ...]
    format: int = field(default=FORMAT)


def segment_image(
    image: str | Path,
    out: str | PathLike[str],
    prompts: Sequence[Prompt] = (),
    files: PromptFiles | None = None,
    *,
    options: SegmentOptions | None = None,
    segmenter: SeemSegmenter | None = None,
    overwrite: bool = False,
    on_classes: Callable[[int, int], None] | None = None,
) -> SegmentSummary:
    """Segment one picture and write masks, overlay and JSON into ``out``.

    prompts and the masks and references of ``files`` are the first round; each round file is one more. A round is
    decoded with all prompts so far and the masks of the round before (SPEC §8); routing `demo` goes by the prompts.
    segmenter: instead of the model that ``options`` name. on_classes: sentences encoded so far and in all, where class
    embeddings must be computed.

    Everything that can be refused is refused before the model is loaded. Raises VideoError for the picture, PromptError
    and MaskError for prompts, CheckpointError for the model, OutputError and DiskFullError for the results.
    """
    options, files = options or SegmentOptions(), files or PromptFiles()
    set_max_pixels(options.max_pixels)
    image, folder = Path(image), Path(out)
    _refuse(folder, overwrite)
    pixels = read_image(image)
    size = (pixels.shape[0], pixels.shape[1])
    rounds, notes = _rounds(image, prompts, files, size, options)
    previous = None if files.previous is None else _previous_labels(files.previous, size)
    if segmenter is None:
        segmenter = _load(options)
    _give_vocabulary(segmenter, options, on_classes)
    if previous is not None and not segmenter.reads_previous_mask:
        raise PromptError(
            f"model {segmenter.name} with routing demo does not read a previous mask; leave out --previous"
        )
    began = time.perf_counter()
    features = segmenter.encode(torch.tensor(pixels).permute(2, 0, 1))
    if options.panoptic:
        labels, objects = _panoptic(segmenter, features)
        done: tuple[RoundSummary, ...] = ()
    else:
        labels, done = _play(segmenter, features, rounds, previous)
        objects = done[-1].objects
    seconds = time.perf_counter() - began
    overlay = _overlay(pixels, labels, [prompt for given in rounds for prompt in given], objects)
    summary = SegmentSummary(
        folder, image, size, features.geometry.image, segmenter.name, segmenter.model.config.routing, segmenter.trained,
        "panoptic" if options.panoptic else "prompts", objects, done, round(seconds, 3),
        (*notes, *_warnings(segmenter)), tuple(folder / name for name in (MASKS_FILE, OVERLAY_FILE, SEGMENTS_FILE)),
    )  # fmt: skip
    _write(folder, labels, overlay, summary)
    return summary


# --- before the model ---


def _refuse(folder: Path, overwrite: bool) -> None:
    try:
        there = [name for name in (MASKS_FILE, OVERLAY_FILE, SEGMENTS_FILE) if (folder / name).exists()]
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; name a folder for the results")
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror or error})") from error
    if there and not overwrite:
        raise OutputError(f"{folder} already holds {there[0]}; choose another folder, or replace it with --overwrite")


def _rounds(
    image: Path, prompts: Sequence[Prompt], files: PromptFiles, size: tuple[int, int], options: SegmentOptions
) -> tuple[list[tuple[Prompt, ...]], tuple[str, ...]]:
    """The prompts of every round, checked against the picture, and warnings about what files were taken for."""
    first, notes = [TimedPrompt(prompt) for prompt in prompts], list[str]()
    for mask in files.masks:
        if mask.when is not None:
            raise PromptError(f"a picture has no frames; leave out @ after {mask.path}")
        found, said = read_mask_file(mask, size, options.mask_format)
        first, notes = [*first, *found], [*notes, *said]
    for reference in files.references:
        found, said = read_reference(reference, options.mask_format)
        first, notes = [*first, *found], [*notes, *said]
    rounds = [first] if first else []
    target, numbering = PromptTarget.picture(image, size), Numbering()
    for path in files.rounds:
        file = read_prompts(path, target, mask_format=options.mask_format, numbering=numbering)
        rounds.append(list(file.prompts))
        notes += file.warnings
    if options.panoptic and (rounds or files.previous):
        raise PromptError("panoptic segments everything; leave out the prompts, or leave out --panoptic")
    if not options.panoptic and not rounds:
        raise PromptError("nothing says what to segment; give a point, a box, a mask, a reference, words or --panoptic")
    return [tuple(_checked(timed, size) for timed in given) for given in rounds], tuple(notes)


def _checked(timed: TimedPrompt, size: tuple[int, int]) -> Prompt:
    prompt = timed.prompt
    if isinstance(prompt, Forget):
        raise PromptError(f"a picture has no frames on which object {prompt.object_id} could end")
    if isinstance(prompt, MARKS):
        try:
            check_mark(prompt, size)
        except VosError as error:
            raise at_place(error, timed.origin.place) from error
    return prompt


def _previous_labels(path: Path, size: tuple[int, int]) -> Labels:
    labels = read_labels(path)
    if labels.shape != size:
        raise MaskError(
            f"previous mask {path} is {labels.shape[1]}x{labels.shape[0]}, the picture {size[1]}x{size[0]}; "
            f"give the {MASKS_FILE} of an earlier round on this picture"
        )
    if not labels.any():
        raise MaskError(f"previous mask {path} is empty; leave out --previous")
    return labels


def _load(options: SegmentOptions) -> SeemSegmenter:
    tune_process(options.threads)
    return load_segmenter(
        options.model,
        device=pick_device(options.device),
        precision=options.precision,
        input_size=options.size,
        output_query=options.output_query,
    )


def _give_vocabulary(
    segmenter: SeemSegmenter, options: SegmentOptions, on_classes: Callable[[int, int], None] | None
) -> None:
    """The user's classes; COCO's where everything is asked for and the model's file holds none."""
    names = options.vocabulary or (COCO_PANOPTIC if options.panoptic and segmenter.vocabulary is None else ())
    if not names:
        return
    encoder = segmenter.model.text_encoder
    if encoder is None:
        raise PromptError(f"model {segmenter.name} has no text encoder and tells no classes apart; use another model")
    segmenter.use_vocabulary(make_vocabulary(encoder, names, cache=default_cache(), progress=on_classes))


# --- with the model ---


def _play(
    segmenter: SeemSegmenter, features: SeemFeatures, rounds: Sequence[Sequence[Prompt]], previous: Labels | None
) -> tuple[Labels, tuple[RoundSummary, ...]]:
    """All rounds in order; the label map of the last one."""
    before = None if previous is None else _as_prediction(previous, features)
    given: list[Prompt] = []
    done = []
    for prompts in rounds:
        given += prompts
        found = segmenter.segment(features, given, before)
        labels = found.labels()
        done.append(RoundSummary(len(prompts), before is not None, _objects(found, labels)))
        before = found if segmenter.reads_previous_mask else None
    return labels, tuple(done)


def _as_prediction(labels: Labels, features: SeemFeatures) -> Prediction:
    ids = [int(i) for i in np.unique(labels) if i]
    each = [masks_as_prediction(torch.from_numpy(labels == i)[None], features.geometry, (i,)) for i in ids]
    return Prediction(
        tuple(ids), torch.cat([p.logits for p in each]), torch.cat([p.scores for p in each]), features.geometry
    )


def _panoptic(segmenter: SeemSegmenter, features: SeemFeatures) -> tuple[Labels, tuple[SegmentedObject, ...]]:
    found = segmenter.panoptic(features)
    ids = found.ids.cpu().numpy()
    labels: Labels = ids.astype(np.uint8) if len(found.segments) <= 255 else ids.astype(np.uint16)
    vocabulary = segmenter.vocabulary
    return labels, tuple(
        _measured(labels, s.id, s.score, vocabulary.name(s.class_index) if vocabulary else None, s.is_thing)
        for s in found.segments
    )


def _objects(found: Prediction, labels: Labels) -> tuple[SegmentedObject, ...]:
    names = found.class_names or (None,) * len(found.ids)
    scores = found.scores.tolist()
    return tuple(_measured(labels, i, score, name) for i, score, name in zip(found.ids, scores, names, strict=True))


def _measured(
    labels: Labels, object_id: int, score: float, name: str | None, thing: bool | None = None
) -> SegmentedObject:
    mask = labels == object_id
    area = int(mask.sum())
    box = None
    if area:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return SegmentedObject(object_id, round(score, 4), area, box, name, thing)


def _warnings(segmenter: SeemSegmenter) -> tuple[str, ...]:
    if segmenter.trained == "full":
        return ()
    return (f"the weights of {segmenter.name} are not trained (trained: {segmenter.trained}); its masks mean nothing",)


# --- after the model ---


def _overlay(pixels: Rgb, labels: Labels, prompts: Sequence[Prompt], objects: Sequence[SegmentedObject]) -> Rgb:
    picture = pixels.copy()
    draw_objects(picture, labels)
    draw_prompts(picture, prompts)
    said = [f'{p.object_id}: "{p.text}"' for p in prompts if isinstance(p, TextPrompt)]
    found = [f"{o.id}: {o.class_name or 'object'} {o.score:.2f}" for o in objects]
    return write_below(picture, (said + found)[:_LINES_BELOW])


def _write(folder: Path, labels: Labels, overlay: Rgb, summary: SegmentSummary) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} ({error.strerror or error})") from error
    buffer = io.BytesIO()
    Image.fromarray(overlay).save(buffer, "PNG", compress_level=3)
    text = json.dumps(asdict(summary), indent=2, ensure_ascii=False, default=str)
    write_whole(folder / MASKS_FILE, encode_labels(labels))
    write_whole(folder / OVERLAY_FILE, buffer.getvalue())
    write_whole(folder / SEGMENTS_FILE, (text + "\n").encode("utf-8", "surrogateescape"))
