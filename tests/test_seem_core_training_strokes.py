"""Simulated marks: within the object, never empty, decided by the seed, in the ranges of their presets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seem_core.errors import MaskError
from seem_core.training.strokes import (
    BLOB,
    CURVE,
    MIDDLE_BLOB,
    MOST_CORNERS,
    MOST_POINTS,
    PUBLISHED_KINDS,
    SMALL_BLOB,
    SMALL_CURVE,
    SMALLEST,
    MarkKind,
    StrokePreset,
    box_around,
    mark_object,
    mark_objects,
    smooth_polygon,
    walk,
)

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
seeds = st.integers(0, 2**32 - 1)


def disc(radius: int = 60, size: int = 200) -> np.ndarray:
    return cv2.circle(np.zeros((size, size), np.uint8), (size // 2, size // 2), radius, 1, -1).astype(bool)


@settings(deadline=None, max_examples=150)
@given(masks, seeds, st.sampled_from(MarkKind), st.sampled_from([0.1, 0.5, 1.0]))
def test_marks_are_on_the_object_and_never_empty(mask: np.ndarray, seed: int, kind: MarkKind, scale: float) -> None:
    marks = mark_object(mask, np.random.default_rng(seed), kind, scale)
    assert marks.shape == mask.shape
    assert marks.dtype == np.bool_
    assert marks.any() == (mask.sum() >= SMALLEST)
    if kind is not MarkKind.BOX:
        assert not (marks & ~mask).any()
    assert np.array_equal(marks, mark_object(mask, np.random.default_rng(seed), kind, scale))


@pytest.mark.parametrize("kind", MarkKind)
def test_another_seed_marks_elsewhere(kind: MarkKind) -> None:
    drawn = {mark_object(disc(), np.random.default_rng(seed), kind).tobytes() for seed in range(10)}
    assert len(drawn) == 10


def test_the_mask_is_not_written_to() -> None:
    mask = disc()
    mask.flags.writeable = False
    for kind in MarkKind:
        mark_object(mask, np.random.default_rng(0), kind)


def test_kinds_come_equally_often() -> None:
    """Told apart by what they leave on a disc: points alone, lines of one pixel, thin strokes, blobs."""
    expected = {k: [mark_object(disc(), np.random.default_rng(s), k).sum() for s in range(60)] for k in PUBLISHED_KINDS}
    assert np.median(expected[MarkKind.POINT]) < np.median(expected[MarkKind.POLYGON])
    assert np.median(expected[MarkKind.SCRIBBLE]) < np.median(expected[MarkKind.CIRCLE])
    generator = np.random.default_rng(0)
    points = [mark_object(disc(), generator).sum() <= MOST_POINTS for _ in range(400)]
    assert 0.2 < np.mean(points) < 0.4  # a quarter, and polygons of one corner


def test_points_are_one_to_twenty_pixels() -> None:
    generator = np.random.default_rng(0)
    counts = {int(mark_object(disc(), generator, MarkKind.POINT).sum()) for _ in range(400)}
    assert counts == set(range(1, MOST_POINTS + 1))
    small = disc(2, 9)
    assert mark_object(small, generator, MarkKind.POINT).sum() <= small.sum()


@pytest.mark.parametrize("preset", [CURVE, SMALL_CURVE, BLOB, MIDDLE_BLOB, SMALL_BLOB])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_walks_keep_to_their_ranges(preset: StrokePreset, scale: float) -> None:
    generator = np.random.default_rng(0)
    start = np.array([500.0, 300.0])
    lengths = []
    for _ in range(300):
        points = walk(start, preset, scale, generator)
        lengths.append(len(points))
        steps = np.hypot(*np.diff(points, axis=0).T)
        assert (steps <= scale * (preset.speed + 2 * np.sqrt(2) * preset.jitter) + 1e-9).all()
        moved = np.hypot(*(points[0] - start))
        assert moved <= scale * (preset.shift_speed + preset.shift_acceleration + np.sqrt(2) * preset.jitter) + 1e-9
    assert (min(lengths), max(lengths)) == preset.vertices


def test_presets_have_the_published_ranges() -> None:
    """SPEC §9: vertices; speed; acceleration; width; jitter; acceleration and speed of the shift."""
    assert StrokePreset((10, 30), 20, 15, 0.5, (3, 10), 3, 5, 0.5, 6) == CURVE
    assert (SMALL_CURVE.vertices, SMALL_CURVE.width, SMALL_CURVE.jitter) == ((6, 22), (2.5, 5), 1.5)
    assert (BLOB.vertices, BLOB.width, BLOB.shift_speed) == ((5, 30), (20, 50), 10)
    assert (MIDDLE_BLOB.speed, MIDDLE_BLOB.acceleration, MIDDLE_BLOB.turn) == (8, 4, 1.5)
    assert (SMALL_BLOB.speed, SMALL_BLOB.width, SMALL_BLOB.shift_acceleration) == (7, (10, 30), 3)


def test_smaller_pictures_get_smaller_marks() -> None:
    mask = np.ones((400, 400), bool)
    areas = [
        np.mean([mark_object(mask, np.random.default_rng(s), MarkKind.CIRCLE, scale).sum() for s in range(30)])
        for scale in (0.25, 0.5, 1.0)
    ]
    assert areas[0] * 2 < areas[1] < areas[2] / 2


@settings(deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, MOST_CORNERS), st.just(2)), elements=st.integers(0, 200).map(float)))
def test_polygons_pass_through_their_corners_and_close(corners: np.ndarray) -> None:
    curve = smooth_polygon(corners)
    assert curve.shape == (100 * len(corners), 2)
    assert np.isfinite(curve).all()
    nearest = np.hypot(*(corners[:, None] - curve[None]).transpose(2, 0, 1)).min(axis=1)
    assert nearest.max() < 1e-9
    np.testing.assert_allclose(curve[0], curve[-1], atol=1e-9)
    np.testing.assert_allclose(curve[99::100], np.roll(curve[::100], -1, axis=0), atol=1e-9)


def test_a_polygon_around_a_square_is_smooth() -> None:
    curve = smooth_polygon(np.array([[0.0, 0], [100, 0], [100, 100], [0, 100]]))
    turn = np.diff(np.unwrap(np.arctan2(*np.diff(np.delete(curve, np.s_[99::100], axis=0), axis=0).T[::-1])))
    assert abs(turn).max() < 0.5  # nowhere a corner of 1.57
    assert curve.min() > -12
    assert curve.max() < 112


@settings(deadline=None)
@given(masks.filter(np.any), seeds)
def test_boxes_span_the_object_but_for_the_jitter(mask: np.ndarray, seed: int) -> None:
    rows, columns = mask.nonzero()
    exact, drawn = box_around(mask), box_around(mask, np.random.default_rng(seed))
    w, h = np.ptp(columns) + 1, np.ptp(rows) + 1
    for box, off in ((exact, 0.0), (drawn, 0.1)):
        assert abs(box.x0 - columns.min()) <= off * w + 0.75
        assert abs(box.x1 - columns.max()) <= off * w + 0.75
        assert abs(box.y0 - rows.min()) <= off * h + 0.75
        assert abs(box.y1 - rows.max()) <= off * h + 0.75
        assert -0.5 <= box.x0 < box.x1 <= mask.shape[1]
    if w > 1 and h > 1:
        assert (exact.x0, exact.y0, exact.x1, exact.y1) == (columns.min(), rows.min(), columns.max(), rows.max())


def test_a_stroke_moved_off_a_thin_object_leaves_its_start() -> None:
    """Some of these scribbles lie beside the object altogether."""
    thin = np.zeros((200, 200), bool)
    thin[100, 50:60] = True
    counts = [mark_object(thin, np.random.default_rng(s), MarkKind.SCRIBBLE).sum() for s in range(200)]
    assert min(counts) >= 1


def test_several_objects_are_marked_each_on_its_own() -> None:
    objects = np.stack([disc(60), np.zeros((200, 200), bool), np.roll(disc(20), 80, axis=1)])
    marks = mark_objects(objects, np.random.default_rng(0))
    assert marks.shape == objects.shape
    assert marks.any(axis=(1, 2)).tolist() == [True, False, True]
    assert not (marks & ~objects).any()
    points = mark_objects(objects, np.random.default_rng(0), kinds=[MarkKind.POINT])
    assert (points.sum(axis=(1, 2)) <= MOST_POINTS).all()


def test_what_cannot_be_marked_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(MaskError, match="uint8"):
        mark_object(disc().astype(np.uint8), generator)
    with pytest.raises(ValueError, match="scaled by a positive number"):
        mark_object(disc(), generator, scale=0.0)
    with pytest.raises(MaskError, match="nothing to draw a box around"):
        box_around(np.zeros((5, 5), bool))
