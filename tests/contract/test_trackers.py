"""What every tracker promises, asserted for each name in `TRACKERS`; declared traits are asserted both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scenes import Position, Scene, iou, scene

from seem_core.errors import MaskError, PromptError, VideoError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt
from trackers import TRACKERS, Tracker, build_tracker
from trackers.base import ObjectMasks

LENGTH = 6


def small(name: str) -> dict[str, Any]:
    """Options that make a tracker cheap enough for many short runs."""
    if name == "propagate":
        from trackers.propagation import PropagationConfig

        return {"config": PropagationConfig(pixels=192 * 352)}
    return {}


@pytest.fixture(params=list(TRACKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fresh(name: str) -> Tracker:
    return build_tracker(name, **small(name))


@pytest.fixture(scope="module")
def two() -> Scene:
    """Two objects that move slowly."""
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(LENGTH)])


def prompts(found: Scene, frame: int = 0, ids: tuple[int, ...] = (1, 2)) -> list[MaskPrompt]:
    return [MaskPrompt(mask, i) for i, mask in zip(ids, found.masks[frame], strict=True)]


def same(a: ObjectMasks, b: ObjectMasks) -> bool:
    return (
        a.ids == b.ids
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.lost, b.lost)
    )


def test_it_is_a_tracker_under_its_own_name(name: str) -> None:
    tracker = fresh(name)
    assert isinstance(tracker, Tracker)
    assert tracker.name == name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="there are propagate"):
        build_tracker("nonesuch")


def test_frames_before_the_first_prompt_hold_no_objects(name: str, two: Scene) -> None:
    tracker = fresh(name)
    for image in two.images[:2]:
        found = tracker.step(image)
        assert found.ids == ()
        assert found.labels.shape == image.shape[:2]
        assert not found.labels.any()
    assert tracker.step(two.images[2], prompts(two, 2)).ids == (1, 2)


def test_objects_are_followed_under_ids_with_gaps(name: str, two: Scene) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two, ids=(7, 300)))
    for image in two.images[1:]:
        found = tracker.step(image)
        assert found.ids == (7, 300)
        assert found.labels.dtype == np.uint16
        assert set(np.unique(found.labels)) <= {0, 7, 300}
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        for i, lost in zip(found.ids, found.lost, strict=True):
            assert lost == (not found.mask(i).any())
    if name != "copy":
        assert min(iou(found.mask(i), m) for i, m in zip((7, 300), two.masks[-1], strict=True)) > 0.7


def test_first_masks_come_back_as_declared(name: str, two: Scene) -> None:
    tracker = fresh(name)
    found = tracker.step(two.images[0], prompts(two))
    unchanged = all(np.array_equal(found.mask(i), m) for i, m in zip((1, 2), two.masks[0], strict=True))
    assert unchanged == tracker.traits.returns_first_mask
    assert not found.lost.any()


def test_an_object_that_left_is_found_again_as_declared(name: str) -> None:
    path: list[list[Position]] = [[(60, 50)]] * 3 + [[None]] * 9 + [[(250, 120)]] * 3
    there_and_back = scene(path)
    tracker = fresh(name)
    tracker.step(there_and_back.images[0], prompts(there_and_back, ids=(1,)))
    found = [tracker.step(image) for image in there_and_back.images[1:]]
    refound = iou(found[-1].mask(1), there_and_back.masks[-1][0]) > 0.6
    assert refound == tracker.traits.refinds
    if tracker.traits.refinds:
        gone = found[10]
        assert gone.lost.all()
        assert not gone.labels.any()


def test_memory_is_used_as_declared(name: str) -> None:
    """The same prompt and the same last frames, after different frames between. Flow sees only the previous frame."""
    straight = scene([[(100 + 6 * t, 90)] for t in range(8)])
    other = scene([[(100, 90)]] + [[None]] * 8, shift=0)
    results = []
    for between in (straight.images[1:5], other.images[1:5]):
        tracker = fresh(name)
        tracker.step(straight.images[0], prompts(straight, ids=(1,)))
        for image in between:
            tracker.step(image)
        results.append([tracker.step(image) for image in straight.images[5:]][-1])
    if name == "flow":
        assert not tracker.traits.uses_memory  # the previous frame and its mask are all it has
    else:
        assert same(*results) != tracker.traits.uses_memory


def test_runs_are_repeatable(name: str, two: Scene) -> None:
    runs = []
    for _ in range(2):
        tracker = fresh(name)
        tracker.step(two.images[0], prompts(two))
        runs.append([tracker.step(image) for image in two.images[1:]])
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("at", [0, 1, 3])
def test_saving_and_loading_changes_nothing(name: str, two: Scene, at: int) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two))
    for image in two.images[1 : at + 1]:
        tracker.step(image)
    resumed = fresh(name)
    resumed.load_state_dict(tracker.state_dict())
    for image in two.images[at + 1 :]:
        assert same(tracker.step(image), resumed.step(image))


def test_a_saved_state_is_not_changed_by_going_on(name: str, two: Scene) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two))
    state = tracker.state_dict()
    expected = tracker.step(two.images[1])
    tracker.step(two.images[2])
    resumed = fresh(name)
    resumed.load_state_dict(state)
    assert same(resumed.step(two.images[1]), expected)


def test_a_forgotten_object_is_gone(name: str, two: Scene) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two))
    tracker.forget(1)
    found = tracker.step(two.images[1])
    assert found.ids == (2,)
    assert set(np.unique(found.labels)) <= {0, 2}
    with pytest.raises(PromptError, match="1"):
        tracker.forget(1)
    tracker.forget(2)
    assert tracker.step(two.images[2]).ids == ()
    assert tracker.step(two.images[3], prompts(two, 3, (4, 5))).ids == (4, 5)


def test_a_later_prompt_adds_an_object(name: str, two: Scene) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two)[:1])
    tracker.step(two.images[1])
    found = tracker.step(two.images[2], prompts(two, 2)[1:])
    assert found.ids == (1, 2)
    assert np.array_equal(found.mask(2), two.masks[2][1])
    found = tracker.step(two.images[3])
    assert found.ids == (1, 2)
    assert iou(found.mask(2), two.masks[3][1]) > 0.7


def test_a_prompt_on_a_known_object_replaces_its_mask(name: str, two: Scene) -> None:
    tracker = fresh(name)
    tracker.step(two.images[0], prompts(two))
    tracker.step(two.images[1])
    corrected = two.masks[2][0].copy()
    corrected[:50] = False
    found = tracker.step(two.images[2], [MaskPrompt(corrected, 1)])
    assert np.array_equal(found.mask(1), corrected)
    assert found.ids == (1, 2)


def test_points_and_boxes_become_masks(name: str, two: Scene) -> None:
    tracker = fresh(name)
    found = tracker.step(two.images[0], [BoxPrompt(40, 30, 100, 90, 1), PointPrompt(230, 110, True, 2)])
    assert iou(found.mask(1), two.masks[0][0]) > 0.7
    assert found.mask(2)[110, 230]
    assert tracker.step(two.images[1]).ids == (1, 2)


def test_permuting_ids_permutes_the_result(name: str, two: Scene) -> None:
    """Up to ties: sums over objects are taken in another order."""
    one, other = fresh(name), fresh(name)
    one.step(two.images[0], prompts(two, ids=(1, 2)))
    other.step(two.images[0], prompts(two, ids=(9, 4)))
    for image in two.images[1:]:
        a, b = one.step(image), other.step(image)
        for i, j in ((1, 9), (2, 4)):
            assert iou(a.mask(i), b.mask(j)) > 0.999
            assert a.scores[a.ids.index(i)] == pytest.approx(b.scores[b.ids.index(j)], abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(61, 47), (240, 150)])
def test_other_sizes_and_single_frames_work(name: str, height: int, width: int) -> None:
    one = scene([[(width // 2, height // 2)]] * 2, height, width, radius=14)
    tracker = fresh(name)
    found = tracker.step(one.images[0], prompts(one, ids=(1,)))
    assert found.labels.shape == (height, width)
    found = tracker.step(one.images[1])
    assert iou(found.mask(1), one.masks[1][0]) > 0.7


def test_wrong_input_is_named(name: str, two: Scene) -> None:
    tracker = fresh(name)
    with pytest.raises(MaskError):
        tracker.step(two.images[0], [MaskPrompt(np.ones((3, 4), np.bool_))])
    with pytest.raises(PromptError):
        tracker.step(two.images[0], [PointPrompt(5000, 3)])
    assert tracker.step(two.images[0], prompts(two)).ids == (1, 2)
    with pytest.raises(VideoError):
        tracker.step(scene([[None]], 200, 100).images[0])


def tensors(value: object) -> list[tuple[int, ...]]:
    """Shapes of everything array-like inside a state."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return [tuple(value.shape)]
    if isinstance(value, dict):
        return [shape for v in value.values() for shape in tensors(v)]
    if isinstance(value, list | tuple):
        return [shape for v in value for shape in tensors(v)]
    return []


def test_nothing_grows_with_time(name: str) -> None:
    long = scene([[(60 + 3 * t, 90)] for t in range(24)])
    tracker = fresh(name)
    tracker.step(long.images[0], prompts(long, ids=(1,)))
    sizes = []
    for image in long.images[1:]:
        tracker.step(image)
        sizes.append(sorted(tensors(tracker.state_dict())))
    assert all(size == sizes[-1] for size in sizes[11:])
