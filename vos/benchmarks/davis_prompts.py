"""What a tracker is told of each object of an annotated sequence: its mask, a mark on it, or its mask on another frame.

A mark is made by the simulated user of `vos.benchmarks.first_marks` on the object's mask where it is annotated for the
first time. ``reference:K`` shows the object's mask on frame K of the clip as a picture of its own, from which the
object is to be found in the clip's first frame and followed from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seem_core.errors import DatasetError, InputError
from seem_core.prompts import MaskPrompt, Prompt, ReferencePrompt
from seem_core.training.strokes import SMALLEST, MarkKind
from trackers.base import Image, Labels
from vos.benchmarks.first_marks import Mask, first_mark, generator_for
from vos.benchmarks.layouts import AnnotatedSequence
from vos.benchmarks.measure import present_ids
from vos.benchmarks.protocols import Counted, Protocol
from vos.images import list_images, read_image
from vos.label_files import VOID, read_labels

REFERENCE_MARGIN = 5
"""Frames on both sides of the one that the reference shows, which say little and do not count."""
_REFERENCE = "reference:"


@dataclass(frozen=True)
class PromptChoice:
    """How every object is given: by its mask unless a `mark` or the frame of a `reference` is named.

    mark: the kind of mark on the first mask. reference: position of a frame among the clip's images, from 0. seed: of
    scribbles, polygons and circled areas.
    """

    mark: MarkKind | None = None
    reference: int | None = None
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> PromptChoice:
        """``mask``, ``point``, ``box``, ``scribble``, ``polygon``, ``circle`` or ``reference:K``.

        Raises InputError for anything else.
        """
        if text == "mask":
            return cls(seed=seed)
        if text.startswith(_REFERENCE) and text.removeprefix(_REFERENCE).isdecimal():
            return cls(reference=int(text.removeprefix(_REFERENCE)), seed=seed)
        if text in (kinds := [kind.value for kind in MarkKind]):
            return cls(MarkKind(text), seed=seed)
        raise InputError(f"--prompt is mask, {', '.join(sorted(kinds))} or reference:K with a frame K, not {text!r}")

    @property
    def label(self) -> str:
        """As `parse` reads it."""
        if self.reference is not None:
            return f"{_REFERENCE}{self.reference}"
        return "mask" if self.mark is None else self.mark.value

    @property
    def is_random(self) -> bool:
        """Whether the seed matters."""
        return self.mark not in (None, MarkKind.POINT, MarkKind.BOX)

    def of_object(self, sequence: str, given: MaskPrompt) -> list[Prompt]:
        """What a user who has the mask in mind gives. Objects too small to be drawn on are clicked on."""
        if self.mark is None:
            return [given]
        kind = self.mark if np.count_nonzero(given.mask) >= SMALLEST or not self.is_random else MarkKind.POINT
        generator = generator_for(self.seed, f"{sequence} {given.object_id}")
        return first_mark(given.mask, kind, generator, given.object_id)[0]


MASK_PROMPT = PromptChoice()


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
        new = [i for i in present_ids(labels) if i not in known]
        if new:
            prompts[frame] = tuple(MaskPrompt(labels == object_id, object_id) for object_id in new)
            known.update(new)
        if one_object and known:
            break
    if not prompts:
        raise DatasetError(f"sequence {sequence.name!r} has no object in its masks; 0/255 masks need --year 2016")
    return prompts


def reference_prompts(sequence: AnnotatedSequence, frame: int, *, one_object: bool = False) -> list[Prompt]:
    """Every object of frame `frame`, shown on that frame.

    Raises DatasetError where the clip is shorter, that frame has no mask or another size, or its mask no object.
    """
    path, labels = _reference(sequence, frame, one_object)
    image = read_image(path)
    check_size(sequence.name, labels, image, path)
    return [ReferencePrompt(image, labels == object_id, object_id) for object_id in present_ids(labels)]


def counted_beside(sequence: AnnotatedSequence, frame: int, protocol: Protocol) -> Counted:
    """What of a sequence counts where the objects of frame `frame` are the reference.

    The annotated frames more than REFERENCE_MARGIN frames from it, the first one too, since nothing was given there;
    the last one as the protocol has it. Raises DatasetError as `reference_prompts` does, and where no frame is left.
    """
    position = {path.stem: i for i, path in enumerate(sequence_images(sequence))}
    last = protocol.counted(sequence).stop
    kept = tuple(i for i in range(last) if abs(position[sequence.frames[i]] - frame) > REFERENCE_MARGIN)
    _, labels = _reference(sequence, frame, protocol.one_object)
    if not kept:
        raise DatasetError(
            f"sequence {sequence.name!r} has no annotated frame more than {REFERENCE_MARGIN} frames from {frame}; "
            "give another frame as reference"
        )
    return Counted(kept, tuple(present_ids(labels)))


def _reference(sequence: AnnotatedSequence, frame: int, one_object: bool) -> tuple[Path, Labels]:
    images = sequence_images(sequence)
    if frame >= len(images):
        raise DatasetError(f"sequence {sequence.name!r} has frames 0..{len(images) - 1}, no frame {frame}")
    path = images[frame]
    if path.stem not in sequence.masks:
        raise DatasetError(f"frame {frame} of sequence {sequence.name!r}, {path.name}, has no mask to refer to")
    labels = _objects(read_labels(sequence.masks[path.stem]), one_object)
    if not labels.any():
        raise DatasetError(f"the mask of frame {frame} of sequence {sequence.name!r} has no object to refer to")
    return path, labels


def check_size(sequence: str, mask: Labels | Mask, image: Image, path: Path) -> None:
    """Raise DatasetError where a mask does not have the size of its image, read from `path`."""
    if mask.shape != image.shape[:2]:
        (h, w), (H, W) = mask.shape, image.shape[:2]
        raise DatasetError(f"sequence {sequence!r}: mask {path.stem}.png is {w}x{h}, its image {path} is {W}x{H}")


def _objects(labels: Labels, one_object: bool) -> Labels:
    if one_object:
        return (labels > 0).astype(np.uint8)
    return np.where(labels == VOID, np.uint8(0), labels) if labels.dtype == np.uint8 else labels
