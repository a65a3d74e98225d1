"""Two opinions of a frame made one: who counts how much, shapes in between, labels that stay labels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from history_tracker import same
from hypothesis import given, settings
from hypothesis import strategies as st

from trackers.base import ObjectMasks
from vos.merging import Anchors, agreement, merge_passes

H, W = 40, 60
BOTH = Anchors(0, 100, {1: (10, 90), 2: (10, 90)})


def disc(x: float, y: float, radius: float) -> npt.NDArray[np.bool_]:
    yy, xx = np.mgrid[:H, :W]
    return np.asarray((xx - x) ** 2 + (yy - y) ** 2 <= radius * abs(radius))  # empty below 0


def masks(found: dict[int, npt.NDArray[np.bool_]], score: float = 0.8) -> ObjectMasks:
    labels = np.zeros((H, W), np.uint8 if max(found, default=0) < 256 else np.uint16)
    for object_id, mask in found.items():
        labels[mask] = object_id
    n = len(found)
    lost = np.array([not (labels == i).any() for i in sorted(found)], np.bool_)
    return ObjectMasks(tuple(sorted(found)), labels, np.full(n, score, np.float32), lost)


def test_distances_are_counted_from_the_prompts_of_the_object() -> None:
    anchors = Anchors.of(range(2, 50, 3), [(8, 1), (20, 1), (8, 1), (20, 2)])
    assert anchors.distances(1, 8) == (0, 0)
    assert anchors.distances(1, 11) == (3, 9)
    assert anchors.distances(2, 11) == (10, 9)  # nothing before: just beyond the first tracked frame
    assert anchors.distances(1, 47) == (27, 1)
    assert anchors.distances(9, 2) == (1, 46)


def test_one_opinion_is_taken_as_it_is() -> None:
    found = masks({1: disc(20, 20, 8)})
    nothing = ObjectMasks((), np.zeros((H, W), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    assert merge_passes(None, None, BOTH, 50) is None
    for one, other in ((found, None), (None, found), (found, nothing), (nothing, found)):
        assert same(merge_passes(one, other, BOTH, 50), found)


def test_where_the_user_spoke_it_is_what_the_first_pass_made_of_it() -> None:
    told, other = masks({1: disc(20, 20, 8)}, 0.1), masks({1: disc(23, 20, 8)}, 1.0)
    for frame in (10, 90):
        assert same(merge_passes(told, other, BOTH, frame), told)


def test_views_of_one_shape_pass_into_each_other() -> None:
    """Between two discs of one size lies a disc of that size, nearer to the nearer prompt's."""
    ahead, back = masks({1: disc(24, 20, 10)}), masks({1: disc(28, 20, 10)})
    centres = []
    for frame in range(11, 90):
        merged = merge_passes(ahead, back, BOTH, frame)
        assert merged is not None
        mask = merged.mask(1)
        x, y = np.argwhere(mask).mean(0)[::-1]
        centres.append(x)
        assert y == pytest.approx(20, abs=0.2)
        assert agreement(mask, disc(x, 20, 10)) > 0.85
    assert centres == sorted(centres)
    assert centres[0] == pytest.approx(24, abs=0.5)
    assert centres[39] == pytest.approx(26, abs=0.3)
    assert centres[-1] == pytest.approx(28, abs=0.5)


def test_a_surer_pass_counts_more() -> None:
    ahead, back = disc(24, 20, 10), disc(28, 20, 10)

    def centre(score: float) -> float:
        merged = merge_passes(masks({1: ahead}, score), masks({1: back}, 0.5), BOTH, 50)
        assert merged is not None
        return float(np.argwhere(merged.mask(1)).mean(0)[1])

    assert centre(1.0) < centre(0.5) < centre(0.1)
    assert centre(0.5) == pytest.approx(26, abs=0.3)


def test_masks_of_different_things_are_not_mixed() -> None:
    ahead, back = masks({1: disc(12, 20, 8)}, 0.9), masks({1: disc(48, 20, 8)}, 0.6)
    early, late = merge_passes(ahead, back, BOTH, 40), merge_passes(ahead, back, BOTH, 70)
    assert early is not None
    assert late is not None
    assert (early.mask(1) == ahead.mask(1)).all()
    assert (late.mask(1) == back.mask(1)).all()


def test_absence_counts_as_an_even_bet() -> None:
    there, gone = masks({1: disc(20, 20, 8)}, 0.8), masks({1: disc(20, 20, -1)}, 0.0)
    near, far = merge_passes(there, gone, BOTH, 50), merge_passes(there, gone, BOTH, 80)
    assert near is not None
    assert far is not None
    assert (near.mask(1) == there.mask(1)).all()
    assert not near.lost[0]
    assert not far.labels.any()
    assert far.lost[0]
    swapped = merge_passes(gone, there, BOTH, 80)
    assert swapped is not None
    assert (swapped.mask(1) == there.mask(1)).all()


def test_objects_that_one_pass_alone_knows_are_kept() -> None:
    anchors = Anchors(0, 100, {1: (10, 90), 300: (60,)})
    ahead, back = masks({1: disc(20, 20, 8)}), masks({1: disc(20, 20, 8), 300: disc(45, 20, 8)})
    merged = merge_passes(ahead, back, anchors, 40)
    assert merged is not None
    assert merged.ids == (1, 300)
    assert merged.labels.dtype == np.uint16
    assert (merged.labels == back.labels).all()


blobs = st.tuples(st.integers(-5, W + 5), st.integers(-5, H + 5), st.integers(-1, 25), st.floats(0, 1, width=32))


def scene(ids: list[int], drawn: list[tuple[int, int, int, float]]) -> ObjectMasks:
    """Discs drawn by ascending id, so that ids decide who covers whom."""
    found = {i: disc(x, y, r) for i, (x, y, r, _) in zip(ids, drawn, strict=True)}
    made = masks(found)
    order = np.argsort(ids)
    return ObjectMasks(made.ids, made.labels, np.array([drawn[n][3] for n in order], np.float32), made.lost)


@settings(deadline=None, max_examples=80)
@given(st.lists(blobs, min_size=3, max_size=3), st.lists(blobs, min_size=3, max_size=3), st.integers(0, 100))
def test_every_merge_is_a_proper_result(
    a: list[tuple[int, int, int, float]], b: list[tuple[int, int, int, float]], frame: int
) -> None:
    anchors = Anchors(0, 100, {2: (0, 100), 5: (30, 100), 7: (0,)})
    ahead, back = scene([2, 5, 7], a), scene([2, 5, 7], b)
    merged = merge_passes(ahead, back, anchors, frame)
    assert merged is not None
    assert merged.ids == (2, 5, 7)
    assert set(np.unique(merged.labels)) <= {0, 2, 5, 7}
    assert (merged.scores >= 0).all()
    assert (merged.scores <= 1).all()
    for i, lost in zip(merged.ids, merged.lost, strict=True):
        assert lost == (not merged.mask(i).any())
    # no object reaches beyond what one of the passes said of it, but for the pixel that a border is wide
    for i in merged.ids:
        said = (ahead.mask(i) | back.mask(i)).astype(np.uint8)
        assert not (merged.mask(i) & (cv2.dilate(said, np.ones((3, 3), np.uint8)) == 0)).any()


@settings(deadline=None, max_examples=40)
@given(st.lists(blobs, min_size=1, max_size=1), st.lists(blobs, min_size=1, max_size=1), st.integers(1, 99))
def test_time_reversed_it_is_the_same(
    a: list[tuple[int, int, int, float]], b: list[tuple[int, int, int, float]], frame: int
) -> None:
    anchors = Anchors(0, 100, {1: (0, 100)})
    one, other = scene([1], a), scene([1], b)
    ahead, back = merge_passes(one, other, anchors, frame), merge_passes(other, one, anchors, 100 - frame)
    assert ahead is not None
    assert back is not None
    if agreement(one.mask(1), other.mask(1)) >= 0.5:
        assert np.count_nonzero(ahead.labels != back.labels) <= 2  # depths that are zero but for rounding
        assert ahead.scores == pytest.approx(back.scores, abs=1e-5)


def test_agreement_is_iou() -> None:
    half = np.zeros((4, 4), np.bool_)
    half[:2] = True
    assert agreement(half, ~half) == 0
    assert agreement(half, half) == 1
    assert agreement(half, np.ones((4, 4), np.bool_)) == 0.5
    assert agreement(half & False, half & False) == 1
