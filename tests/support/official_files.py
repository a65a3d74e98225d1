"""Files as the official code would have saved them, for a small model: random weights under official names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from tiny_seem import TINY, tiny_seem
from torch import Tensor

import seem_core.config as configurations
from seem_core.config import SeemConfig
from seem_core.convert import convert_key

# The way back for the names of a FocalNet SEEM; each result is held against `convert_key`.
_BACK: tuple[tuple[str, str], ...] = (
    (r"^backbone\.norms\.(\d)\.", r"backbone.norm\1."),
    (r"^(backbone\..*\.focal_layers\.\d+)\.", r"\1.0."),
    (r"^pixel_decoder\.encoder\.", "pixel_decoder.transformer.encoder.layers."),
    (r"^pixel_decoder\.", "sem_seg_head.pixel_decoder."),
    (r"^text_encoder\.projection$", "sem_seg_head.predictor.lang_encoder.lang_proj"),
    (r"^text_encoder\.logit_scale$", "sem_seg_head.predictor.lang_encoder.logit_scale"),
    (r"^text_encoder\.layers\.", "text_encoder.resblocks."),
    (r"^text_encoder\.", "sem_seg_head.predictor.lang_encoder.lang_encoder."),
    (r"^decoder\.query_content$", "decoder.query_feat.weight"),
    (r"^decoder\.query_position$", "decoder.query_embed.weight"),
    (r"^decoder\.memory_content$", "decoder.spatial_featured.weight"),
    (r"^decoder\.memory_position$", "decoder.spatial_embed.weight"),
    (r"^decoder\.level_embedding$", "decoder.level_embed.weight"),
    (r"^decoder\.sampler\.level_projections\.", "decoder.mask_sptial_embed."),
    (r"^decoder\.sampler\.signs$", "decoder.pn_indicator.weight"),
    (r"^decoder\.class_projection$", "decoder.class_embed"),
    (r"^decoder\.mask_embedding\.", "decoder.mask_embed."),
    (r"^decoder\.norm\.", "decoder.decoder_norm."),
    (r"^decoder\.layers\.(\d+)\.cross\.attention\.", r"decoder.transformer_cross_attention_layers.\1.multihead_attn."),
    (r"^decoder\.layers\.(\d+)\.cross\.", r"decoder.transformer_cross_attention_layers.\1."),
    (r"^decoder\.layers\.(\d+)\.mutual\.attention\.", r"decoder.transformer_self_attention_layers.\1.self_attn."),
    (r"^decoder\.layers\.(\d+)\.mutual\.", r"decoder.transformer_self_attention_layers.\1."),
    (r"^decoder\.layers\.(\d+)\.feed_forward\.", r"decoder.transformer_ffn_layers.\1."),
    (r"^decoder\.", "sem_seg_head.predictor."),
)

WIDER = replace(TINY, name="wider-v0", backbone=replace(TINY.backbone, embed_dim=16))


def tiny_presets() -> Mapping[str, SeemConfig]:
    """Two configurations of small models: ``tiny-v0`` and ``-v1`` of the same weights, ``wider-v0`` of others."""
    named = (replace(TINY, name="tiny-v0"), replace(TINY, name="tiny-v1", routing="v1"), WIDER)
    return MappingProxyType({config.name: config for config in named})


def use_tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small models be all there are."""
    monkeypatch.setattr(configurations, "PRESETS", tiny_presets())


def official_key(key: str) -> str:
    """The official name of one of our parameters."""
    official = key
    for pattern, replacement in _BACK:
        official = re.sub(pattern, replacement, official)
    assert convert_key(official) == key, (key, official, convert_key(official))
    return official


def tiny_official() -> dict[str, Tensor]:
    """A state dict of the ``tiny`` model as the official code would save it, with what conversion drops."""
    weights = {official_key(key): value.clone() for key, value in tiny_seem("v0").state_dict().items()}
    return weights | {"criterion.empty_weight": torch.ones(134), "dilation_kernel": torch.ones(1, 1, 3, 3)}
