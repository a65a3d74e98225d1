"""Pixel decoders against the official code: the three levels and the mask features of every recorded configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from seem_fixtures import Golden, load_golden
from seem_modules import load_part, normalised
from torch import Tensor

from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig
from seem_core.pixel_decoder import EncoderFpn, EncoderFpnConfig
from seem_core.positions import sine_positions

PIXEL_DECODER = "sem_seg_head.pixel_decoder."


def compare_levels(golden: Golden, prefix: str, levels: tuple[Tensor, ...], mask_features: Tensor) -> None:
    for i, level in enumerate(levels):
        golden.compare(f"{prefix}ms{i}", level)
    golden.compare(f"{prefix}mask_features", mask_features)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("focalt", FOCAL_T),
        pytest.param("focall", FOCAL_L, marks=pytest.mark.parity_full),
    ],
)
def test_encoder_fpn_on_backbone(reference_root: Path, name: str, config: FocalNetConfig) -> None:
    manifest = reference_root / f"manifest_{name}_demo.json"
    golden = load_golden(reference_root / f"golden_{name}_demo.npz")
    backbone = load_part(manifest, "backbone.", config.build)
    pixel_decoder = load_part(manifest, PIXEL_DECODER, lambda: EncoderFpnConfig().build(config.channels))
    assert isinstance(pixel_decoder, EncoderFpn)
    with torch.inference_mode():
        features = pixel_decoder(backbone(normalised(golden["in_imgA"])))
        compare_levels(golden, "A_", features.levels, pixel_decoder.mask_features(features.finest))


def test_sine_positions(reference_root: Path) -> None:
    golden = load_golden(reference_root / "golden_misc.npz")
    golden.compare("posenc_4x5_512", sine_positions(4, 5, 512))
