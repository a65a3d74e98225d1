"""A user who marks an object: random points, polygons, scribbles, circled areas and boxes, drawn on its mask.

SEEM learns from marks made up this way and is measured with them (arXiv:2304.06718 section 3; SPEC §9). A stroke is the
trace of a random walk that starts on the object; what falls beside the object is cut off, since a positive mark says
"this belongs to it". The caller's generator decides everything: the same seed gives the same marks.

All lengths are in pixels of a picture of about 1024; `scale` shrinks them for smaller ones. Masks are (H, W) bool,
points (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError
from seem_core.prompts import BoxPrompt

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

SMALLEST = 10
"""Pixels of an object from which a user marks it."""
_SHIFT = 4  # cv2 draws with 4 fractional bits of a pixel


class MarkKind(Enum):
    """How an object is marked."""

    POINT = "point"
    POLYGON = "polygon"
    SCRIBBLE = "scribble"
    CIRCLE = "circle"
    BOX = "box"


PUBLISHED_KINDS = (MarkKind.POINT, MarkKind.POLYGON, MarkKind.SCRIBBLE, MarkKind.CIRCLE)
"""Those that the published training draws from, each as likely; boxes are ours."""


@dataclass(frozen=True)
class StrokePreset:
    """Ranges of a stroke; pairs are (least, most), both included.

    vertices: of the walk. speed: most per step. acceleration, turn: most by which a step changes speed and direction
    (radians). width: of the line. jitter: most by which half of the vertices are moved in x and y. shift_speed,
    shift_acceleration, shift_turn: all vertices are moved together once by a velocity of at most this speed, changed
    once like that of the walk.
    """

    vertices: tuple[int, int]
    speed: float
    acceleration: float
    turn: float
    width: tuple[float, float]
    jitter: float
    shift_acceleration: float
    shift_turn: float
    shift_speed: float


CURVE = StrokePreset((10, 30), 20, 15, 0.5, (3, 10), 3, 5, 0.5, 6)
SMALL_CURVE = StrokePreset((6, 22), 12, 8, 0.5, (2.5, 5), 1.5, 3, 0.5, 3)
BLOB = StrokePreset((5, 30), 15, 10, 1.5, (20, 50), 10, 5, 0.5, 10)
MIDDLE_BLOB = StrokePreset((5, 15), 8, 4, 1.5, (20, 50), 5, 5, 0.5, 10)
SMALL_BLOB = StrokePreset((5, 20), 7, 3.5, 1.5, (10, 30), 5, 3, 0.5, 4)

STROKE_PRESETS = {
    MarkKind.SCRIBBLE: (CURVE, SMALL_CURVE),
    MarkKind.CIRCLE: (BLOB, MIDDLE_BLOB, SMALL_BLOB),
}
"""Presets that a stroke of a kind is drawn with, each as likely."""
MOST_STROKES = 5
MOST_POINTS = 20
MOST_CORNERS = 9
BEZIER_REACH = 0.2
"""Distance of a control point from its corner, as a share of the side's length."""
BEZIER_EDGY = 0.05
BEZIER_SAMPLES = 100  # per side
BOX_JITTER = 0.1
"""Most by which a side of a box lies off the object's, as a share of its width or height."""


def mark_object(mask: Mask, generator: np.random.Generator, kind: MarkKind | None = None, scale: float = 1.0) -> Mask:
    """Marks that a user might make to say "this object": (H, W) bool; of any published kind unless one is named.

    Within `mask` except for a box, which is all that it spans. Never empty for an object of SMALLEST pixels or more,
    always for a smaller one. Raises MaskError for a mask that is not (H, W) bool, ValueError for a scale that is not
    positive.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise MaskError(f"an object to mark is (H, W) bool, not {mask.shape} {mask.dtype}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"marks are scaled by a positive number, not {scale:g}")
    if kind is None:
        kind = PUBLISHED_KINDS[int(generator.integers(len(PUBLISHED_KINDS)))]
    inside = np.flatnonzero(mask)
    if len(inside) < SMALLEST:
        return np.zeros_like(mask)
    if kind is MarkKind.BOX:
        return _fill_box(box_around(mask, generator), mask.shape)
    canvas = np.zeros(mask.shape, np.uint8)
    if kind is MarkKind.POINT:
        canvas.reshape(-1)[_some(inside, MOST_POINTS, generator)] = 1
        return canvas.astype(bool)
    if kind is MarkKind.POLYGON:
        starts = _as_points(_some(inside, MOST_CORNERS, generator), mask.shape[1])
        _draw_line(canvas, smooth_polygon(starts), 1)
    else:
        count = generator.integers(1, MOST_STROKES, endpoint=True)
        starts = _as_points(generator.choice(inside, count), mask.shape[1])
        for start in starts:
            presets = STROKE_PRESETS[kind]
            _draw_stroke(canvas, start, presets[int(generator.integers(len(presets)))], scale, generator)
    marks: Mask = canvas.astype(bool) & mask
    if not marks.any():  # everything was moved off a small object
        columns, rows = starts.astype(np.int64).T
        marks[rows, columns] = True
    return marks


def mark_objects(
    masks: npt.NDArray[np.bool_],
    generator: np.random.Generator,
    kinds: Sequence[MarkKind] = PUBLISHED_KINDS,
    scale: float = 1.0,
) -> npt.NDArray[np.bool_]:
    """`mark_object` for each of N objects (N, H, W), each in a kind drawn from `kinds`: (N, H, W) bool."""
    marks = np.zeros(masks.shape, bool)
    for n, mask in enumerate(masks):
        marks[n] = mark_object(mask, generator, kinds[int(generator.integers(len(kinds)))], scale)
    return marks


def box_around(mask: Mask, generator: np.random.Generator | None = None, jitter: float = BOX_JITTER) -> BoxPrompt:
    """A box around an object as a user draws it, each side off by up to `jitter` of the object's size.

    Exact without a generator. It stays in the picture and spans a pixel at least. Raises MaskError for an empty mask.
    """
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    if w == 0:
        raise MaskError("there is nothing to draw a box around: the object's mask is empty; leave such objects out")
    corners = np.array([x, y, x + w - 1, y + h - 1], np.float64)
    if generator is not None:
        corners += generator.uniform(-jitter, jitter, 4) * (w, h, w, h)
    H, W = mask.shape
    corners = corners.clip(0, (W - 1, H - 1, W - 1, H - 1))
    for low, high in ((0, 2), (1, 3)):
        if corners[high] - corners[low] < 0.5:  # keeps one pixel centre
            middle = round(corners[[low, high]].mean())
            corners[low], corners[high] = middle - 0.25, middle + 0.25
    return BoxPrompt(*corners.tolist())


def walk(start: Points, preset: StrokePreset, scale: float, generator: np.random.Generator) -> Points:
    """(V, 2) vertices of one stroke from `start` (2,), moved and jittered as the preset says."""
    count = int(generator.integers(*preset.vertices, endpoint=True))
    speed, angle = generator.uniform(0, preset.speed), generator.uniform(-np.pi, np.pi)
    points = [start]
    for _ in range(count - 1):
        speed = float(np.clip(speed + generator.uniform(-1, 1) * preset.acceleration, 0, preset.speed))
        angle += generator.uniform(-1, 1) * preset.turn
        points.append(points[-1] + scale * speed * _direction(angle))
    moved = np.stack(points)
    speed = max(generator.uniform(0, preset.shift_speed) + generator.uniform(-1, 1) * preset.shift_acceleration, 0.0)
    angle = generator.uniform(-np.pi, np.pi) + generator.uniform(-1, 1) * preset.shift_turn
    moved += scale * speed * _direction(angle)
    half = generator.permutation(count)[: count // 2]
    moved[half] += scale * preset.jitter * generator.uniform(-1, 1, (len(half), 2))
    return moved


def smooth_polygon(corners: Points) -> Points:
    """A closed curve through n corners (n, 2), ordered by their angle around the middle: (100 n, 2), cubic Bezier.

    It leaves each corner in a direction between those of its two sides, about half way.
    """
    middle = corners - corners.mean(axis=0)
    corners = corners[np.argsort(np.arctan2(middle[:, 1], middle[:, 0]), kind="stable")]
    ahead = np.roll(corners, -1, axis=0) - corners  # side i goes from corner i to the next
    length = np.hypot(*ahead.T)[:, None]
    leaving = np.arctan2(ahead[:, 1], ahead[:, 0])
    arriving = np.roll(leaving, 1)
    turn = (leaving - arriving + np.pi) % (2 * np.pi) - np.pi
    angle = arriving + turn * (0.5 - np.arctan(BEZIER_EDGY) / np.pi)  # 0: along the side before, 1: along the next
    tangent = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    control = corners + BEZIER_REACH * length * tangent
    end = np.roll(corners, -1, axis=0)
    control_end = end - BEZIER_REACH * length * np.roll(tangent, -1, axis=0)
    t = np.linspace(0, 1, BEZIER_SAMPLES)[:, None, None]  # (samples, n, 2) below
    curve = (1 - t) ** 3 * corners + 3 * t * (1 - t) ** 2 * control + 3 * t**2 * (1 - t) * control_end + t**3 * end
    result: Points = curve.swapaxes(0, 1).reshape(-1, 2)
    return result


def _draw_stroke(
    canvas: npt.NDArray[np.uint8], start: Points, preset: StrokePreset, scale: float, generator: np.random.Generator
) -> None:
    """A line along a walk, with a disc at each vertex so that it bends roundly."""
    points = walk(start, preset, scale, generator)
    width = max(1, round(scale * generator.uniform(*preset.width)))
    _draw_line(canvas, points, width)
    for x, y in np.round(points * 2**_SHIFT).astype(int).tolist():
        cv2.circle(canvas, (x, y), round(width / 2 * 2**_SHIFT), 1, -1, shift=_SHIFT)


def _draw_line(canvas: npt.NDArray[np.uint8], points: Points, width: int) -> None:
    cv2.polylines(canvas, [np.round(points * 2**_SHIFT).astype(np.int32)], False, 1, width, shift=_SHIFT)


def _fill_box(box: BoxPrompt, size: tuple[int, ...]) -> Mask:
    """(H, W) bool: every pixel whose centre lies in the box, as a box that a user gives is read."""
    marks = np.zeros(size, bool)
    marks[round(box.y0) : round(box.y1) + 1, round(box.x0) : round(box.x1) + 1] = True
    return marks


def _some(inside: npt.NDArray[np.intp], most: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """One to `most` different pixels."""
    count = generator.integers(1, min(most, len(inside)), endpoint=True)
    return generator.choice(inside, count, replace=False)


def _as_points(flat: npt.NDArray[np.intp], width: int) -> Points:
    """(n, 2) x, y of flat indices."""
    return np.stack((flat % width, flat // width), axis=1).astype(np.float64)


def _direction(angle: float) -> Points:
    return np.array((np.cos(angle), np.sin(angle)))
