"""A SEEM of a few hundred thousand random parameters: the structure of the published ones, in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from seem_core.backbones.focalnet import FocalNetConfig
from seem_core.config import SeemConfig
from seem_core.decoder import DecoderConfig
from seem_core.geometry import InputSize
from seem_core.model import Seem
from seem_core.pixel_decoder import EncoderFpnConfig
from seem_core.routing import RoutingName
from seem_core.text import TextConfig

TINY = SeemConfig(
    name="tiny",
    backbone=FocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), focal_levels=2),
    pixel_decoder=EncoderFpnConfig(channels=32, heads=4, layers=1, hidden=32),
    routing="v0",
    decoder=DecoderConfig(
        channels=32,
        mask_channels=32,
        text_channels=32,
        heads=4,
        feed_forward=64,
        layers=4,
        queries=13,
        memories=6,
        level_caps=(40, 40, 40),
        mean_cap=40,
    ),
    text=TextConfig(channels=32, layers=1, heads=4, projected=32),
    input_size=InputSize(64),
    published=False,
)


def tiny_seem(routing: RoutingName, seed: int = 0) -> Seem:
    """The same weights for every routing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Seem(replace(TINY, routing=routing)).eval()


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 3, height, width) uint8 noise."""
    return torch.randint(
        0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def rectangles(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    """(N, height, width) bool masks of rows r0:r1 and columns c0:c1."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (r0, r1, c0, c1) in zip(masks, boxes, strict=True):
        mask[r0:r1, c0:c1] = True
    return masks
