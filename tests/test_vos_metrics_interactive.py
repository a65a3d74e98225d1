"""NoC@t, 1-IoU and IoU per round: worked cases, bounds, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vos.metrics.interactive import Ious, interactive_scores, mean_iou_per_round, number_of_clicks

tables = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(0, 1))
thresholds = st.floats(0.01, 1)


def test_a_worked_table() -> None:
    ious = np.array([[0.4, 0.85, 0.95], [0.9, 0.7, 0.7], [0.0, 0.1, 0.2]])
    assert number_of_clicks(ious, 0.85).tolist() == [2, 1, 3]
    assert number_of_clicks(ious, 0.85, cap=1).tolist() == [1, 1, 1]
    scores = interactive_scores(ious)
    assert scores.first_iou == pytest.approx(1.3 / 3)
    assert scores.clicks[0.9] == pytest.approx((3 + 1 + 3) / 3)
    assert scores.failures == {0.5: 1, 0.8: 1, 0.85: 1, 0.9: 1}
    assert (scores.objects, scores.rounds) == (3, 3)
    assert scores.capped == {}
    assert interactive_scores(np.repeat(ious, 2, axis=1)).capped["5-NoC85"] == pytest.approx((3 + 1 + 5) / 3)


def test_the_best_and_the_worst() -> None:
    best, worst = interactive_scores(np.ones((4, 20))), interactive_scores(np.zeros((4, 20)))
    assert set(best.clicks.values()) == {1.0}
    assert set(worst.clicks.values()) == {20.0}
    assert (best.first_iou, worst.first_iou) == (1.0, 0.0)
    assert set(best.failures.values()) == {0}
    assert set(worst.failures.values()) == {4}


@given(tables, thresholds)
def test_clicks_are_the_first_round_that_reaches_the_threshold(ious: Ious, threshold: float) -> None:
    for row, clicks in zip(ious, number_of_clicks(ious, threshold), strict=True):
        assert 1 <= clicks <= len(row)
        assert (row[: clicks - 1] < threshold).all()
        assert row[clicks - 1] >= threshold or clicks == len(row)


@given(tables, thresholds, thresholds)
def test_a_higher_threshold_never_needs_fewer_clicks(ious: Ious, one: float, other: float) -> None:
    assert (number_of_clicks(ious, min(one, other)) <= number_of_clicks(ious, max(one, other))).all()


@given(tables, thresholds, st.data())
def test_a_cap_cuts(ious: Ious, threshold: float, data: st.DataObject) -> None:
    cap = data.draw(st.integers(1, ious.shape[1]))
    assert np.array_equal(number_of_clicks(ious, threshold, cap), number_of_clicks(ious, threshold).clip(max=cap))
    assert np.array_equal(number_of_clicks(ious, threshold, cap), number_of_clicks(ious[:, :cap], threshold))


@given(tables)
def test_the_order_of_objects_does_not_matter(ious: Ious) -> None:
    order = np.random.default_rng(0).permutation(len(ious))
    np.testing.assert_allclose(mean_iou_per_round(ious[order]), mean_iou_per_round(ious), atol=1e-12)
    assert interactive_scores(ious[order]).failures == interactive_scores(ious).failures


@given(tables)
def test_repeating_the_last_round_leaves_what_was_reached(ious: Ious) -> None:
    longer = np.concatenate([ious, ious[:, -1:]], axis=1)
    assert interactive_scores(longer).failures == interactive_scores(ious).failures
    assert interactive_scores(longer).first_iou == pytest.approx(interactive_scores(ious).first_iou)


@pytest.mark.parametrize(
    "ious", [np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.full((1, 1), np.nan), -np.ones((1, 1))]
)
def test_what_is_no_table_is_refused(ious: Ious) -> None:
    with pytest.raises(ValueError, match="IoU"):
        interactive_scores(ious)


def test_a_cap_beyond_the_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="cap is one of the 3 rounds, not 4"):
        number_of_clicks(np.zeros((1, 3)), 0.5, cap=4)
