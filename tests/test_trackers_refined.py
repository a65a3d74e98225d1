"""Label propagation with a refiner: without training nothing changes, both versions of a mask are remembered."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import Scene, iou, scene

from seem_core.prompts import MaskPrompt
from seem_core.refiner import BorderRefiner, RefinerConfig
from trackers.fused import FusedTracker
from trackers.memory_bank import MemoryBank
from trackers.propagate import PropagateTracker
from trackers.propagation import LabelPropagation, PropagationConfig, refiner_features
from trackers.refined import LiteTracker, RefinedPropagation


@cache
def propagation() -> LabelPropagation:
    return LabelPropagation(PropagationConfig(pixels=128 * 224))


def changing() -> BorderRefiner:
    """A refiner that makes every object a little smaller."""
    model = RefinerConfig().build()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name == "leave.bias").fill_(-1.0)
    return model


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(4)])


def follow(tracker: PropagateTracker | LiteTracker | FusedTracker, two: Scene) -> list[np.ndarray]:
    first = [MaskPrompt(mask, i) for i, mask in enumerate(two.masks[0], 1)]
    return [tracker.step(image, first if t == 0 else ()).labels for t, image in enumerate(two.images)]


def test_before_training_it_follows_as_propagate_does(two: Scene) -> None:
    refined = follow(LiteTracker(RefinedPropagation(propagation(), RefinerConfig().build())), two)
    plain = follow(PropagateTracker(propagation()), two)
    for a, b in zip(refined, plain, strict=True):
        assert min(iou(a == i, b == i) for i in (1, 2)) > 0.92  # log-odds are enlarged, not probabilities


def test_the_refined_mask_is_shown_and_both_are_remembered(two: Scene) -> None:
    reader = RefinedPropagation(propagation(), changing())
    bank = MemoryBank()
    view = reader.look(reader.encode(two.images[0]), bank)
    grid = torch.nn.functional.interpolate(
        torch.from_numpy(two.masks[0][0])[None, None].float(), size=(view.height, view.width), mode="area"
    )[0, 0]
    reader.write(view, bank, 0, {1: grid}, pinned={1})
    view = reader.look(reader.encode(two.images[1]), bank)
    prior = propagation().read_masks(view.keys, bank)
    reading = reader.read(view, bank)
    assert torch.equal(reading.masks.argmax(0), reading.maps[1:].argmax(0))
    assert reading.masks.shape == (1, 2 * view.height, 2 * view.width)
    assert 0 < (reading.maps.argmax(0) > 0).sum() < 4 * (prior > 0.5).sum()
    assert reading.maps.shape == (2, 2 * view.height, 2 * view.width)
    assert torch.equal(reading.remembered[:, 0], prior)
    assert reading.remembered[0, 1].sum() < prior.sum()
    tracker, plain = LiteTracker(reader), PropagateTracker(propagation())
    shown, unrefined = follow(tracker, two), follow(plain, two)
    assert np.count_nonzero(shown[-1]) < np.count_nonzero(unrefined[-1])
    for a, b in zip(tracker.memory.entries, plain.memory.entries, strict=True):
        for i in (1, 2):  # as they were read; where the sharp one is, is looked at a little farther
            assert (a.values[i][:, :4] - b.values[i]).abs().float().mean() < 1e-3
        assert a.pinned == all(i in a.looks for i in (1, 2))


def test_it_sees_levels_at_strides_2_4_and_8(two: Scene) -> None:
    config = RefinerConfig()
    half, quarter, eighth = refiner_features(propagation().encode(two.images[0]))
    assert (len(half), len(quarter), len(eighth)) == (config.half, config.quarter, config.eighth)
    h, w = quarter.shape[1:]
    assert half.shape[1:] == (2 * h, 2 * w)
    assert eighth.shape[1:] == (h // 2, w // 2)


def test_a_video_followed_twice_gives_the_same(two: Scene) -> None:
    reader = RefinedPropagation(propagation(), changing())
    for a, b in zip(follow(LiteTracker(reader), two), follow(LiteTracker(reader), two), strict=True):
        assert np.array_equal(a, b)


def test_fused_takes_the_same_reader(two: Scene) -> None:
    reader = RefinedPropagation(propagation(), changing())
    for a, b in zip(follow(LiteTracker(reader), two), follow(FusedTracker(reader=reader), two), strict=True):
        assert np.array_equal(a, b)


def test_memory_is_the_same_with_and_without(two: Scene, tmp_path: Path) -> None:
    tracker = LiteTracker(RefinedPropagation(propagation(), changing()))
    follow(tracker, two)
    tracker.save_memory(tmp_path / "m.safetensors")
    plain = PropagateTracker(propagation(), memory=tmp_path / "m.safetensors")
    assert plain.step(two.images[1]).ids == (1, 2)
    plain.save_memory(tmp_path / "plain.safetensors")  # one version, no appearance
    refined = LiteTracker(tracker.reader, memory=tmp_path / "plain.safetensors").step(two.images[1])
    assert iou(refined.labels > 0, np.any(two.masks[1], axis=0)) > 0.5
