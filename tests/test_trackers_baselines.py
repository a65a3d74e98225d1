"""The baselines: masks repeated as they are, and masks that move with the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from seem_core.errors import MaskError, PromptError, VideoError
from seem_core.prompts import BoxPrompt, MaskPrompt
from trackers.base import Tracker
from trackers.baselines import CopyTracker, FlowTracker

RNG = np.random.default_rng(7)
TEXTURE = cv2.GaussianBlur(RNG.integers(0, 256, (200, 320, 3), dtype=np.uint8), (0, 0), 2)
TEXTURE = cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)


def shifted(pixels: int) -> np.ndarray:
    """A (120, 160, 3) window of one texture, which moves left in the window by ``pixels``."""
    return np.ascontiguousarray(TEXTURE[40:160, 80 + pixels : 240 + pixels])


def square(x: int, y: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((120, 160), np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(params=[CopyTracker, FlowTracker])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    return request.param()


def test_satisfies_the_protocol(tracker: Tracker) -> None:
    assert isinstance(tracker, Tracker)
    assert tracker.name in {"copy", "flow"}


def test_nothing_before_the_first_prompt(tracker: Tracker) -> None:
    result = tracker.step(shifted(0))
    assert result.ids == ()
    assert not result.labels.any()


def test_first_mask_comes_back_unchanged_and_ids_may_have_gaps(tracker: Tracker) -> None:
    a, b = square(10, 10), square(90, 60)
    result = tracker.step(shifted(0), [MaskPrompt(b, 300), MaskPrompt(a, 2)])
    assert result.ids == (2, 300)
    assert result.labels.dtype == np.uint16
    np.testing.assert_array_equal(result.mask(2), a)
    np.testing.assert_array_equal(result.mask(300), b)
    assert (result.scores > 0.9).all()
    assert not result.lost.any()


def test_where_given_masks_overlap_the_first_keeps_the_pixels(tracker: Tracker) -> None:
    a, b = square(10, 10), square(30, 10)
    result = tracker.step(shifted(0), [MaskPrompt(a, 5), MaskPrompt(b, 1)])
    np.testing.assert_array_equal(result.mask(5), a)
    np.testing.assert_array_equal(result.mask(1), b & ~a)


def test_copy_repeats() -> None:
    tracker = CopyTracker()
    first = tracker.step(shifted(0), [MaskPrompt(square(30, 30))])
    for i in range(3):
        np.testing.assert_array_equal(tracker.step(shifted(i)).labels, first.labels)


def test_returned_labels_are_the_callers_own() -> None:
    tracker = CopyTracker()
    tracker.step(shifted(0), [MaskPrompt(square(30, 30))]).labels[:] = 0
    assert tracker.step(shifted(1)).labels.any()


def test_flow_follows_motion() -> None:
    tracker = FlowTracker()
    tracker.step(shifted(0), [MaskPrompt(square(80, 40)), MaskPrompt(square(110, 70, 30), 4)])
    for i in range(1, 11):
        result = tracker.step(shifted(3 * i))
    assert overlap(result.mask(1), square(50, 40)) > 0.85
    assert overlap(result.mask(4), square(80, 70, 30)) > 0.8
    assert overlap(result.mask(1), square(80, 40)) < 0.3


def test_flow_is_less_sure_after_a_cut() -> None:
    tracker = FlowTracker()
    tracker.step(shifted(0), [MaskPrompt(square(80, 40))])
    followed = tracker.step(shifted(3)).scores[0]
    cut = tracker.step(255 - shifted(3)).scores[0]
    assert followed > 0.8
    assert cut < 0.6


def test_flow_says_when_an_object_left() -> None:
    tracker = FlowTracker()
    tracker.step(shifted(0), [MaskPrompt(square(0, 40, 20))])
    for i in range(1, 13):
        result = tracker.step(shifted(3 * i))
    assert result.ids == (1,)
    assert result.lost.all()
    assert result.scores[0] == 0


def test_flow_at_a_smaller_working_size_keeps_the_source_size() -> None:
    tracker = FlowTracker(short_side=60)
    tracker.step(shifted(0), [MaskPrompt(square(80, 40))])
    result = tracker.step(shifted(6))
    assert result.labels.shape == (120, 160)
    assert overlap(result.mask(1), square(74, 40)) > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (17, 5)])
def test_tiny_pictures(tracker: Tracker, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    tracker.step(image, [MaskPrompt(np.ones(shape, np.bool_))])
    assert tracker.step(image).labels.all()


def test_later_prompt_adds_an_object_and_corrects_another(tracker: Tracker) -> None:
    tracker.step(shifted(0), [MaskPrompt(square(10, 10), 1)])
    tracker.step(shifted(0))
    result = tracker.step(shifted(0), [MaskPrompt(square(100, 60), 7), MaskPrompt(square(20, 50), 1)])
    assert result.ids == (1, 7)
    np.testing.assert_array_equal(result.mask(1), square(20, 50))
    np.testing.assert_array_equal(result.mask(7), square(100, 60))


def test_a_prompted_object_takes_pixels_from_one_that_was_not(tracker: Tracker) -> None:
    tracker.step(shifted(0), [MaskPrompt(square(10, 10), 1)])
    result = tracker.step(shifted(0), [MaskPrompt(square(30, 10), 2)])
    np.testing.assert_array_equal(result.mask(2), square(30, 10))
    again = tracker.step(shifted(0))
    assert overlap(again.mask(2), square(30, 10)) > 0.95
    assert overlap(again.mask(1), square(10, 10) & ~square(30, 10)) > 0.95


def test_a_box_starts_an_object(tracker: Tracker) -> None:
    image = np.full((120, 160, 3), 40, np.uint8)
    image[30:80, 50:110] = (220, 60, 30)
    result = tracker.step(image, [BoxPrompt(48, 28, 112, 82, 3)])
    truth = np.zeros((120, 160), np.bool_)
    truth[30:80, 50:110] = True
    assert result.ids == (3,)
    assert overlap(result.mask(3), truth) > 0.9


def test_forget(tracker: Tracker) -> None:
    tracker.step(shifted(0), [MaskPrompt(square(10, 10), 1), MaskPrompt(square(90, 60), 2)])
    tracker.forget(1)
    result = tracker.step(shifted(0))
    assert result.ids == (2,)
    assert set(np.unique(result.labels)) == {0, 2}
    with pytest.raises(PromptError, match="object 1 is not being tracked"):
        tracker.forget(1)


def test_forgetting_the_last_object_leaves_an_empty_map(tracker: Tracker) -> None:
    tracker.step(shifted(0), [MaskPrompt(square(10, 10), 1)])
    tracker.forget(1)
    result = tracker.step(shifted(0))
    assert result.ids == ()
    assert not result.labels.any()


def test_state_goes_on_elsewhere(tracker: Tracker) -> None:
    tracker.step(shifted(0), [MaskPrompt(square(80, 40), 1), MaskPrompt(square(20, 20), 9)])
    tracker.step(shifted(2))
    other = type(tracker)()
    other.load_state_dict(tracker.state_dict())
    for i in (4, 6):
        expected, got = tracker.step(shifted(i)), other.step(shifted(i))
        assert got.ids == expected.ids
        np.testing.assert_array_equal(got.labels, expected.labels)
        np.testing.assert_array_equal(got.scores, expected.scores)


def test_sizes_must_agree(tracker: Tracker) -> None:
    with pytest.raises(MaskError, match="40x30"):
        tracker.step(shifted(0), [MaskPrompt(np.ones((30, 40), np.bool_))])
    tracker.step(shifted(0), [MaskPrompt(square(10, 10))])
    with pytest.raises(VideoError, match="sizes must agree"):
        tracker.step(np.zeros((60, 80, 3), np.uint8))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="short_side"):
        FlowTracker(short_side=4)
    with pytest.raises(ValueError, match="gain"):
        FlowTracker(gain=0.5)
