"""Every official parameter of the networks up to the features has its place, in all ten recorded configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from seem_fixtures import read_manifest
from seem_modules import Part
from torch import nn

from seem_core.backbones.davit import DAVIT_D3, DAVIT_D5, DaViTConfig
from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig
from seem_core.backbones.sam_vit import SAM_VIT_B, SAM_VIT_L, SamVitConfig
from seem_core.convert import check_state_dict, convert_key
from seem_core.deformable import DeformableConfig
from seem_core.pixel_decoder import EncoderFpnConfig
from seem_core.text import TextConfig

CONFIGURATIONS: dict[str, tuple[FocalNetConfig | DaViTConfig | SamVitConfig, EncoderFpnConfig | DeformableConfig]] = {
    "focalt": (FOCAL_T, EncoderFpnConfig()),
    "focall": (FOCAL_L, EncoderFpnConfig()),
    "davitd3": (DAVIT_D3, EncoderFpnConfig()),
    "davitd5": (DAVIT_D5, EncoderFpnConfig()),
    "samvitb": (SAM_VIT_B, DeformableConfig()),
    "samvitl": (SAM_VIT_L, DeformableConfig()),
}
MANIFESTS = (
    *("focalt_demo", "focalt_v0", "focalt_v1", "focall_demo", "focall_v0", "focall_v1"),
    *("davitd3_v1", "davitd5_v1", "samvitb_v1", "samvitl_v1"),
)


@pytest.mark.parametrize("name", MANIFESTS)
def test_names_and_shapes(reference_root: Path, name: str) -> None:
    manifest = read_manifest(reference_root / f"manifest_{name}.json")
    converted = {ours: (key, shape) for key, shape in manifest.items() if (ours := convert_key(key)) is not None}
    backbone, pixel_decoder = CONFIGURATIONS[name.split("_")[0]]
    parts: dict[str, Callable[[], nn.Module]] = {
        "backbone": backbone.build,
        "pixel_decoder": lambda: pixel_decoder.build(backbone.channels),
        "text_encoder": TextConfig().build,
    }
    for part, make in parts.items():
        ours = {k: v for k, v in converted.items() if k.startswith(f"{part}.")}
        shapes = {k: shape for k, (_, shape) in ours.items()}
        check_state_dict(shapes, Part(part, make), {k: key for k, (key, _) in ours.items()})
