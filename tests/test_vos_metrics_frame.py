"""J, F and their statistics against a plain implementation of the definition, and on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vos.masks import read_labels
from vos.metrics import (
    boundary_map,
    contour_accuracy,
    contour_accuracy_of_labels,
    decay,
    jaccard,
    jaccard_of_labels,
    measure_labels,
    recall,
    statistics,
    tolerance,
)


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel: differs from right, lower or lower-right neighbour."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            right = x + 1 < width and mask[y, x] != mask[y, x + 1]
            below = y + 1 < height and mask[y, x] != mask[y + 1, x]
            corner = x + 1 < width and y + 1 < height and mask[y, x] != mask[y + 1, x + 1]
            out[y, x] = right or below or corner
    return out


def plain_measures(prediction: np.ndarray, truth: np.ndarray, bound: float) -> tuple[float, float]:
    """J and F with byte masks and cv2's dilation over the whole frame."""
    either = (prediction | truth).sum()
    j = (prediction & truth).sum() / either if either else 1.0
    radius = int(np.ceil(bound * np.linalg.norm(truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    p, g = (plain_boundary(mask).astype(np.uint8) for mask in (prediction, truth))
    if not p.any() and not g.any():
        return float(j), 1.0
    if not p.any() or not g.any():
        return float(j), 0.0
    precision = (p & cv2.dilate(g, disk)).sum() / p.sum()
    share = (g & cv2.dilate(p, disk)).sum() / g.sum()
    return float(j), float(2 * precision * share / (precision + share)) if precision + share else 0.0


shapes = st.tuples(st.integers(1, 40), st.integers(1, 80))


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of up to 3 objects: rectangles, some of them shared or shifted, that may touch the edges, and noise."""
    height, width = draw(shapes)
    maps = [np.zeros((height, width), draw(st.sampled_from([np.uint8, np.uint16]))) for _ in range(2)]
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w, value = draw(st.integers(1, height)), draw(st.integers(1, width)), draw(st.integers(0, 3))
        for labels in maps:
            dy, dx = draw(st.integers(-2, 2)), draw(st.integers(-2, 2))
            labels[max(y + dy, 0) : y + dy + h, max(x + dx, 0) : x + dx + w] = value
    if draw(st.booleans()):
        maps[1] = draw(arrays(np.uint8, (height, width), elements=st.integers(0, 3)))
    return maps[0], maps[1]


@given(label_maps(), st.sampled_from([0.008, 0.05, 0.2]))
@settings(max_examples=150, deadline=None)
def test_every_object_agrees_with_the_definition(maps: tuple[np.ndarray, np.ndarray], bound: float) -> None:
    prediction, truth = maps
    found = measure_labels(prediction, truth, (1, 2, 3), bound=bound)
    expected = [plain_measures(prediction == i, truth == i, bound) for i in (1, 2, 3)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found[:, 0], jaccard_of_labels(prediction, truth, (1, 2, 3)))
    np.testing.assert_array_equal(found[:, 1], contour_accuracy_of_labels(prediction, truth, (1, 2, 3), bound=bound))


@given(label_maps())
@settings(deadline=None)
def test_batches_of_masks_agree_with_label_maps(maps: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = (np.stack([labels == i for i in (1, 2)])[None] for labels in maps)  # (1, 2, H, W)
    found = measure_labels(*maps, (1, 2))
    np.testing.assert_array_equal(jaccard(prediction, truth), found[None, :, 0])
    np.testing.assert_array_equal(contour_accuracy(prediction, truth), found[None, :, 1])


@given(label_maps())
@settings(deadline=None)
def test_both_are_symmetric_within_0_and_1_and_1_for_equal_masks(maps: tuple[np.ndarray, np.ndarray]) -> None:
    found = measure_labels(*maps, (1, 2, 3))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found, measure_labels(maps[1], maps[0], (1, 2, 3)), atol=1e-12)
    assert (measure_labels(maps[0], maps[0], (1, 2, 3)) == 1).all()


@given(arrays(np.bool_, shapes))
@settings(deadline=None)
def test_boundary_map_is_the_definition(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(boundary_map(mask), plain_boundary(mask))


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.2])
def test_nothing_is_carried_round_the_edge(bound: float) -> None:
    """Boundaries at opposite sides of a wide frame do not match, however rows are stored."""
    left, right = np.zeros((10, 60), bool), np.zeros((10, 60), bool)
    left[2:9, :2] = True
    right[1:8, -2:] = True
    assert contour_accuracy(left, right, bound=bound) == 0
    assert contour_accuracy(left.T, right.T, bound=bound) == 0


def test_real_masks_at_full_size(data_root: Path) -> None:
    folder = data_root / "davis/Annotations/480p/motorbike"
    first, later = read_labels(folder / "00000.png"), read_labels(folder / "00012.png")
    np.testing.assert_array_equal(measure_labels(later, first, (1,))[0], plain_measures(later == 1, first == 1, 0.008))


def test_values_by_hand() -> None:
    a, b = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    a[5:10, 5:10] = True
    b[5:10, 6:11] = True
    assert jaccard(a, b) == 20 / 30
    assert contour_accuracy(a, b) == 1.0  # one pixel apart, tolerance ceil(0.008 * 36.06) = 1
    assert jaccard(a, ~a) == 0
    assert jaccard(a & ~a, b & ~b) == 1
    assert contour_accuracy(a & ~a, b) == 0


@pytest.mark.parametrize(("height", "width", "radius"), [(480, 854, 8), (240, 432, 4), (1, 1, 1), (2160, 3840, 36)])
def test_tolerance(height: int, width: int, radius: int) -> None:
    assert tolerance(height, width) == radius


def test_wrong_input_is_refused() -> None:
    mask = np.zeros((4, 5), bool)
    for prediction in (np.zeros((5, 4), bool), np.zeros((4, 5), np.uint8), np.zeros(5, bool), np.zeros((4, 5), float)):
        for measure in (jaccard, contour_accuracy):
            with pytest.raises(ValueError, match="prediction and truth"):
                measure(prediction, mask)
    for labels in (np.zeros((5, 4), np.uint8), np.zeros((4, 5)), np.zeros((1, 4, 5), np.uint8)):
        with pytest.raises(ValueError, match=r"label map|prediction and truth"):
            measure_labels(labels, mask.astype(np.uint8), (1,))
    with pytest.raises(ValueError, match=r"pixel|shape"):
        measure_labels(np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8), (1,))
    with pytest.raises(ValueError, match="bound"):
        tolerance(4, 5, bound=2)


# statistics


def test_decay_by_hand() -> None:
    # 9 values: quarters end at 1, 3, 5, 7, 9, and neighbours share their end
    values = np.array([1, 1, 0.7, 0.5, 0.5, 0.5, 0.3, 0.2, 0.1])
    assert decay(values) == pytest.approx(0.9 - 0.2, abs=1e-12)
    assert recall(values) == 3 / 9  # 0.5 itself does not count
    assert statistics(values).mean == pytest.approx(values.mean())


@given(st.integers(1, 600))
def test_a_linear_fall_decays_by_its_quarters(length: int) -> None:
    values = np.linspace(1, 0, length) if length > 1 else np.ones(1)
    assert decay(values) == pytest.approx(0.75 if length > 4 else decay(values), abs=1 / max(length, 8) + 1e-9)


@given(st.integers(1, 256))
def test_wrapped_bins_change_nothing_up_to_256_values(length: int) -> None:
    values = np.random.default_rng(length).random(length)
    assert decay(values, wrapped_bins=True) == decay(values)


def test_wrapped_bins_repeat_the_official_mistake() -> None:
    values = np.linspace(1, 0, 300)
    ends = (np.round(np.linspace(1, 300, 5) + 1e-10) - 1).astype(np.int64).astype(np.uint8)
    expected = values[ends[0] : ends[1] + 1].mean() - values[int(ends[3]) : int(ends[4]) + 1].sum()
    assert int(ends[3]) > int(ends[4])  # an empty last quarter: the official tool says NaN
    assert np.isnan(decay(values, wrapped_bins=True)) or decay(values, wrapped_bins=True) == expected
    assert decay(values) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((2, 2))])
def test_statistics_need_values(values: np.ndarray) -> None:
    for function in (statistics, recall, decay):
        with pytest.raises(ValueError, match="statistics"):
            function(values)
