"""`reference`: tokens once, every frame on its own, nothing remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle_segmenter import NoiseSegmenter
from scenes import Scene, scene
from tiny_seem import tiny_seem

from seem_core.errors import InputError
from seem_core.geometry import InputSize
from seem_core.prompts import MaskPrompt
from seem_core.segmenter import SeemSegmenter
from trackers.prompting import as_picture
from trackers.reference import ReferenceTracker


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(70 + 4 * t, 60), (230 - 3 * t, 110)] for t in range(5)])


def first(found: Scene, frame: int = 0) -> list[MaskPrompt]:
    return [MaskPrompt(mask, i) for i, mask in enumerate(found.masks[frame], 1)]


class Counting(SeemSegmenter):
    """Counts, and notes the size at which pictures are encoded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.encoded: list[tuple[int, int]] = []

    def encode(self, image: torch.Tensor) -> Any:
        features = super().encode(image)
        self.encoded.append(features.geometry.image)
        return features


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_a_frame_does_not_depend_on_the_frames_before(two: Scene, routing: Any) -> None:
    segmenter = Counting(tiny_seem(routing))
    tracker = ReferenceTracker(segmenter)
    tracker.step(two.images[0], first(two))
    forwards = [tracker.step(image) for image in two.images[1:]]
    size = tracker.memory.bytes
    backwards = [tracker.step(image) for image in two.images[:0:-1]]
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(forwards, backwards[::-1], strict=True))
    assert tracker.memory.bytes == size
    assert len(segmenter.encoded) == 1 + len(forwards) + len(backwards)


@pytest.mark.parametrize("routing", ["demo", "v0"])
def test_objects_side_by_side_are_found_as_each_alone(two: Scene, routing: Any) -> None:
    segmenter = SeemSegmenter(tiny_seem(routing))
    features = segmenter.encode(as_picture(two.images[1]))
    both = ReferenceTracker(segmenter)
    both.step(two.images[0], first(two))
    together = segmenter.recall(features, [v for i in (1, 2) for v in both.memory.views(i)])
    for n in (0, 1):
        alone = ReferenceTracker(segmenter)
        alone.step(two.images[0], first(two)[n : n + 1])
        single = segmenter.recall(features, alone.memory.views(n + 1))
        assert torch.allclose(single.logits[0], together.logits[n], atol=1e-4)


def test_a_new_prompt_replaces_the_reference(two: Scene) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    again, late = ReferenceTracker(segmenter), ReferenceTracker(segmenter)
    again.step(two.images[0], first(two))
    again.step(two.images[3], first(two, 3))
    late.step(two.images[3], first(two, 3))
    assert np.array_equal(again.step(two.images[4]).labels, late.step(two.images[4]).labels)
    assert len(again.memory) == 1


def test_published_frames_have_a_short_side_of_512(two: Scene) -> None:
    segmenter = SeemSegmenter(tiny_seem("demo"), input_size=InputSize(96))
    tracker = ReferenceTracker(segmenter, published=True)
    found = tracker.step(two.images[0], first(two))
    assert found.labels.shape == two.images[0].shape[:2]
    assert tracker.segmenter.plan(two.images[0].shape[:2]).image == (512, 910)
    assert segmenter.input_size == InputSize(96)  # the caller's own is left as it is
    with pytest.raises(InputError, match="leave out published"):
        ReferenceTracker(NoiseSegmenter(two.images), published=True)
