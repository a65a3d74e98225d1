"""`SeemSegmenter` held against the official code: two rounds, two objects, memory from frame to frame, words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from seem_fixtures import Golden, load_golden, make_image
from seem_scenarios import NEG, POS, POS2, RECTANGLES, REF, SENTENCE, Bench, forget_models
from torch import Tensor

from seem_core.geometry import InputSize
from seem_core.prompts import PolygonPrompt, Prompt, TextPrompt
from seem_core.segmenter import SeemFeatures, SeemSegmenter


@pytest.fixture(scope="module", autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    forget_models()


def file_of(name: str, folders: tuple[Path, ...]) -> Golden:
    """A golden file from the best folder that has it."""
    paths = [folder / f"{name}.npz" for folder in folders]
    return load_golden(next((path for path in paths if path.is_file()), paths[-1]))


class Scene:
    """A filled model as a segmenter that encodes the recorded images without resizing them."""

    def __init__(self, name: str, folders: tuple[Path, ...]) -> None:
        self.golden = file_of(name, folders)
        bench = Bench(self.golden, folders, plain=False)
        self.size = bench.size
        self.segmenter = SeemSegmenter(bench.model, input_size=InputSize(min(bench.size)))

    def encode(self, seed: int) -> SeemFeatures:
        features = self.segmenter.encode(torch.from_numpy(make_image(seed, *self.size)))
        assert features.geometry.image == self.size
        return features

    def mask(self, which: int) -> Tensor:
        r0, r1, c0, c1 = RECTANGLES[which]
        mask = torch.zeros(1, *self.size, dtype=torch.bool)
        mask[:, r0:r1, c0:c1] = True
        return mask


def rectangle(which: int, positive: bool = True, object_id: int = 1) -> Prompt:
    """One of the recorded rectangles as a polygon through its corner pixels."""
    r0, r1, c0, c1 = RECTANGLES[which]
    corners = ((c0, r0), (c1 - 1, r0), (c1 - 1, r1 - 1), (c0, r1 - 1))
    return PolygonPrompt(corners, positive, object_id)


@pytest.mark.parametrize("name", ["golden_focalt_v0", "golden_focalt_v1"])
def test_two_rounds(name: str, folders: tuple[Path, ...]) -> None:
    scene = Scene(name, folders)
    features = scene.encode(12345)
    first = scene.segmenter.segment(features, [rectangle(POS)])
    scene.golden.compare("round1_prev_mask", first.logits[None])
    second = scene.segmenter.segment(features, [rectangle(POS), rectangle(NEG, positive=False)], first)
    scene.golden.compare("round2_prev_mask", second.logits[None])


def test_two_objects_in_one_pass(folders: tuple[Path, ...]) -> None:
    scene = Scene("golden_focalt_v1", folders)
    features = scene.encode(12345)
    prompts = [rectangle(POS), rectangle(NEG, positive=False), rectangle(POS2, object_id=2)]
    first = scene.segmenter.segment(features, prompts)
    scene.golden.compare("obj2_round1_prev_mask", first.logits[None])
    second = scene.segmenter.segment(features, prompts, first)
    scene.golden.compare("obj2_round2_prev_mask", second.logits[None])


def test_memory_from_frame_to_frame(folders: tuple[Path, ...]) -> None:
    scene = Scene("golden_focalt_v0_video", folders)
    memory = scene.segmenter.remember(scene.encode(54321), scene.mask(REF))
    first = scene.segmenter.recall(scene.encode(12345), memory)
    scene.golden.compare("frame1_mask", first.logits[None])
    later = scene.encode(777)
    scene.golden.compare("frame2_mask_nomem", scene.segmenter.recall(later, memory).logits[None])
    scene.golden.compare("frame2_mask_mem", scene.segmenter.recall(later, memory, first).logits[None])


def test_words(folders: tuple[Path, ...]) -> None:
    scene = Scene("golden_focalt_v0", folders)
    found = scene.segmenter.segment(scene.encode(12345), [TextPrompt(SENTENCE)])
    scene.golden.compare("ground_sel_mask", found.logits)
