"""`lite`: SEEM's structure on EfficientNet-Lite0, small enough for a CPU; its parts fit, and it is saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seem_core.backbones.efficientnet_lite import load_lite0, normalise
from seem_core.backbones.lite_pyramid import LitePyramid
from seem_core.checkpoint import load_seem, read_card
from seem_core.config import PRESETS
from seem_core.convert import expected_shapes
from seem_core.errors import CheckpointError, PromptError
from seem_core.prompts import BoxPrompt, PointPrompt, TextPrompt
from seem_core.segmenter import SeemSegmenter, load_segmenter
from seem_core.training.first_weights import write_first_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite") / "lite.safetensors"
    write_first_weights("lite", path)
    return path


def test_it_is_small() -> None:
    sizes: dict[str, int] = {}
    for key, shape in expected_shapes(PRESETS["lite"]).items():
        room = key.split(".")[0]
        sizes[room] = sizes.get(room, 0) + torch.Size(shape).numel()
    assert sizes["backbone"] < 2.4e6
    assert sizes["pixel_decoder"] + sizes["decoder"] < 1.7e6
    assert set(sizes) == {"backbone", "pixel_decoder", "decoder"}


@torch.inference_mode()
def test_its_trunk_is_the_one_trained_on_imagenet(weights: Path) -> None:
    model = load_seem(weights).model
    image = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pyramid = model.backbone(model.normalise(image))
    strides = ((24, 16, 24), (40, 8, 12), (112, 4, 6), (192, 2, 3))
    assert [tuple(level.shape[1:]) for level in pyramid] == list(strides)
    plain = load_lite0().features(normalise(image.float()), (2, 4, 10, 14))  # with its batch norms as they were
    for level, expected in zip(pyramid, plain, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_it_answers_prompts_in_rounds_and_recalls(weights: Path) -> None:
    segmenter = load_segmenter(weights)
    assert isinstance(segmenter, SeemSegmenter)
    assert (segmenter.name, segmenter.trained, read_card(weights).metadata.routing) == ("lite", "backbone", "v1")
    picture = torch.randint(0, 256, (3, 120, 214), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = segmenter.encode(picture)
    prompts = [BoxPrompt(20, 20, 60, 60), PointPrompt(150, 80, object_id=2)]
    first = segmenter.segment(features, prompts)
    second = segmenter.segment(features, [*prompts, PointPrompt(5, 5, positive=False)], first)
    assert second.labels().shape == (120, 214)
    tokens = segmenter.remember(features, torch.from_numpy(first.labels() == 0)[None])
    assert segmenter.recall(features, tokens, None).ids == (1,)
    with pytest.raises(PromptError, match="no text encoder"):
        segmenter.segment(features, [TextPrompt("cat")])


def test_gradients_reach_every_parameter() -> None:
    model = PRESETS["lite"].build()
    assert isinstance(model.backbone, LitePyramid)
    features = model.encode_image(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    features.mask_features.full().sum().backward()
    left = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not left


def test_without_weights_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path))
    assert load_segmenter("lite").trained == "full"  # they ship
    monkeypatch.setattr("seem_core.model_store.shipped_path", lambda name: None)
    with pytest.raises(CheckpointError, match="train them"):
        load_segmenter("lite")
