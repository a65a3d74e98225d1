"""Backbones against the official code: res2..res5 of every recorded configuration, and the parts of SAM's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from seem_fixtures import Golden, load_golden
from seem_modules import load_part, normalised

from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig


def compare_pyramid(golden: Golden, backbone: torch.nn.Module) -> None:
    image = normalised(golden["in_imgA"])
    golden.compare("A_input_norm", image)
    with torch.inference_mode():
        pyramid = backbone(image)
    for name, level in zip(pyramid._fields, pyramid, strict=True):
        golden.compare(f"A_{name}", level)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("focalt", FOCAL_T),
        pytest.param("focall", FOCAL_L, marks=pytest.mark.parity_full),
    ],
)
def test_focalnet_features(reference_root: Path, name: str, config: FocalNetConfig) -> None:
    backbone = load_part(reference_root / f"manifest_{name}_demo.json", "backbone.", config.build)
    compare_pyramid(load_golden(reference_root / f"golden_{name}_demo.npz"), backbone)
