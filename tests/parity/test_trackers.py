"""`reference` and `prompt-memory` held against the official code: the published demo, and memory of the mask before.

SPEC §7.1: tokens of a referring picture once, every frame on its own, several objects side by side. SPEC §7.2: the mask
of the frame before through the memory prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seem_fixtures import Golden, load_golden, make_image, make_mask
from seem_scenarios import POS2, RECTANGLES, REF, Bench, forget_models
from support import require

from seem_core.geometry import InputSize
from seem_core.prompts import ReferencePrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import ObjectTokens, Prediction
from trackers import build_tracker
from trackers.base import Image, ObjectMasks, Tracker
from trackers.object_views import ViewBudget
from trackers.prompt_memory import PromptMemoryConfig

FIRST, SECOND, REFERENCE = 12345, 777, 54321  # seeds of the recorded pictures


@pytest.fixture(scope="module", autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    forget_models()


class Recorder(SeemSegmenter):
    """Keeps what it recalled last: what a tracker makes its masks of."""

    recalled: Prediction
    encoded: int = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.encoded += 1
        return super().encode(image)

    def recall(self, features: Any, memory: Sequence[ObjectTokens], prior: Prediction | None = None) -> Prediction:
        self.recalled = super().recall(features, memory, prior)
        return self.recalled


class Film:
    """A filled model, the tracker that uses it, and the recorded pictures as its frames."""

    def __init__(self, name: str, folders: tuple[Path, ...], tracker: str, **options: Any) -> None:
        paths = [path for folder in folders if (path := folder / f"{name}.npz").is_file()]
        require(bool(paths), f"no {name}.npz among the recordings; set VOS_DATA")
        self.golden: Golden = load_golden(paths[0])
        bench = Bench(self.golden, folders, plain=False)
        self.size = bench.size
        self.segmenter = Recorder(bench.model, input_size=InputSize(min(bench.size)))
        self.tracker: Tracker = build_tracker(tracker, model=self.segmenter, **options)

    def picture(self, seed: int) -> Image:
        return np.ascontiguousarray(make_image(seed, *self.size).transpose(1, 2, 0))

    def references(self, *which: int) -> list[ReferencePrompt]:
        """Objects 1, 2, ... as rectangles on the referring picture."""
        masks = [make_mask(RECTANGLES[w], *self.size) for w in which]
        return [ReferencePrompt(self.picture(REFERENCE), mask, i) for i, mask in enumerate(masks, 1)]

    def step(self, seed: int, *which: int) -> ObjectMasks:
        return self.tracker.step(self.picture(seed), self.references(*which))


def test_reference_is_the_published_demo(folders: tuple[Path, ...]) -> None:
    film = Film("golden_focalt_demo", folders, "reference")
    found = film.step(FIRST, REF)
    film.golden.compare("video_sel_mask", film.segmenter.recalled.logits)
    packed = np.packbits(found.labels > 0)  # the demo's binary picture; the frames are not resized here
    assert np.count_nonzero(np.unpackbits(packed ^ film.golden["video_binmask_packed"])) <= 2  # logits around zero


def test_reference_follows_objects_side_by_side_over_one_encoding(folders: tuple[Path, ...]) -> None:
    film = Film("golden_focalt_demo_batch2", folders, "reference")
    found = film.step(FIRST, REF, POS2)
    assert found.ids == (1, 2)
    film.golden.compare("sel_mask", film.segmenter.recalled.logits)
    before = film.segmenter.encoded
    film.step(SECOND)
    assert film.segmenter.encoded == before + 1


def test_reference_takes_every_frame_on_its_own(folders: tuple[Path, ...]) -> None:
    film = Film("golden_focalt_v0_video", folders, "reference")
    film.step(FIRST, REF)
    film.golden.compare("frame1_mask", film.segmenter.recalled.logits[None])
    film.step(SECOND)
    film.golden.compare("frame2_mask_nomem", film.segmenter.recalled.logits[None])


def test_prompt_memory_reads_the_mask_of_the_frame_before(folders: tuple[Path, ...]) -> None:
    config = PromptMemoryConfig(views=ViewBudget(frames=0), least_score=0)
    film = Film("golden_focalt_v0_video", folders, "prompt-memory", config=config)
    film.step(FIRST, REF)
    film.golden.compare("frame1_mask", film.segmenter.recalled.logits[None])
    film.step(SECOND)
    film.golden.compare("frame2_mask_mem", film.segmenter.recalled.logits[None])
