"""From the official SEEM parameter names to ours: one table of key rules, one list of keys dropped on purpose.

Conversion renames and nothing else: no value is changed, split or joined. It is strict both ways: every official key is
mapped or dropped by the tables below, every parameter of the built model is filled, and all shapes agree. What the
official names mean: SPEC §10.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from seem_core.errors import CheckpointError

# (pattern, replacement) of `re.sub`; every rule is tried on every key, in this order.
KEY_RULES: tuple[tuple[str, str], ...] = (
    # rooms
    (r"^sem_seg_head\.pixel_decoder\.", "pixel_decoder."),
    (r"^sem_seg_head\.predictor\.lang_encoder\.lang_encoder\.", "text_encoder."),
    (r"^sem_seg_head\.predictor\.lang_encoder\.lang_proj$", "text_encoder.projection"),
    (r"^sem_seg_head\.predictor\.lang_encoder\.", "text_encoder."),
    (r"^sem_seg_head\.predictor\.", "decoder."),
    # FocalNet: the level norms as a list, each context layer without its activation
    (r"^backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"^(backbone\..*\.focal_layers\.\d+)\.0\.", r"\1."),
    # DaViT: without the wrappers that add the residual
    (r"^(backbone\..*\.conv\d)\.fn\.dw\.", r"\1."),
    (r"^(backbone\..*_block)\.(?:window|channel)_attn\.norm\.", r"\1.norm1."),
    (r"^(backbone\..*_block)\.(?:window|channel)_attn\.fn\.", r"\1.attn."),
    (r"^(backbone\..*_block)\.ffn\.norm\.", r"\1.norm2."),
    (r"^(backbone\..*_block)\.ffn\.fn\.net\.", r"\1.mlp."),
    # SAM ViT
    (r"^(backbone\.blocks\.\d+\.mlp)\.lin(\d)\.", r"\1.fc\2."),
    # pixel decoders
    (r"^pixel_decoder\.transformer\.encoder\.layers\.", "pixel_decoder.encoder."),
    (r"^pixel_decoder\.transformer\.", "pixel_decoder."),
    # text encoder
    (r"^text_encoder\.resblocks\.", "text_encoder.layers."),
    # decoder
    (r"^decoder\.query_feat\.weight$", "decoder.query_content"),
    (r"^decoder\.query_embed\.weight$", "decoder.query_position"),
    (r"^decoder\.spatial_featured\.weight$", "decoder.memory_content"),
    (r"^decoder\.spatial_embed\.weight$", "decoder.memory_position"),
    (r"^decoder\.level_embed\.weight$", "decoder.level_embedding"),
    (r"^decoder\.mask_sptial_embed\.", "decoder.sampler.level_projections."),
    (r"^decoder\.pn_indicator\.weight$", "decoder.sampler.signs"),
    (r"^decoder\.class_embed$", "decoder.class_projection"),
    (r"^decoder\.mask_embed\.", "decoder.mask_embedding."),
    (r"^decoder\.decoder_norm\.", "decoder.norm."),
    (r"^decoder\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"decoder.layers.\1.cross.attention."),
    (r"^decoder\.transformer_cross_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.cross.norm."),
    (r"^decoder\.transformer_self_attention_layers\.(\d+)\.self_attn\.", r"decoder.layers.\1.mutual.attention."),
    (r"^decoder\.transformer_self_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.mutual.norm."),
    (r"^decoder\.transformer_ffn_layers\.(\d+)\.", r"decoder.layers.\1.feed_forward."),
)

# (pattern, why nothing is lost)
DROPPED_KEYS: tuple[tuple[str, str], ...] = (
    (r"^dilation_kernel$", "3x3 of ones that widens a simulated click; written out where clicks are simulated"),
    (r"^criterion\.empty_weight$", "class weights of the training loss, set by its configuration"),
)

_SHOWN = 4  # names per complaint


class Buildable(Hashable, Protocol):
    """A configuration, frozen: `build` makes the module whose parameters are to be filled."""

    def build(self) -> nn.Module:
        """The module, with any weights."""


def convert_key(key: str) -> str | None:
    """Our name of one official parameter, None where it is dropped on purpose."""
    if any(re.search(pattern, key) for pattern, _ in DROPPED_KEYS):
        return None
    for pattern, replacement in KEY_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def rename_keys(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (shared, not copied) by our names, and the official name behind each of these.

    Raises CheckpointError where two official names would become one.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in official.items():
        ours = convert_key(key)
        if ours is None:
            continue
        if ours in renamed:
            raise CheckpointError(f"{key} and {origin[ours]} would both become {ours}; the file holds one twice")
        renamed[ours], origin[ours] = value, key
    return renamed, origin


def convert_state_dict(official: Mapping[str, Tensor], config: Buildable) -> dict[str, Tensor]:
    """Rename the official state dict for the module that `config` builds; tensors are shared, not copied.

    Raises CheckpointError with the first few names where keys are missing, left over, or of another shape.
    """
    renamed, origin = rename_keys(official)
    check_state_dict(shapes_of(renamed), config, origin)
    return renamed


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {key: tuple(value.shape) for key, value in weights.items()}


@lru_cache(maxsize=32)
def expected_shapes(config: Buildable) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of all parameters of the module that `config` builds; no memory is taken for them."""
    with torch.device("meta"):
        return MappingProxyType(shapes_of(config.build().state_dict()))


@dataclass(frozen=True)
class Misfit:
    """How names and shapes differ from those of a configuration; `str` is the middle of a sentence."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshaped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.misshaped)

    def __str__(self) -> str:
        named = (("missing", self.missing), ("not expected", self.extra), ("of another shape", self.misshaped))
        return "; ".join(
            f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for what, names in named
            if names
        )


def find_misfit(
    shapes: Mapping[str, tuple[int, ...]], config: Buildable, origin: Mapping[str, str] | None = None
) -> Misfit:
    """Hold names and shapes against `config`; `origin` gives the names to show."""
    expected = expected_shapes(config)
    shown = origin or {}
    return Misfit(
        missing=tuple(k for k in expected if k not in shapes),
        extra=tuple(shown.get(k, k) for k in shapes if k not in expected),
        misshaped=tuple(
            f"{shown.get(k, k)} {list(shapes[k])} instead of {list(shape)}"
            for k, shape in expected.items()
            if k in shapes and shapes[k] != shape
        ),
    )


def check_state_dict(
    shapes: Mapping[str, tuple[int, ...]], config: Buildable, origin: Mapping[str, str] | None = None
) -> None:
    """Raises CheckpointError where names and shapes are not those of `config`; `origin` gives the names to show."""
    if misfit := find_misfit(shapes, config, origin):
        raise CheckpointError(f"the weights do not fit the configuration: {misfit}")


def load_converted(config: Buildable, weights: Mapping[str, Tensor]) -> nn.Module:
    """The module of `config` holding exactly these tensors (by reference), in eval mode, without a random start."""
    with torch.device("meta"):
        module = config.build()
    module.load_state_dict(dict(weights), strict=True, assign=True)
    return module.eval()
