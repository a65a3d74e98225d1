"""`prompt-memory`: what is recalled with which views and previous masks, and what becomes memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle_segmenter import OracleSegmenter, Recipe
from scenes import Scene, iou, scene
from tiny_seem import tiny_seem

from seem_core.errors import InputError, LimitError
from seem_core.prompts import MaskPrompt, PointPrompt, ReferencePrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import ObjectTokens, Prediction
from trackers.gate import Gate
from trackers.merge import one_owner
from trackers.object_views import ViewBudget
from trackers.prompt_memory import PromptMemoryConfig, PromptMemoryTracker
from trackers.reference import ReferenceTracker

LENGTH = 8
EXACT = Recipe(drop=0, swap=0, grow=(0, 0), scores=(1, 1, 1), spread=0)


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(LENGTH)])


class Scripted(OracleSegmenter):
    """The truth with scores as a script says; keeps what it was asked with. scores: frame -> object id -> score."""

    def __init__(self, found: Scene, scores: dict[int, dict[int, float]] | None = None) -> None:
        truths = [dict(enumerate(masks, 1)) for masks in found.masks]
        super().__init__(found.images, truths, EXACT, names={1: "disc"})
        self._scores = scores or {}
        self.views: list[dict[int, ObjectTokens]] = []
        self.priors: list[tuple[int, ...]] = []

    def recall(self, features: Any, memory: Sequence[ObjectTokens], prior: Prediction | None = None) -> Prediction:
        self.views.append({view.object_id: view for view in memory})
        self.priors.append(() if prior is None else prior.ids)
        return super().recall(features, memory, prior)

    def _answer(self, features: Any, object_id: int, prompted: bool) -> Any:
        mask, score = super()._answer(features, object_id, prompted)
        return mask, score if prompted else self._scores.get(features.frame, {}).get(object_id, score)


def first(found: Scene, frame: int = 0) -> list[MaskPrompt]:
    return [MaskPrompt(mask, i) for i, mask in enumerate(found.masks[frame], 1)]


def test_every_object_is_recalled_with_all_that_is_known_of_it(two: Scene) -> None:
    segmenter = Scripted(two)
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(two.images[0], first(two))
    for image in two.images[1:]:
        found = tracker.step(image)
    assert min(iou(found.mask(i), m) for i, m in zip((1, 2), two.masks[-1], strict=True)) > 0.9
    assert segmenter.encoded == LENGTH
    assert segmenter.decoded == LENGTH - 1  # nothing was known on the first frame
    assert segmenter.priors == [(1, 2)] * (LENGTH - 1)
    assert [len(views[1].levels[0]) for views in segmenter.views] == list(range(1, LENGTH))  # one token a view
    assert tracker.memory.ids == (1, 2)
    assert tracker.class_names == {1: "disc"}


def test_only_the_last_good_frames_are_remembered(two: Scene) -> None:
    """Object 1 is doubtful on frames 2 and 3."""
    segmenter = Scripted(two, {2: {1: 0.4}, 3: {1: 0.4}})
    tracker = PromptMemoryTracker(segmenter, config=PromptMemoryConfig(views=ViewBudget(64, 3)))
    tracker.step(two.images[0], first(two))
    for image in two.images[1:5]:
        tracker.step(image)
    kept = {e.frame: sorted(e.tokens) for e in tracker.memory.entries}
    assert kept == {0: [1, 2], 2: [2], 3: [2], 4: [1, 2]}
    assert segmenter.priors[2] == (1, 2)  # a doubtful mask still says where to look next


def test_a_mask_of_unusual_size_is_not_remembered() -> None:
    grown = scene([[(80, 90)]] * 5)
    grown.masks[3][0][:] = True
    segmenter = Scripted(grown)
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(grown.images[0], first(grown))
    tracker.step(grown.images[1])
    huge = np.ones_like(grown.masks[0][0])
    segmenter._truths = [{1: huge}] * 5
    assert tracker.step(grown.images[2]).mask(1).all()
    assert 2 not in [entry.frame for entry in tracker.memory.entries]


def test_an_unlikely_object_is_lost_and_then_sought_without_a_previous_mask(two: Scene) -> None:
    segmenter = Scripted(two, {2: {1: 0.2}})
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(two.images[0], first(two))
    tracker.step(two.images[1])
    found = tracker.step(two.images[2])
    assert found.lost.tolist() == [True, False]
    assert not found.mask(1).any()
    assert found.scores[0] == pytest.approx(0.2)
    found = tracker.step(two.images[3])
    assert segmenter.priors[-1] == (2,)
    assert not found.lost.any()
    tracker.step(two.images[4])
    assert segmenter.priors[-1] == (1, 2)


def test_a_correction_is_pinned_and_is_the_next_previous_mask(two: Scene) -> None:
    segmenter = Scripted(two)
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(two.images[0], first(two))
    tracker.step(two.images[1])
    part = two.masks[2][0].copy()
    part[:60] = False
    assert np.array_equal(tracker.step(two.images[2], [MaskPrompt(part, 1)]).mask(1), part)
    pinned = {e.frame: sorted(e.tokens) for e in tracker.memory.entries if e.pinned}
    assert pinned == {0: [1, 2], 2: [1]}
    before = tracker.memory.previous
    assert before is not None
    (h, w), (H, W) = before.values[1][0].shape, part.shape
    coarse = torch.nn.functional.interpolate((before.values[1][0] > 0)[None, None].float(), (4 * h, 4 * w))[0, 0]
    assert iou(coarse[:H, :W].numpy() > 0, part) > 0.8
    tracker.step(two.images[3], [PointPrompt(80, 60, True, 1)])
    assert [e.frame for e in tracker.memory.entries if e.pinned and 1 in e.tokens] == [0, 2, 3]


def test_an_object_can_come_from_another_picture_alone(two: Scene) -> None:
    segmenter = Scripted(two)
    tracker = PromptMemoryTracker(segmenter)
    other = scene([[(60, 60)]], 120, 160)
    found = tracker.step(two.images[0], [ReferencePrompt(other.images[0], other.masks[0][0], 2)])
    assert iou(found.mask(2), two.masks[0][1]) > 0.9  # on this very frame
    assert segmenter.priors == [()]
    assert [(e.frame, e.pinned) for e in tracker.memory.entries] == [(-1, True), (0, False)]


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_previous_masks_matter_where_the_routing_reads_them(two: Scene, routing: Any) -> None:
    results = []
    for use in (True, False):
        config = PromptMemoryConfig(gate=Gate(), use_previous=use, views=ViewBudget(frames=0))
        tracker = PromptMemoryTracker(SeemSegmenter(tiny_seem(routing)), config=config)
        tracker.step(two.images[0], first(two))
        results.append(tracker.step(two.images[1]).labels)
        assert (tracker.memory.previous is not None) == use
    assert np.array_equal(*results) == (routing == "demo")


def test_a_frame_without_objects_between_forgets_the_previous_masks(two: Scene) -> None:
    segmenter = Scripted(two)
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(two.images[0], first(two))
    tracker.forget(1)
    tracker.forget(2)
    assert tracker.step(two.images[1]).ids == ()
    tracker.step(two.images[2], first(two, 2)[:1])
    tracker.step(two.images[3])
    assert segmenter.priors == [(1,)]


def test_pinned_views_beyond_the_bound_are_refused(two: Scene) -> None:
    config = PromptMemoryConfig(max_bytes=40_000)
    tracker = PromptMemoryTracker(SeemSegmenter(tiny_seem("v0")), config=config)
    tracker.step(two.images[0], first(two))
    with pytest.raises(LimitError, match="prompt fewer frames"):
        tracker.step(two.images[1], first(two, 1))
    assert tracker.memory.bytes <= 40_000


def test_where_objects_overlap_only_one_was_there_before() -> None:
    """Both are recalled with the same cells in the middle."""
    crossing = scene([[(80, 90), (110, 90)]] * 3)
    segmenter = Scripted(crossing)
    left, right = np.zeros((180, 320), bool), np.zeros((180, 320), bool)
    left[40:140, 40:160], right[40:140, 100:220] = True, True
    segmenter._truths = [{1: left, 2: right}] * 3
    tracker = PromptMemoryTracker(segmenter)
    tracker.step(crossing.images[0], first(crossing))
    assert not tracker.step(crossing.images[0]).lost.any()
    before = tracker.memory.previous
    assert before is not None
    one, other = (before.values[i][0] > 0 for i in (1, 2))
    assert not (one & other).any()
    assert int(one.sum()) == 25 * 30  # a tie goes to the first
    assert int(other.sum()) == 25 * 15


def test_views_of_another_model_are_refused(two: Scene, tmp_path: Path) -> None:
    tracker = PromptMemoryTracker(Scripted(two))
    tracker.step(two.images[0], first(two))
    tracker.save_memory(tmp_path / "views.safetensors")
    with pytest.raises(InputError, match=r"views of oracle.*views of tiny"):
        PromptMemoryTracker(SeemSegmenter(tiny_seem("v0")), memory=tmp_path / "views.safetensors")
    taken_over = PromptMemoryTracker(Scripted(two), memory=tracker.memory)
    assert [e.frame for e in taken_over.memory.entries] == [-1]
    assert ReferenceTracker(Scripted(two), memory=tmp_path / "views.safetensors").step(two.images[3]).ids == (1, 2)


def test_objects_on_one_picture_are_encoded_together(two: Scene) -> None:
    segmenter = Scripted(two)
    tracker = PromptMemoryTracker(segmenter)
    image, (a, b) = two.images[2], two.masks[2]
    shown = [ReferencePrompt(image, a, 1), ReferencePrompt(image.copy(), b, 2), ReferencePrompt(two.images[4], b, 2)]
    assert tracker.step(two.images[0], shown).ids == (1, 2)
    assert segmenter.encoded == 3  # two pictures and the frame
    assert [sorted(e.tokens) for e in tracker.memory.entries if e.pinned] == [[1, 2], [2]]


def test_one_owner_per_cell() -> None:
    logits = torch.tensor([[[3.0, -1.0, 2.0]], [[1.0, -2.0, 5.0]]])
    expected = torch.tensor([[[3.0, -1.0, -5.0]], [[-3.0, -2.0, 5.0]]])
    assert torch.equal(one_owner(logits), expected)
    assert torch.equal(one_owner(logits.flip(0)), expected.flip(0))
    assert one_owner(torch.ones(3, 1, 1)).flatten().tolist() == [1.0, -1.0, -1.0]
    assert torch.equal(one_owner(logits[:1]), logits[:1])
    assert one_owner(logits[:0]).shape == (0, 1, 3)
