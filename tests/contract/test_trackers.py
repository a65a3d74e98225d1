"""What every tracker promises, asserted for each name in `TRACKERS` with each kind of model that it can have.

Models are random SEEMs in the three routings, an oracle that knows the truth, and one that answers with noise. Traits
are asserted both ways. What a tracker finds is judged where it can know (`Case.knows`), all else everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from oracle_segmenter import NoiseSegmenter, OracleSegmenter, Recipe
from scenes import Position, Scene, iou, scene
from tiny_seem import tiny_seem

from seem_core.errors import InputError, MaskError, PromptError, VideoError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, ReferencePrompt
from seem_core.refiner_weights import load_refiner, shipped_weights
from seem_core.routing import RoutingName
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import Segmenter
from trackers import TRACKERS, Tracker, build_tracker
from trackers.base import ObjectMasks
from trackers.dense import DenseReader
from trackers.fused import FusionConfig
from trackers.gate import Gate
from trackers.prompt_memory import PromptMemoryConfig
from trackers.propagation import LabelPropagation, PropagationConfig
from trackers.refined import RefinedPropagation

LENGTH = 6
ROUTINGS = ("demo", "v0", "v1")
EXACT = Recipe(drop=0, swap=0, grow=(0, 0), scores=(1, 1, 1), spread=0)


@dataclass(frozen=True)
class Case:
    """A tracker with one kind of model: none, a routing (random weights), oracle or noise."""

    tracker: str
    model: str

    @property
    def knows(self) -> bool:
        """Whether it has a way of finding objects."""
        return self.model in ("none", "oracle") and self.tracker != "copy"

    @property
    def is_dense(self) -> bool:
        """Whether it remembers more than a model's views."""
        return self.tracker in ("propagate", "fused", "lite")

    @property
    def has_bank(self) -> bool:
        return self.tracker not in ("flow", "copy")


def cases() -> list[Case]:
    found = []
    for tracker, kind in TRACKERS.items():
        if kind.model != "needed":
            found.append(Case(tracker, "none"))
        if kind.model == "needed" or kind.decoder:
            found += [Case(tracker, model) for model in (*ROUTINGS, "oracle", "noise")]
    return [*found, Case("propagate", "v0")]  # which reads prompts there


CASES = cases()


def over(*chosen: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", chosen or CASES, ids=lambda c: f"{c.tracker}-{c.model}")


@cache
def small_reader() -> DenseReader:
    """A dense reader for small pictures; stateless, so that one is enough."""
    return LabelPropagation(PropagationConfig(pixels=128 * 224))


@cache
def small_refined_reader() -> DenseReader:
    return RefinedPropagation(LabelPropagation(PropagationConfig(pixels=128 * 224)), load_refiner(shipped_weights()))


def small(name: str) -> dict[str, Any]:
    """Options that make a tracker cheap enough for many short runs, and let it remember whatever it finds."""
    if name == "propagate":
        return {"reader": small_reader()}
    if name == "lite":
        return {"reader": small_refined_reader()}
    if name == "fused":
        return {"reader": small_reader(), "fusion": FusionConfig(every=1)}
    if name == "prompt-memory":
        return {"config": PromptMemoryConfig(gate=Gate())}
    return {}


@cache
def random_segmenter(routing: RoutingName) -> Segmenter:
    return cast(Segmenter, SeemSegmenter(tiny_seem(routing)))


def segmenter(model: str, ids: tuple[int, ...], *scenes: Scene) -> Segmenter:
    images = [image for each in scenes for image in each.images]
    if model == "oracle":
        truths = [dict(zip(ids, masks, strict=False)) for each in scenes for masks in each.masks]
        return OracleSegmenter(images, truths, EXACT)
    if model == "noise":
        return NoiseSegmenter(images)
    return random_segmenter(cast(RoutingName, model))


def fresh(case: Case, *scenes: Scene, ids: tuple[int, ...] = (1, 2), **options: Any) -> Tracker:
    """The case's tracker for a video of ``scenes``, whose objects have these ids."""
    options |= small(case.tracker)
    if case.model != "none":
        options["model"] = segmenter(case.model, ids, *scenes)
        if TRACKERS[case.tracker].decoder:
            options["decoder"] = "on"  # random weights say that they are untrained
    return build_tracker(case.tracker, **options)


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


@over()
def test_it_is_a_tracker_under_its_own_name(case: Case) -> None:
    tracker = fresh(case)
    assert isinstance(tracker, Tracker)
    assert tracker.name == case.tracker


def test_wrong_ways_of_building_are_named() -> None:
    with pytest.raises(ValueError, match=r"there are .*propagate"):
        build_tracker("nonesuch")
    for name, kind in TRACKERS.items():
        if kind.model == "needed":
            with pytest.raises(InputError, match=f"tracker {name} needs a SEEM model.*vos models get"):
                build_tracker(name)
        if kind.model == "unused":
            with pytest.raises(InputError, match=f"{name} has no use for a model"):
                build_tracker(name, model="seem-focal-t-v0")
        if not kind.decoder:
            with pytest.raises(InputError, match="cannot switch its decoder on"):
                build_tracker(name, decoder="on", model=None if kind.model != "needed" else "seem-focal-t-v0")


@over()
def test_frames_before_the_first_prompt_hold_no_objects(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    for image in two.images[:2]:
        found = tracker.step(image)
        assert found.ids == ()
        assert found.labels.shape == image.shape[:2]
        assert not found.labels.any()
    assert tracker.step(two.images[2], prompts(two, 2)).ids == (1, 2)


@over()
def test_objects_are_followed_under_ids_with_gaps(case: Case, two: Scene) -> None:
    tracker = fresh(case, two, ids=(7, 300))
    tracker.step(two.images[0], prompts(two, ids=(7, 300)))
    for image in two.images[1:]:
        found = tracker.step(image)
        assert found.ids == (7, 300)
        assert found.labels.dtype == np.uint16
        assert set(np.unique(found.labels)) <= {0, 7, 300}
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        for i, lost in zip(found.ids, found.lost, strict=True):
            assert lost == (not found.mask(i).any())
    if case.knows:
        assert min(iou(found.mask(i), m) for i, m in zip((7, 300), two.masks[-1], strict=True)) > 0.7


@over()
def test_first_masks_come_back_as_declared(case: Case, two: Scene) -> None:
    """Half of each object is given, so that a tracker which finds the whole cannot return it by chance."""
    tracker = fresh(case, two)
    halves = [mask.copy() for mask in two.masks[0]]
    halves[0][60:], halves[1][110:] = False, False
    found = tracker.step(two.images[0], [MaskPrompt(half, i) for i, half in enumerate(halves, 1)])
    unchanged = all(np.array_equal(found.mask(i), half) for i, half in enumerate(halves, 1))
    assert unchanged == tracker.traits.returns_first_mask
    if case.knows or unchanged:
        assert not found.lost.any()


@over(*(case for case in CASES if case.knows or case.tracker == "copy"))
def test_an_object_that_left_is_found_again_as_declared(case: Case) -> None:
    path: list[list[Position]] = [[(60, 50)]] * 3 + [[None]] * 9 + [[(250, 120)]] * 3
    there_and_back = scene(path)
    tracker = fresh(case, there_and_back, ids=(1,))
    tracker.step(there_and_back.images[0], prompts(there_and_back, ids=(1,)))
    found = [tracker.step(image) for image in there_and_back.images[1:]]
    refound = iou(found[-1].mask(1), there_and_back.masks[-1][0]) > 0.6
    assert refound == tracker.traits.refinds
    if tracker.traits.refinds:
        gone = found[10]
        assert gone.lost.all()
        assert not gone.labels.any()


@over(*(case for case in CASES if case.tracker != "prompt-memory" or case.model in ROUTINGS))
def test_memory_is_used_as_declared(case: Case) -> None:
    """The same prompt and the same last frames, after different frames between. Flow sees only the previous frame.

    Oracle and noise answer by the frame alone, whatever is remembered.
    """
    straight = scene([[(100 + 6 * t, 90)] for t in range(6)])
    other = scene([[(100, 90)]] + [[None]] * 4, shift=0)
    results = []
    for between in (straight.images[1:4], other.images[1:4]):
        tracker = fresh(case, straight, other, ids=(1,))
        tracker.step(straight.images[0], prompts(straight, ids=(1,)))
        for image in between:
            tracker.step(image)
        results.append([tracker.step(image) for image in straight.images[4:]][-1])
    if case.tracker == "flow":
        assert not tracker.traits.uses_memory  # the previous frame and its mask are all it has
    else:
        assert same(*results) != tracker.traits.uses_memory


@over()
def test_runs_repeat_and_can_be_saved_at_any_frame(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    results = [tracker.step(two.images[0], prompts(two))]
    states = [tracker.state_dict()]
    for image in two.images[1:]:
        results.append(tracker.step(image))
        states.append(tracker.state_dict())
    assert_plain(states[-1])
    again = fresh(case, two)
    assert all(
        same(again.step(image, prompts(two) if n == 0 else ()), results[n]) for n, image in enumerate(two.images[:3])
    )
    for at in (0, 3):  # a state that going on has not changed
        resumed = fresh(case, two)
        resumed.load_state_dict(states[at])
        assert all(same(resumed.step(two.images[n]), results[n]) for n in range(at + 1, min(at + 3, LENGTH)))


@over()
def test_a_forgotten_object_is_gone(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    tracker.step(two.images[0], prompts(two))
    tracker.forget(1)
    found = tracker.step(two.images[1])
    assert found.ids == (2,)
    assert set(np.unique(found.labels)) <= {0, 2}
    with pytest.raises(PromptError, match="1"):
        tracker.forget(1)
    tracker.forget(2)
    assert tracker.step(two.images[2]).ids == ()
    assert tracker.step(two.images[3], prompts(two, 3)).ids == (1, 2)


@over()
def test_a_later_prompt_adds_an_object(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    tracker.step(two.images[0], prompts(two)[:1])
    tracker.step(two.images[1])
    found = tracker.step(two.images[2], prompts(two, 2)[1:])
    assert found.ids == (1, 2)
    if tracker.traits.returns_first_mask:
        assert np.array_equal(found.mask(2), two.masks[2][1])
    found = tracker.step(two.images[3])
    assert found.ids == (1, 2)
    if case.knows or case.tracker == "copy":
        assert iou(found.mask(2), two.masks[3][1]) > 0.7


@over()
def test_a_prompt_on_a_known_object_replaces_its_mask(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    tracker.step(two.images[0], prompts(two))
    tracker.step(two.images[1])
    corrected = two.masks[2][0].copy()
    corrected[:50] = False
    found = tracker.step(two.images[2], [MaskPrompt(corrected, 1)])
    assert np.array_equal(found.mask(1), corrected) == tracker.traits.returns_first_mask
    assert found.ids == (1, 2)


@over()
def test_points_and_boxes_become_masks(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    found = tracker.step(two.images[0], [BoxPrompt(40, 30, 100, 90, 1), PointPrompt(230, 110, True, 2)])
    if case.knows or case.model == "none":
        assert iou(found.mask(1), two.masks[0][0]) > 0.7
        assert found.mask(2)[110, 230]
    assert tracker.step(two.images[1]).ids == (1, 2)
    assert tracker.step(two.images[2], [PointPrompt(78, 60, True, 1)]).ids == (1, 2)  # a correction


@over(*(case for case in CASES if case.has_bank))
def test_an_object_can_be_shown_on_another_picture(case: Case, two: Scene) -> None:
    other = scene([[(60, 60), None]], 120, 160)
    tracker = fresh(case, two)
    found = tracker.step(two.images[0], [ReferencePrompt(other.images[0], other.masks[0][0], 1)])
    assert found.ids == (1,)
    if case.knows:
        assert iou(found.mask(1), two.masks[0][0]) > 0.4
    assert tracker.step(two.images[1]).ids == (1,)
    with pytest.raises(PromptError, match="empty"):
        tracker.step(two.images[2], [ReferencePrompt(other.images[0], np.zeros((120, 160), bool), 2)])


@over(*(case for case in CASES if case.has_bank))
def test_a_refused_step_changes_nothing(case: Case, two: Scene) -> None:
    other = scene([[(60, 60)]], 120, 160)
    shown = ReferencePrompt(other.images[0], other.masks[0][0], 2)
    tracker, undisturbed = fresh(case, two), fresh(case, two)
    for one in (tracker, undisturbed):
        one.step(two.images[0], prompts(two)[:1])
    with pytest.raises(MaskError):
        tracker.step(two.images[1], [shown, MaskPrompt(np.ones((3, 4), np.bool_))])
    assert same(tracker.step(two.images[1]), undisturbed.step(two.images[1]))


@over(*(case for case in CASES if TRACKERS[case.tracker].memory))
def test_a_saved_memory_knows_its_objects_in_another_video(case: Case, two: Scene, tmp_path: Path) -> None:
    tracker = fresh(case, two, ids=(4, 9))
    tracker.step(two.images[0], prompts(two, ids=(4, 9)))
    tracker.step(two.images[1])
    cast(Any, tracker).save_memory(tmp_path / "objects.safetensors")
    other = scene([[(60 + 3 * t, 60), (100, 140)] for t in range(2)], 200, 160)
    later = fresh(case, other, ids=(4, 9), memory=tmp_path / "objects.safetensors")
    for image in other.images:
        found = later.step(image)
        assert found.ids == (4, 9)
        assert found.labels.shape == (200, 160)
    if case.knows:
        assert min(iou(found.mask(i), m) for i, m in zip((4, 9), other.masks[1], strict=True)) > 0.4


# in `v1` objects share queries and tokens by their order; noise is drawn by id
@over(*(case for case in CASES if case.model not in ("v1", "noise") or case.tracker == "propagate"))
def test_permuting_ids_permutes_the_result(case: Case, two: Scene) -> None:
    """Up to ties: sums over objects are taken in another order."""
    one, other = fresh(case, two, ids=(1, 2)), fresh(case, two, ids=(9, 4))
    one.step(two.images[0], prompts(two, ids=(1, 2)))
    other.step(two.images[0], prompts(two, ids=(9, 4)))
    for image in two.images[1:4]:
        a, b = one.step(image), other.step(image)
        for i, j in ((1, 9), (2, 4)):
            assert iou(a.mask(i), b.mask(j)) > 0.999
            assert a.scores[a.ids.index(i)] == pytest.approx(b.scores[b.ids.index(j)], abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(61, 47), (240, 150)])
@over()
def test_other_sizes_and_single_frames_work(case: Case, height: int, width: int) -> None:
    one = scene([[(width // 2, height // 2)]] * 2, height, width, radius=14)
    tracker = fresh(case, one, ids=(1,))
    found = tracker.step(one.images[0], prompts(one, ids=(1,)))
    assert found.labels.shape == (height, width)
    found = tracker.step(one.images[1])
    assert found.labels.shape == (height, width)
    if case.knows:
        assert iou(found.mask(1), one.masks[1][0]) > 0.7


@over()
def test_wrong_input_is_named(case: Case, two: Scene) -> None:
    tracker = fresh(case, two)
    with pytest.raises(MaskError):
        tracker.step(two.images[0], [MaskPrompt(np.ones((3, 4), np.bool_))])
    with pytest.raises(PromptError):
        tracker.step(two.images[0], [PointPrompt(5000, 3)])
    assert tracker.step(two.images[0], prompts(two)).ids == (1, 2)
    with pytest.raises(VideoError):
        tracker.step(scene([[None]], 200, 100).images[0])


@over()
def test_nothing_grows_with_time(case: Case) -> None:
    long = scene([[(60 + 3 * t, 90)] for t in range(16)])
    tracker = fresh(case, long, ids=(1,))
    tracker.step(long.images[0], prompts(long, ids=(1,)))
    counts = []
    for image in long.images[1:]:
        tracker.step(image)
        counts.append(np.array([np.prod(shape) for shape in tensors(tracker.state_dict())]))
    assert max(count.sum() for count in counts[11:]) <= 1.5 * max(count.sum() for count in counts[:11])
    if case.knows:  # then masks stay as large as they are, and so does what is kept of them
        assert len({tuple(sorted(count)) for count in counts[11:]}) == 1


@over(*(case for case in CASES if case.has_bank and case.model != "noise"))
def test_the_bank_stays_within_its_bytes(case: Case, two: Scene) -> None:
    """Objects are there on all frames, so that each needs as much room as the one before. (Noise comes and goes.)"""
    tracker = fresh(case, two)
    tracker.step(two.images[0], prompts(two))
    bank = cast(Any, tracker).memory
    for image in two.images[1:3]:
        tracker.step(image)
    bank.max_bytes = bank.bytes  # from now on every frame must make room
    for image in two.images[3:]:
        tracker.step(image)
        assert bank.bytes <= bank.max_bytes
    assert bank.ids == (1, 2)


def assert_plain(value: object) -> None:
    """Tensors, arrays and plain values, as the state of a tracker promises."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int)
            assert_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or isinstance(value, torch.Tensor | np.ndarray | str | int | float | bool), type(value)


def tensors(value: object) -> list[tuple[int, ...]]:
    """Shapes of everything array-like inside a state."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return [tuple(value.shape)]
    if isinstance(value, dict):
        return [shape for v in value.values() for shape in tensors(v)]
    if isinstance(value, list | tuple):
        return [shape for v in value for shape in tensors(v)]
    return []
