"""Training pictures for SEEM: flipped, scaled, cropped, with simulated marks and class words for their objects.

What is drawn follows SPEC §9 (published training): a picture is scaled by a random factor against the input, a random
square of it is taken or it is padded; up to ten of its objects are marked, each in a kind of its own; up to four class
names become words; a random number of correction rounds goes before the one that is learned from.

S input side, N objects, M marked objects, all of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import DatasetError, InputError
from seem_core.training.pack import Pack, PackedFrame
from seem_core.training.strokes import SMALLEST, MarkKind, mark_object

KindName = Literal["point", "polygon", "scribble", "circle", "box"]
STROKE_SIDE = 1024  # pixels of the picture that strokes are sized for
TRIES = 6  # crops drawn until one holds an object
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PictureConfig:
    """How pictures and prompts vary.

    flip      share of pictures that are mirrored
    scale     least and largest size of a picture against the input; published (0.1, 2)
    objects   most objects that are marked
    kinds     of marks, each as likely; published without boxes
    words     most class names that are given as words
    rounds    most rounds of clicks before the one with a gradient
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 2.0)
    objects: int = 10
    kinds: tuple[KindName, ...] = ("point", "polygon", "scribble", "circle", "box")
    words: int = 4
    rounds: int = 5

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 10 or not 0 <= self.flip <= 1:
            raise InputError(f"scale is two numbers with 0 < least <= most <= 10, flip a share: {self}")
        if self.objects < 1 or self.words < 0 or self.rounds < 0 or not self.kinds:
            raise InputError(f"objects is at least 1, words and rounds at least 0, kinds not empty: {self}")


@dataclass(frozen=True, eq=False)
class PicturePlan:
    """One picture and what is asked about it.

    image: (S, S, 3) uint8 RGB. labels: (S, S) uint8. ids: (N,) objects, categories: (N,) their classes, -1 unknown.
    marked: (M,) positions in ids. marks: (M, S, S) bool. words: pairs (class, number that picks a template).
    complete: whether every object has a class, so that all of them can be asked for. rounds: of clicks.
    """

    image: npt.NDArray[np.uint8]
    labels: Labels
    ids: npt.NDArray[np.int64]
    categories: npt.NDArray[np.int64]
    marked: npt.NDArray[np.int64]
    marks: Mask
    words: tuple[tuple[int, int], ...]
    complete: bool
    rounds: int

    def masks(self, of: npt.NDArray[np.int64] | None = None) -> Mask:
        """(n, S, S) bool of all objects, or of those at positions `of`."""
        ids = self.ids if of is None else self.ids[of]
        masks: Mask = self.labels[None] == ids[:, None, None]
        return masks


class PicturePlanner:
    """Draws batches of pictures from a pack."""

    def __init__(self, pack: Pack, config: PictureConfig, *, fill: Sequence[float], words: bool) -> None:
        """fill: RGB colour beside a picture that is smaller than the input. words: whether classes are spoken of."""
        self.pack, self.config, self.words = pack, config, words
        self.fill = np.clip(np.round(fill), 0, 255).astype(np.uint8)
        self._clips = [clip for clip in pack.clips if any(f.objects for f in clip.frames)]
        sources: dict[str, int] = {}
        for clip in self._clips:
            sources[clip.source] = sources.get(clip.source, 0) + 1
        # a source counts by n^0.75, so that small ones are seen more often; a sequence by the root of its length
        weight = np.array([math.sqrt(len(clip.frames)) * sources[clip.source] ** -0.25 for clip in self._clips])
        self._weight = weight / weight.sum()

    def plan(self, seed: int, step: int, clips: int, frames: int, size: int) -> tuple[PicturePlan, ...]:
        """``clips`` pictures of size x size, a pure function of the arguments.

        Raises DatasetError for a damaged picture, or one whose objects are too small at this size.
        """
        rng = np.random.default_rng([seed, step])
        return tuple(self._one(rng, size) for _ in range(clips))

    def _one(self, rng: np.random.Generator, size: int) -> PicturePlan:
        clip = self._clips[int(rng.choice(len(self._clips), p=self._weight))]
        with_object = [frame for frame in clip.frames if frame.objects]
        frame = with_object[int(rng.integers(len(with_object)))]
        image, labels = self.pack.decode(frame)
        for attempt in range(TRIES):
            scale = 1.0 if attempt == TRIES - 1 else math.exp(rng.uniform(*np.log(self.config.scale)))
            view, seen = _view(image, labels, size, scale, bool(rng.random() < self.config.flip), rng, self.fill)
            ids = _large_enough(seen, [o.id for o in frame.objects])
            if len(ids):
                return self._ask(rng, frame, view, seen, ids)
        raise DatasetError(f"no object of {clip.name} is visible at {size} pixels; train with a larger size")

    def _ask(
        self,
        rng: np.random.Generator,
        frame: PackedFrame,
        image: npt.NDArray[np.uint8],
        labels: Labels,
        ids: npt.NDArray[np.int64],
    ) -> PicturePlan:
        config = self.config
        known: Mapping[int, int] = {o.id: o.category for o in frame.objects}
        categories = np.array([known.get(int(i), -1) for i in ids], np.int64)
        count = int(rng.integers(1, min(config.objects, len(ids)), endpoint=True))
        marked = np.sort(rng.permutation(len(ids))[:count]).astype(np.int64)
        scale = image.shape[0] / STROKE_SIDE
        kinds = [MarkKind(config.kinds[int(rng.integers(len(config.kinds)))]) for _ in marked]
        marks = np.stack(
            [mark_object(labels == ids[n], rng, kind, scale) for n, kind in zip(marked, kinds, strict=True)]
        )
        words: tuple[tuple[int, int], ...] = ()
        classes = np.unique(categories[categories >= 0])
        if self.words and config.words and len(classes):
            count = int(rng.integers(1, config.words, endpoint=True))
            chosen = rng.permutation(classes)[:count]
            words = tuple((int(c), int(rng.integers(2**31))) for c in chosen)
        complete = all(o.category >= 0 for o in frame.objects)
        rounds = int(rng.integers(0, config.rounds, endpoint=True))
        return PicturePlan(image, labels, ids, categories, marked, marks, words, complete, rounds)


def _view(
    image: npt.NDArray[np.uint8],
    labels: Labels,
    size: int,
    scale: float,
    flip: bool,
    rng: np.random.Generator,
    fill: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """The picture at `scale` times the size at which it fits into size x size, cropped or padded to that."""
    h, w = labels.shape
    ratio = scale * size / max(h, w)
    sides = (max(1, round(w * ratio)), max(1, round(h * ratio)))
    smooth = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    image = cv2.resize(image, sides, interpolation=smooth).astype(np.uint8, copy=False)
    labels = cv2.resize(labels, sides, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)
    if flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    top, left = (int(rng.integers(0, max(side - size, 0), endpoint=True)) for side in labels.shape)
    image, labels = image[top : top + size, left : left + size], labels[top : top + size, left : left + size]
    view = np.empty((size, size, 3), np.uint8)
    view[:] = fill
    seen = np.zeros((size, size), np.uint8)
    view[: image.shape[0], : image.shape[1]] = image
    seen[: labels.shape[0], : labels.shape[1]] = labels
    return view, seen


def _large_enough(labels: Labels, targets: Sequence[int]) -> npt.NDArray[np.int64]:
    """Those of the targets, ascending, that cover as many pixels as a user needs to mark them."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return np.array([i for i in sorted(targets) if counts[i] >= SMALLEST], np.int64)
