"""Simulated clicks: where the first one goes, which error the next one corrects, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seem_core.errors import MaskError
from seem_core.training.clicks import Click, ClickMarks, RingOffset, deepest_place, depth, first_click, next_click

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


def rectangle(rows: slice, columns: slice, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def ring_by_ring(region: np.ndarray, offset: RingOffset) -> np.ndarray:
    """The approximation as SPEC §8 words it: grow the outside with a 3x3 kernel until nothing is left."""
    outside = F.pad(torch.from_numpy(~region).double()[None, None], (1, 1, 1, 1), value=1.0)
    step = torch.hypot(*torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="ij")).double()
    kernel = torch.exp(-step / 0.35)[None, None]
    total = torch.zeros_like(outside)
    for i in range(max(outside.shape)):
        d = -0.35 * F.conv2d(F.pad(outside, (1, 1, 1, 1), mode="replicate"), kernel).log()
        new = (d > 0) & d.isfinite()
        if not new.any():
            break
        total[new] += (3 * i // 2 if offset is RingOffset.PUBLISHED else i) + d[new]
        outside[new] = 1
    return total[0, 0, 1:-1, 1:-1].numpy()


@settings(deadline=None)
@given(masks, st.sampled_from(RingOffset))
def test_depth_is_what_growing_ring_by_ring_gives(region: np.ndarray, offset: RingOffset) -> None:
    np.testing.assert_allclose(depth(region, offset), ring_by_ring(region, offset), atol=1e-5)


def test_depth_in_the_middle_of_a_square() -> None:
    square = rectangle(slice(5, 24), slice(5, 24))
    assert depth(square, RingOffset.PLAIN)[14, 14] == pytest.approx(10, abs=1)  # 10 pixels to the outside
    assert depth(square, RingOffset.PUBLISHED)[14, 14] == pytest.approx(14, abs=1)  # rings count one and a half times
    assert deepest_place(square) == (14, 14)


@given(masks)
def test_the_first_click_is_on_the_object_and_first_among_equals(region: np.ndarray) -> None:
    if not region.any():
        with pytest.raises(MaskError, match="empty"):
            first_click(region)
        return
    click = first_click(region)
    assert click.positive
    assert region[click.row, click.column]
    best = np.argwhere(depth(region) == depth(region).max())[0]
    assert (click.row, click.column) == tuple(best)


def test_the_larger_error_is_corrected() -> None:
    truth = rectangle(slice(5, 25), slice(5, 25))
    missing = rectangle(slice(5, 25), slice(5, 15))
    surplus = truth | rectangle(slice(5, 25), slice(25, 50))
    no_marks = ClickMarks.none(truth.shape)
    click = next_click(truth, missing, no_marks)
    assert click is not None
    assert click.positive
    assert truth[click.row, click.column]
    assert not missing[click.row, click.column]
    click = next_click(truth, surplus, no_marks)
    assert click is not None
    assert not click.positive
    assert surplus[click.row, click.column]
    assert not truth[click.row, click.column]


def test_a_tie_goes_to_the_negative_click() -> None:
    truth, prediction = rectangle(slice(5, 15), slice(5, 15)), rectangle(slice(5, 15), slice(30, 40))
    click = next_click(truth, prediction, ClickMarks.none(truth.shape))
    assert click is not None
    assert not click.positive


@pytest.mark.parametrize(("missing", "clicks"), [(74, False), (75, False), (76, True)])
def test_no_click_from_an_iou_of_0_925(missing: int, clicks: bool) -> None:
    truth = np.ones((20, 50), bool)
    prediction = truth.copy()
    prediction.reshape(-1)[:missing] = False
    assert (next_click(truth, prediction, ClickMarks.none(truth.shape)) is not None) == clicks


def test_pixels_already_clicked_do_not_count() -> None:
    truth = rectangle(slice(10, 13), slice(10, 13))
    prediction = np.zeros_like(truth)
    marks = ClickMarks.none(truth.shape).with_click(Click(11, 11))
    assert next_click(truth, prediction, marks) is None
    truth[30, 50] = True
    assert next_click(truth, prediction, marks) == Click(30, 50)
    marks = ClickMarks.none(truth.shape).with_click(Click(11, 11, positive=False))
    assert next_click(truth, prediction, marks) == Click(30, 50)


def test_marks_add_up_and_stay_on_the_picture() -> None:
    marks = ClickMarks.none((10, 10)).with_click(Click(0, 0)).with_click(Click(9, 5)).with_click(Click(4, 4, False))
    assert marks.positive.sum() == 4 + 6
    assert np.array_equal(np.argwhere(marks.negative)[[0, -1]], [[3, 3], [5, 5]])
    assert marks.with_click(None) is marks


def test_best_random_draws_within_the_region_and_by_the_seed() -> None:
    truth = rectangle(slice(5, 25), slice(5, 45))
    prediction, marks = np.zeros_like(truth), ClickMarks.none(truth.shape)
    drawn = [next_click(truth, prediction, marks, "best_random", np.random.default_rng(i)) for i in range(20)]
    assert all(click is not None and click.positive and truth[click.row, click.column] for click in drawn)
    assert len(set(drawn)) > 10
    assert drawn == [next_click(truth, prediction, marks, "best_random", np.random.default_rng(i)) for i in range(20)]
    with pytest.raises(ValueError, match="generator"):
        next_click(truth, prediction, marks, "best_random")


def test_a_perfect_answer_and_nothing_at_all_need_no_click() -> None:
    truth = rectangle(slice(5, 25), slice(5, 25))
    empty = np.zeros_like(truth)
    assert next_click(truth, truth, ClickMarks.none(truth.shape)) is None
    assert next_click(empty, empty, ClickMarks.none(truth.shape)) is None
    assert deepest_place(empty) == (0, 0)


def test_masks_of_different_sizes_are_refused() -> None:
    truth = rectangle(slice(5, 25), slice(5, 25))
    with pytest.raises(MaskError, match="differ in size"):
        next_click(truth, truth[:-1], ClickMarks.none(truth.shape))


@settings(deadline=None, max_examples=30)
@given(arrays(np.bool_, (9, 9)))
def test_clicks_end(truth: np.ndarray) -> None:
    """With an answer that never changes, marks cover the errors sooner or later."""
    prediction, marks = np.zeros_like(truth), ClickMarks.none(truth.shape)
    for _ in range(81):
        click = next_click(truth, prediction, marks)
        if click is None:
            break
        assert not (marks.positive | marks.negative)[click.row, click.column]
        marks = marks.with_click(click)
    assert next_click(truth, prediction, marks) is None
