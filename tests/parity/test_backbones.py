"""Backbones against the official code: res2..res5 of every recorded configuration, and the parts of SAM's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from seem_fixtures import Golden, load_golden, make_normal
from seem_modules import load_part, normalised

from seem_core.backbones.davit import DAVIT_D3
from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig
from seem_core.backbones.sam_vit import SAM_VIT_B, SimplePyramid, VitBlock


def compare_pyramid(golden: Golden, backbone: torch.nn.Module) -> None:
    image = normalised(golden["in_imgA"])
    H, W = golden["padded_shape"][-2:].tolist()
    image = F.pad(image, (0, W - image.shape[-1], 0, H - image.shape[-2]))
    golden.compare("A_input_norm", image)
    with torch.inference_mode():
        pyramid = backbone(image)
    for name, level in zip(pyramid._fields, pyramid, strict=True):
        golden.compare(f"A_{name}", level)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("focalt_demo", FOCAL_T),
        ("focalt_v0", FOCAL_T),
        ("focalt_v1", FOCAL_T),
        pytest.param("focall_demo", FOCAL_L, marks=pytest.mark.parity_full),
    ],
)
def test_focalnet_features(reference_root: Path, name: str, config: FocalNetConfig) -> None:
    backbone = load_part(reference_root / f"manifest_{name}.json", "backbone.", config.build)
    compare_pyramid(load_golden(reference_root / f"golden_{name}.npz"), backbone)


@pytest.mark.parity_full
@pytest.mark.parametrize("variant", ["demo", "v1"])
def test_davit_features(reference_root: Path, variant: str) -> None:
    backbone = load_part(reference_root / "manifest_davitd3_v1.json", "backbone.", DAVIT_D3.build)
    compare_pyramid(load_golden(reference_root / f"golden_davitd3_{variant}.npz"), backbone)


@pytest.mark.parity_full
def test_sam_vit_features(reference_root: Path) -> None:
    backbone = load_part(reference_root / "manifest_samvitb_v1.json", "backbone.", SAM_VIT_B.build)
    golden = load_golden(reference_root / "golden_samvitb_demo.npz")
    compare_pyramid(golden, backbone)


def test_sam_pyramid(reference_root: Path) -> None:
    neck = load_part(
        reference_root / "manifest_samvitb_v1.json", "backbone.neck.", lambda: SimplePyramid(768, SAM_VIT_B.channels)
    )
    golden = load_golden(reference_root / "golden_misc.npz")
    with torch.inference_mode():
        pyramid = neck(make_normal("neck_in", (1, 768, 8, 8)))
    for name, level in zip(pyramid._fields, pyramid, strict=True):
        golden.compare(f"neck_{name}", level)


@pytest.mark.parametrize(("index", "window"), [(0, 14), (2, 0)])
def test_sam_block(reference_root: Path, index: int, window: int) -> None:
    """Windows of 14 on a 20 x 20 map, padded; and global attention whose learned distances are interpolated."""
    block = load_part(
        reference_root / "manifest_samvitb_v1.json", f"backbone.blocks.{index}.", lambda: VitBlock(SAM_VIT_B, window)
    )
    golden = load_golden(reference_root / "golden_misc.npz")
    with torch.inference_mode():
        golden.compare(f"vit_block{index}_out", block(make_normal("vit_tokens", (1, 20, 20, 768))))
