"""What a SEEM is made of: `SeemConfig`, one preset per configuration of the official code, and the small one, `lite`.

Parameters do not tell `demo`, `v0` and `v1` apart: the routing is part of the configuration, not of the weights, and
``replace(PRESETS[name], routing="demo")`` is the published demo's behaviour with the same file (SPEC §1.1, §5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from seem_core.backbones.davit import DAVIT_D3, DAVIT_D5, DaViTConfig
from seem_core.backbones.focalnet import FOCAL_L, FOCAL_T, FocalNetConfig
from seem_core.backbones.lite_pyramid import LITE0, LitePyramidConfig
from seem_core.backbones.sam_vit import SAM_VIT_B, SAM_VIT_L, SamVitConfig
from seem_core.decoder import DecoderConfig
from seem_core.deformable import DeformableConfig
from seem_core.geometry import InputSize
from seem_core.pixel_decoder import EncoderFpnConfig
from seem_core.routing import RoutingName
from seem_core.text import TextConfig

if TYPE_CHECKING:
    from seem_core.model import Seem

BackboneConfig = FocalNetConfig | DaViTConfig | SamVitConfig | LitePyramidConfig
PixelDecoderConfig = EncoderFpnConfig | DeformableConfig

_DECODER = DecoderConfig()
_TEXT = TextConfig()
_DEMO_SIZE = InputSize(512)
_SAM_SIZE = InputSize(1000, 1024)


@dataclass(frozen=True)
class SeemConfig:
    """One SEEM: its parts, its routing, and what images it expects.

    text: None for a model that knows no words and no classes.
    official: whether the official code has this configuration; others are trained here.
    published: whether official weights of this configuration have ever been released (SPEC §1.1).
    pixel_mean, pixel_std: of RGB in 0..255; padding is zero after normalisation.
    """

    name: str
    backbone: BackboneConfig
    pixel_decoder: PixelDecoderConfig
    routing: RoutingName
    decoder: DecoderConfig = _DECODER
    text: TextConfig | None = _TEXT
    input_size: InputSize = _DEMO_SIZE
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    official: bool = True
    published: bool = True

    @property
    def divisor(self) -> int:
        """Both sides of the padded input are multiples of this."""
        return self.backbone.size_divisor

    def build(self) -> Seem:
        """The model with untrained weights (or none, under ``torch.device("meta")``)."""
        from seem_core.model import Seem  # the model reads this file

        return Seem(self)


_FOCAL_T = SeemConfig("seem-focal-t-v0", FOCAL_T, EncoderFpnConfig(), "v0")
_FOCAL_L = SeemConfig("seem-focal-l-v0", FOCAL_L, EncoderFpnConfig(), "v0")
_SAM_B = SeemConfig("seem-sam-b-v1", SAM_VIT_B, DeformableConfig(), "v1", input_size=_SAM_SIZE)
_SAM_L = SeemConfig("seem-sam-l-v1", SAM_VIT_L, DeformableConfig(), "v1", input_size=_SAM_SIZE)
_LITE = SeemConfig(
    "lite",
    LITE0,
    EncoderFpnConfig(channels=96, heads=4, layers=2, hidden=384),
    "v1",
    DecoderConfig(
        channels=96,
        mask_channels=96,
        text_channels=96,
        heads=4,
        feed_forward=384,
        layers=6,
        queries=27,
        memories=16,
        level_caps=(128, 128, 128),
        mean_cap=256,
    ),
    text=None,
    input_size=InputSize(288),
    pixel_mean=(127.0, 127.0, 127.0),
    pixel_std=(128.0, 128.0, 128.0),
    official=False,
    published=False,
)

PRESETS: Mapping[str, SeemConfig] = MappingProxyType(
    {
        config.name: config
        for config in (
            _FOCAL_T,
            replace(_FOCAL_T, name="seem-focal-t-v1", routing="v1"),
            _FOCAL_L,
            replace(_FOCAL_L, name="seem-focal-l-v1", routing="v1"),
            _SAM_B,
            _SAM_L,
            SeemConfig("seem-davit-d3-v1", DAVIT_D3, EncoderFpnConfig(), "v1", published=False),
            SeemConfig("seem-davit-d5-v1", DAVIT_D5, EncoderFpnConfig(), "v1", published=False),
            _LITE,
        )
    }
)
