"""Pixel decoders against the official code: the three levels and the mask features of every recorded configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from seem_fixtures import Golden, load_golden, make_normal
from seem_modules import load_part, normalised
from torch import Tensor

from seem_core.backbones.davit import DAVIT_D3, DaViTConfig
from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig
from seem_core.backbones.parts import Pyramid
from seem_core.backbones.sam_vit import SAM_VIT_B
from seem_core.deformable import DeformableConfig, DeformableDecoder
from seem_core.pixel_decoder import EncoderFpn, EncoderFpnConfig
from seem_core.positions import sine_positions

PIXEL_DECODER = "sem_seg_head.pixel_decoder."


def compare_levels(golden: Golden, prefix: str, levels: tuple[Tensor, ...], mask_features: Tensor) -> None:
    for i, level in enumerate(levels):
        golden.compare(f"{prefix}ms{i}", level)
    golden.compare(f"{prefix}mask_features", mask_features)


@pytest.mark.parametrize(
    ("name", "manifest_name", "config"),
    [
        ("focalt_demo", "focalt_demo", FOCAL_T),
        ("focalt_v0", "focalt_v0", FOCAL_T),
        ("focalt_v1", "focalt_v1", FOCAL_T),
        pytest.param("focall_demo", "focall_demo", FOCAL_L, marks=pytest.mark.parity_full),
        pytest.param("davitd3_demo", "davitd3_v1", DAVIT_D3, marks=pytest.mark.parity_full),
        pytest.param("davitd3_v1", "davitd3_v1", DAVIT_D3, marks=pytest.mark.parity_full),
    ],
)
def test_encoder_fpn_on_backbone(
    reference_root: Path, name: str, manifest_name: str, config: FocalNetConfig | DaViTConfig
) -> None:
    manifest = reference_root / f"manifest_{manifest_name}.json"
    golden = load_golden(reference_root / f"golden_{name}.npz")
    backbone = load_part(manifest, "backbone.", config.build)
    pixel_decoder = load_part(manifest, PIXEL_DECODER, lambda: EncoderFpnConfig().build(config.channels))
    assert isinstance(pixel_decoder, EncoderFpn)
    with torch.inference_mode():
        features = pixel_decoder(backbone(normalised(golden["in_imgA"])))
        compare_levels(golden, "A_", features.levels, pixel_decoder.mask_features(features.finest))


def test_encoder_fpn_on_a_later_frame(reference_root: Path) -> None:
    manifest = reference_root / "manifest_focalt_v0.json"
    golden = load_golden(reference_root / "golden_focalt_v0_video.npz")
    backbone = load_part(manifest, "backbone.", FOCAL_T.build)
    pixel_decoder = load_part(manifest, PIXEL_DECODER, lambda: EncoderFpnConfig().build(FOCAL_T.channels))
    with torch.inference_mode():
        features = pixel_decoder(backbone(normalised(golden["frame2_image"])))
        golden.compare("frame2_mask_features", pixel_decoder.mask_features(features.finest))


@pytest.mark.parity_full
def test_deformable_on_backbone(reference_root: Path) -> None:
    manifest = reference_root / "manifest_samvitb_v1.json"
    golden = load_golden(reference_root / "golden_samvitb_demo.npz")
    backbone = load_part(manifest, "backbone.", SAM_VIT_B.build)
    decoder = load_part(manifest, PIXEL_DECODER, lambda: DeformableConfig().build(SAM_VIT_B.channels))
    assert isinstance(decoder, DeformableDecoder)
    image = normalised(golden["in_imgA"])
    image = F.pad(image, (0, 1024 - image.shape[-1], 0, 1024 - image.shape[-2]))
    with torch.inference_mode():
        features = decoder(backbone(image))
        compare_levels(golden, "A_", features.levels, decoder.mask_features(features.finest))


def test_sine_positions(reference_root: Path) -> None:
    golden = load_golden(reference_root / "golden_misc.npz")
    golden.compare("posenc_4x5_512", sine_positions(4, 5, 512))


def test_deformable_on_random_levels(reference_root: Path) -> None:
    decoder = load_part(
        reference_root / "manifest_samvitb_v1.json",
        PIXEL_DECODER,
        lambda: DeformableConfig().build(SAM_VIT_B.channels),
    )
    assert isinstance(decoder, DeformableDecoder)
    golden = load_golden(reference_root / "golden_misc.npz")
    sizes = ((32, 40), (16, 20), (8, 10), (4, 5))
    shapes = ((1, c, h, w) for c, (h, w) in zip(SAM_VIT_B.channels, sizes, strict=True))
    pyramid = Pyramid(*(make_normal(name, shape) for name, shape in zip(Pyramid._fields, shapes, strict=True)))
    with torch.inference_mode():
        features = decoder(pyramid)
        golden.compare("deform_enc_out0", features.levels[0])
        compare_levels(golden, "deform_", features.levels, decoder.mask_features(features.finest))
