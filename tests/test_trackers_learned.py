"""The learned tracker's memory: what is read, what is remembered, what is refused. Masks here come from random weights;
the contract test asks whether objects are followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, scene

from seem_core.errors import CheckpointError, InputError, LimitError, PromptError, VideoError
from seem_core.prompts import MaskPrompt
from seem_core.reader import DenseReader, ReaderConfig
from seem_core.reader_weights import save_reader
from trackers.gate import Gate
from trackers.learned import LearnedConfig, LearnedTracker, groups

SMALL = ReaderConfig(key=16, local_key=8, window=2, value=16, local_value=4, decoder=(16, 16, 8, 8))


@pytest.fixture(scope="module")
def reader() -> DenseReader:
    torch.manual_seed(0)
    return SMALL.build()


@pytest.fixture(scope="module")
def moving() -> Scene:
    return scene([[(50 + 2 * t, 40), (130 - 2 * t, 70)] for t in range(14)], 112, 176, radius=18)


def tracker_with(reader: DenseReader, *, min_score: float = 0.0, **options: Any) -> LearnedTracker:
    config = LearnedConfig(pixels=96 * 160, every=2)
    return LearnedTracker(net=reader, config=config, gate=Gate(min_score), **{"max_recent": 2, **options})


def prompts(found: Scene, frame: int, ids: tuple[int, ...]) -> list[MaskPrompt]:
    return [MaskPrompt(mask, i) for i, mask in zip(ids, found.masks[frame], strict=False)]


def test_every_second_frame_is_kept_within_the_bound(reader: DenseReader, moving: Scene) -> None:
    tracker = tracker_with(reader)
    tracker.step(moving.images[0], prompts(moving, 0, (1, 2)))
    for image in moving.images[1:8]:
        tracker.step(image)
    assert [(e.frame, e.pinned) for e in tracker.memory.entries] == [(0, True), (4, False), (6, False)]
    assert all(set(e.values) == {1, 2} for e in tracker.memory.entries)


def test_poor_masks_are_not_remembered(reader: DenseReader, moving: Scene) -> None:
    tracker = tracker_with(reader, min_score=1.01)
    tracker.step(moving.images[0], prompts(moving, 0, (1, 2)))
    for image in moving.images[1:8]:
        tracker.step(image)
    assert [e.frame for e in tracker.memory.entries] == [0]


def test_a_later_prompt_is_pinned_for_its_object_alone(reader: DenseReader, moving: Scene) -> None:
    tracker = tracker_with(reader)
    tracker.step(moving.images[0], prompts(moving, 0, (5,)))
    tracker.step(moving.images[1])
    found = tracker.step(moving.images[2], [MaskPrompt(moving.masks[2][1], 3)])
    assert found.ids == (3, 5)
    pinned = {e.frame: set(e.values) for e in tracker.memory.entries if e.pinned}
    assert pinned == {0: {5}, 2: {3}}
    assert [set(e.values) for e in tracker.memory.entries if not e.pinned] == [{5}]
    assert tracker.step(moving.images[3]).ids == (3, 5)


def test_objects_known_from_different_frames_are_read_like_alone(reader: DenseReader, moving: Scene) -> None:
    """Object 5 has the same memory whether or not 3 is added later; only the shared pixels and values differ."""
    both, alone = tracker_with(reader), tracker_with(reader)
    for tracker in (both, alone):
        tracker.step(moving.images[0], prompts(moving, 0, (5,)))
        tracker.step(moving.images[1])
    both.step(moving.images[2], [MaskPrompt(moving.masks[2][1], 3)])
    alone.step(moving.images[2])
    found = {tuple(ids): [e.frame for e in entries] for entries, ids in groups(both.memory)}
    assert found == {(3,): [2], (5,): [0, 2]}
    assert {tuple(ids): [e.frame for e in entries] for entries, ids in groups(alone.memory)} == {(5,): [0, 2]}


def test_state_goes_on_in_another_tracker(reader: DenseReader, moving: Scene) -> None:
    one, other = tracker_with(reader), tracker_with(reader)
    one.step(moving.images[0], prompts(moving, 0, (2, 9)))
    for image in moving.images[1:5]:
        one.step(image)
    other.load_state_dict(one.state_dict())
    for image in moving.images[5:8]:
        a, b = one.step(image), other.step(image)
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.scores, b.scores)
    assert [e.frame for e in one.memory.entries] == [e.frame for e in other.memory.entries]


def test_forgetting_drops_all_that_is_remembered(reader: DenseReader, moving: Scene) -> None:
    tracker = tracker_with(reader)
    tracker.step(moving.images[0], prompts(moving, 0, (2, 9)))
    tracker.step(moving.images[1])
    tracker.forget(2)
    assert tracker.memory.ids == (9,)
    assert tracker.step(moving.images[2]).ids == (9,)
    tracker.forget(9)
    assert len(tracker.memory) == 0
    assert tracker.step(moving.images[3]).ids == ()
    with pytest.raises(PromptError, match="not known"):
        tracker.forget(9)


def test_the_byte_budget_refuses_prompts_beyond_it(reader: DenseReader, moving: Scene) -> None:
    first = tracker_with(reader)
    first.step(moving.images[0], prompts(moving, 0, (1, 2)))
    room = first.memory.bytes + first.memory.entries[0].bytes // 2  # for one frame, not for two
    tracker = tracker_with(reader, max_bytes=room)
    tracker.step(moving.images[0], prompts(moving, 0, (1, 2)))
    with pytest.raises(LimitError, match="pinned"):
        tracker.step(moving.images[1], prompts(moving, 1, (1, 2)))
    assert tracker.memory.bytes <= room


def test_wrong_sizes_and_weights_are_named(reader: DenseReader, moving: Scene, tmp_path: Path) -> None:
    tracker = tracker_with(reader)
    tracker.step(moving.images[0], prompts(moving, 0, (1,)))
    with pytest.raises(VideoError, match="another video"):
        tracker.step(moving.images[0][:50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        LearnedTracker(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="no reader ships"):
        LearnedTracker()
    save_reader(reader.state_dict(), SMALL, tmp_path / "there.safetensors", facts={})
    assert LearnedTracker(tmp_path / "there.safetensors").step(moving.images[0], prompts(moving, 0, (1,))).ids == (1,)
