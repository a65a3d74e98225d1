"""Encoder-FPN pixel decoder: from a backbone's four levels to the decoder's three, and to per-pixel mask features.

Mask2Former's pixel decoder in the form that X-Decoder and SEEM use (SPEC §3.1): a transformer encoder on the coarsest
level, then top-down fusion. The steps can be called one by one, because most of the cost is at stride 4: of 153 G
multiply-adds at 480 x 864, `layer_1` takes 61 and the `mask_features` convolution 61. The second is linear, so whoever
needs its output at few places, or projected on few queries, can evaluate it there only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.attention import Attention
from seem_core.backbones.parts import Pyramid, to_nchw, to_nhwc
from seem_core.conv_of_sum import conv_of_sum, norm_as_affine
from seem_core.positions import sine_positions


class PixelFeatures(NamedTuple):
    """What the pixel decoder knows before the last convolution; all maps (B, C, h, w)."""

    levels: tuple[Tensor, Tensor, Tensor]
    """at strides 32, 16, 8: the order in which the decoder's layers visit them"""
    finest: Tensor
    """at stride 4: the input of `mask_features`"""


@dataclass(frozen=True)
class EncoderFpnConfig:
    """What to build; the defaults are SEEM's."""

    channels: int = 512
    heads: int = 8
    layers: int = 6
    hidden: int = 2048

    def build(self, in_channels: tuple[int, int, int, int]) -> EncoderFpn:
        """A pixel decoder with untrained weights on a backbone with these channels (res2..res5)."""
        return EncoderFpn(self, in_channels)


class ConvNorm(nn.Conv2d):
    """Convolution without bias, then GroupNorm of 32 groups, then ReLU if asked; size kept."""

    def __init__(self, c_in: int, c_out: int, kernel: int, relu: bool) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(32, c_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):  # as a matrix product: the same, without a slow path for single images on a CPU
            x = to_nchw(F.linear(to_nhwc(x), self.weight.flatten(1)))
        else:
            x = super().forward(x)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """Norm and ReLU of the convolution's result."""
        x = self.norm(x)
        return F.relu(x, inplace=not torch.is_grad_enabled()) if self.relu else x


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer (ReLU)."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: (B, T, C), position (1, T, C) -> (B, T, C)."""
        placed = x + position  # where a cell is enters query and key, not the value
        x = self.norm1(x + self.self_attn(placed, placed, x))
        y: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return y


class EncoderFpn(nn.Module):
    """Transformer encoder at stride 32, feature pyramid up to stride 4. Its channels are those of the decoder."""

    def __init__(self, config: EncoderFpnConfig, in_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        C = config.channels
        self.config = config
        self.input_proj = nn.Conv2d(in_channels[3], C, 1)
        self.encoder = nn.ModuleList(EncoderLayer(C, config.heads, config.hidden) for _ in range(config.layers))
        # Numbered as res2..res5 are, from the finest: adapter_k brings one level in, layer_k smooths the sum.
        self.adapter_1 = ConvNorm(in_channels[0], C, 1, relu=False)
        self.adapter_2 = ConvNorm(in_channels[1], C, 1, relu=False)
        self.adapter_3 = ConvNorm(in_channels[2], C, 1, relu=False)
        self.layer_1 = ConvNorm(C, C, 3, relu=True)
        self.layer_2 = ConvNorm(C, C, 3, relu=True)
        self.layer_3 = ConvNorm(C, C, 3, relu=True)
        self.layer_4 = ConvNorm(C, C, 3, relu=True)
        self.mask_features = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, pyramid: Pyramid) -> PixelFeatures:
        """Levels and the finest map; `mask_features(finest)` is (B, C, H/4, W/4), left to the caller."""
        stride32 = self.layer_4(self.encode(pyramid.res5))
        stride16 = self.layer_3(fuse(self.adapter_3(pyramid.res4), stride32))
        stride8 = self.layer_2(fuse(self.adapter_2(pyramid.res3), stride16))
        stride4 = merge(self.adapter_1, self.layer_1, pyramid.res2, stride8)
        return PixelFeatures((stride32, stride16, stride8), stride4)

    def encode(self, res5: Tensor) -> Tensor:
        """The transformer on the coarsest level: (B, C5, h, w) -> (B, C, h, w)."""
        x: Tensor = self.input_proj(res5)
        h, w = x.shape[-2:]
        position = sine_positions(h, w, x.shape[1], device=x.device, dtype=x.dtype)
        tokens, position = to_nhwc(x).flatten(1, 2), to_nhwc(position).flatten(1, 2)  # (B, h*w, C)
        for layer in self.encoder:
            tokens = layer(tokens, position)
        return to_nchw(tokens.reshape(-1, h, w, tokens.shape[-1]))


def merge(adapter: ConvNorm, layer: ConvNorm, fine: Tensor, coarse: Tensor) -> Tensor:
    """``layer(fuse(adapter(fine), coarse))``; without making the sum where that is less work (`conv_of_sum`).

    It is where the fine map has few channels, and where nothing is learned.
    """
    doubled = fine.shape[2:] == (2 * coarse.shape[2], 2 * coarse.shape[3])
    if torch.is_grad_enabled() or not doubled or 2 * fine.shape[1] > coarse.shape[1]:
        return layer(fuse(adapter(fine), coarse))  # type: ignore[no-any-return]
    projection = adapter.weight.flatten(1)
    maps = []
    for one, below in zip(
        torch.split(fine, 1), torch.split(coarse, 1), strict=True
    ):  # every image has a norm of its own
        scale, shift = norm_as_affine(adapter.norm, projection, one[0])
        lateral = (scale[:, None] * projection).to(one.dtype)
        # a constant added everywhere may as well be added before the enlargement
        maps.append(conv_of_sum(layer.weight, lateral, one, below + shift.to(below.dtype)[:, None, None]))
    return layer.finish(maps[0] if len(maps) == 1 else torch.cat(maps))


def fuse(lateral: Tensor, coarser: Tensor) -> Tensor:
    """Lateral map plus the coarser one, repeated to its size (nearest); `lateral` may be overwritten."""
    H, W = lateral.shape[-2:]
    h, w = coarser.shape[-2:]
    if (2 * h, 2 * w) != (H, W):
        return lateral + F.interpolate(coarser, (H, W), mode="nearest")
    # Each coarse cell lies over 2 x 2 fine ones: added where they are, without writing the repeated map.
    quads = torch.unflatten(torch.unflatten(to_nhwc(lateral), 2, (w, 2)), 1, (h, 2))  # (B, h, 2, w, 2, C)
    quads += to_nhwc(coarser)[:, :, None, :, None]
    return lateral
