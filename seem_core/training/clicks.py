"""A user who clicks: first deep inside the object, then deep inside the larger error of each answer.

The protocol of interactive segmentation as SEEM was trained and measured with it (SPEC §8; the idea is usual in the
field, e.g. Sofiiuk et al., arXiv:2102.06583). Masks are (H, W) bool of the padded input; a place is (row, column).

"Deep" is measured by an *approximate* distance to the outside, not the Euclidean one, and the place of a click depends
on that. The approximation grows the outside by one ring of eight neighbours at a time (a pixel's ring is its chessboard
distance) and adds within the ring ``-0.35 log`` of the sum of ``exp(-d / 0.35)`` over the neighbours already reached.
Since the rings are chessboard distances, one pass gives what the published code finds ring by ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError

Mask = npt.NDArray[np.bool_]
Mode = Literal["best", "best_random"]

GOOD_ENOUGH = 0.925
"""IoU from which the user has nothing to correct."""
CLICK_SIDE = 3
"""A click marks a square of so many pixels around its place."""
_SOFTNESS = 0.35


class RingOffset(Enum):
    """What ring i (0 at the border) counts.

    PUBLISHED: floor(3 i / 2), as the pinned version of the published code's image library (kornia 0.7.0) does, and so
    what its figures were measured with. PLAIN: i, as later versions do.
    """

    PUBLISHED = "published"
    PLAIN = "plain"


@dataclass(frozen=True)
class Click:
    """A place, and whether it is on the object."""

    row: int
    column: int
    positive: bool = True


@dataclass(frozen=True, eq=False)
class ClickMarks:
    """All that has been clicked so far: positive and negative pixels, (H, W) bool each."""

    positive: Mask
    negative: Mask

    @classmethod
    def none(cls, size: tuple[int, int]) -> ClickMarks:
        """No clicks yet, on a picture of (H, W) pixels."""
        return cls(np.zeros(size, bool), np.zeros(size, bool))

    def with_click(self, click: Click | None) -> ClickMarks:
        """These marks and a square around one more click; the same marks for None."""
        if click is None:
            return self
        marks = (self.positive if click.positive else self.negative).copy()
        around = CLICK_SIDE // 2
        rows = slice(max(click.row - around, 0), click.row + around + 1)
        marks[rows, max(click.column - around, 0) : click.column + around + 1] = True
        return ClickMarks(marks, self.negative) if click.positive else ClickMarks(self.positive, marks)


def first_click(truth: Mask, offset: RingOffset = RingOffset.PUBLISHED) -> Click:
    """A positive click where the object (H, W) is deepest. Raises MaskError for an empty mask."""
    if not truth.any():
        raise MaskError("there is nothing to click on: the object's mask is empty; leave such objects out")
    return Click(*deepest_place(truth, offset))


def next_click(
    truth: Mask,
    prediction: Mask,
    marks: ClickMarks,
    mode: Mode = "best",
    generator: np.random.Generator | None = None,
    offset: RingOffset = RingOffset.PUBLISHED,
) -> Click | None:
    """The correction that a user makes next, all masks (H, W) bool; None where nothing needs correction.

    Missing and surplus pixels that no mark covers yet are counted; the click is positive if more are missing, negative
    otherwise, in a tie too. ``best`` takes the deepest place of that region, the first in row-major order of several,
    ``best_random`` any pixel of it, drawn by `generator`. No click is made at an IoU of GOOD_ENOUGH or more, nor where
    marks cover all errors (the published code then clicks on pixel (0, 0)). Raises MaskError for masks of different
    sizes, ValueError for ``best_random`` without a generator.
    """
    if not truth.shape == prediction.shape == marks.positive.shape == marks.negative.shape:
        sizes = ", ".join(str(m.shape) for m in (truth, prediction, marks.positive, marks.negative))
        raise MaskError(f"truth, prediction and marks differ in size ({sizes}); give masks of one size")
    if overlap(truth, prediction) >= GOOD_ENOUGH:
        return None
    untouched = ~(marks.positive | marks.negative)
    missing, surplus = truth & ~prediction & untouched, ~truth & prediction & untouched
    positive = np.count_nonzero(missing) > np.count_nonzero(surplus)
    region = missing if positive else surplus
    if not region.any():
        return None
    if mode == "best":
        return Click(*deepest_place(region, offset), bool(positive))
    if generator is None:
        raise ValueError("mode best_random draws a pixel; give it a generator")
    place = int(generator.choice(np.flatnonzero(region)))
    row, column = divmod(place, truth.shape[1])
    return Click(row, column, bool(positive))


def overlap(truth: Mask, prediction: Mask) -> float:
    """Intersection over union, 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def deepest_place(region: Mask, offset: RingOffset = RingOffset.PUBLISHED) -> tuple[int, int]:
    """(row, column) of the largest `depth`, the first in row-major order of several; (0, 0) of an empty region."""
    row, column = divmod(int(depth(region, offset).argmax()), region.shape[1])
    return row, column


def depth(region: Mask, offset: RingOffset = RingOffset.PUBLISHED) -> npt.NDArray[np.float32]:
    """(H, W) float32: approximate distance of each pixel of `region` (H, W) to the outside, 0 outside.

    What lies beyond the picture is outside too. Pixels in the same situation get the same number to the last bit.
    """
    result = np.zeros(region.shape, np.float32)
    x, y, w, h = cv2.boundingRect(region.astype(np.uint8))
    if w == 0:
        return result
    inside = np.pad(region[y : y + h, x : x + w], 1).astype(np.uint8)
    ring = cv2.distanceTransform(inside, cv2.DIST_C, 3).astype(np.int32)  # 0 outside, 1 at the border
    sides = _count_reached(ring, ((0, 1), (0, -1), (1, 0), (-1, 0)))
    corners = _count_reached(ring, ((1, 1), (1, -1), (-1, 1), (-1, -1)))
    ring = ring[1:-1, 1:-1]
    count = ring - 1 if offset is RingOffset.PLAIN else 3 * (ring - 1) // 2
    result[y : y + h, x : x + w] = np.where(ring > 0, count + _WITHIN_RING[sides, corners], 0)
    return result


def _count_reached(ring: npt.NDArray[np.int32], steps: tuple[tuple[int, int], ...]) -> npt.NDArray[np.uint8]:
    """(h, w) of a padded (h + 2, w + 2): how many of the neighbours at these steps (down, right) lie further out."""
    h, w = ring.shape[0] - 2, ring.shape[1] - 2
    count = np.zeros((h, w), np.uint8)
    for down, right in steps:
        count += ring[1 + down : 1 + down + h, 1 + right : 1 + right + w] < ring[1:-1, 1:-1]
    return count


def _within_ring() -> npt.NDArray[np.float32]:
    """(5, 5): distance to the ring before, by the number of its pixels at one's sides and at one's corners."""
    sides, corners = np.indices((5, 5))
    reached = sides * np.exp(-1 / _SOFTNESS) + corners * np.exp(-np.sqrt(2) / _SOFTNESS)
    reached[0, 0] = 1  # nobody: only outside, where it does not count
    distance: npt.NDArray[np.float32] = (-_SOFTNESS * np.log(reached)).astype(np.float32)
    return distance


_WITHIN_RING = _within_ring()
