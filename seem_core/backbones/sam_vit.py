"""SAM's plain vision transformer, with a simple feature pyramid in place of its neck.

Papers: Kirillov et al., "Segment Anything" (arXiv:2304.02643) for the encoder, Li et al., "Exploring Plain Vision
Transformer Backbones for Object Detection" (arXiv:2203.16527) for window and global attention in one trunk and for the
pyramid made from its last map alone. What differs from SAM: four outputs at strides 4 to 32 in place of one at 16, and
a size that is fixed, because the absolute position of a patch is learned for 64 x 64 patches (SPEC §2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.backbones.parts import (
    Mlp,
    Pyramid,
    channels_last,
    join_windows,
    split_windows,
    to_nchw,
    to_nhwc,
)
from seem_core.errors import InputError

BIAS_ELEMENTS = 1 << 24
"""Position bias that may be in memory at once; global attention of 4096 tokens is then done head by head."""


@dataclass(frozen=True)
class SamVitConfig:
    """What to build; `SAM_VIT_B` and `SAM_VIT_L` are the two published ones."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    patch: int = 16
    image_size: int = 1024
    mlp_ratio: int = 4
    channels: tuple[int, int, int, int] = (128, 256, 512, 1024)

    @property
    def size_divisor(self) -> int:
        """The one height and width that the network takes."""
        return self.image_size

    def build(self) -> SamVit:
        """A network with untrained weights."""
        return SamVit(self)


SAM_VIT_B = SamVitConfig()
SAM_VIT_L = SamVitConfig(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))


class RelativeAttention(nn.Module):
    """Multi-head attention whose logits also depend on how far apart query and key are, by row and by column."""

    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (n, T, C) tokens of maps with size (h, w), T = h * w -> (n, T, C)."""
        n, T, _ = x.shape
        qkv = self.qkv(x).view(n, T, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, T, C / heads) each
        table_h = relative_table(self.rel_pos_h, size[0])
        table_w = relative_table(self.rel_pos_w, size[1])
        step = max(1, BIAS_ELEMENTS // (n * T * T))
        heads = [
            F.scaled_dot_product_attention(q, k, v, attn_mask=position_bias(q, table_h, table_w))
            for q, k, v in zip(*(t.split(step, dim=1) for t in (query, key, value)), strict=True)
        ]
        y: Tensor = self.proj(torch.cat(heads, dim=1).transpose(1, 2).reshape(x.shape))
        return y


def relative_table(learned: Tensor, size: int) -> Tensor:
    """(2 * learned size - 1, c) vectors per distance -> (size, size, c) per query and key place along one axis.

    Distances that were not learned are interpolated linearly.
    """
    if len(learned) != 2 * size - 1:
        learned = F.interpolate(learned.T[None].float(), 2 * size - 1, mode="linear")[0].T.to(learned.dtype)
    place = torch.arange(size, device=learned.device)
    return learned[place[:, None] - place[None, :] + size - 1]


def position_bias(query: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """query (n, heads, T, c), tables (h, h, c) and (w, w, c) -> (n, heads, T, T) to add to the attention logits."""
    n, heads, T, c = query.shape
    h, w = len(table_h), len(table_w)
    grid = query.reshape(n, heads, h, w, c)
    rows = grid @ table_h.transpose(1, 2)  # (n, heads, h, w, h): last axis is the row of the key
    columns = (grid.transpose(2, 3) @ table_w.transpose(1, 2)).transpose(2, 3).contiguous()  # last: its column
    return (rows[..., :, None] + columns[..., None, :]).view(n, heads, T, T)


class VitBlock(nn.Module):
    """Pre-norm transformer block; its attention sees windows, or (`window` 0) the whole map."""

    def __init__(self, config: SamVitConfig, window: int) -> None:
        super().__init__()
        self.window = window
        reach = window or config.image_size // config.patch
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = RelativeAttention(config.dim, config.heads, reach)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.mlp_ratio * config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        x = x + self.attend(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def attend(self, x: Tensor) -> Tensor:
        """Attention per window (filled with zeros at the border, not masked) or over the map."""
        B, h, w, _ = x.shape
        if not self.window:
            y: Tensor = self.attn(x.flatten(1, 2), (h, w))
            return y.view(x.shape)
        y = self.attn(split_windows(x, self.window), (self.window, self.window))
        return join_windows(y, self.window, (B, h, w))


class SimplePyramid(nn.Module):
    """Four maps from one: transposed convolutions up, a strided one down; norms over all channels and cells."""

    def __init__(self, dim: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        quarter, half, double = max(256, dim // 2), max(256, dim // 2), max(1024, 2 * dim)
        self.down_4 = nn.Sequential(
            *(nn.ConvTranspose2d(dim, quarter, 2, 2), nn.GroupNorm(1, quarter), nn.GELU()),
            *(nn.ConvTranspose2d(quarter, quarter // 2, 2, 2), nn.GroupNorm(1, quarter // 2)),
            *(nn.Conv2d(quarter // 2, channels[0], 1), nn.GroupNorm(1, channels[0]), nn.GELU()),
        )
        self.down_8 = nn.Sequential(
            *(nn.ConvTranspose2d(dim, half, 2, 2), nn.GroupNorm(1, half)),
            *(nn.Conv2d(half, channels[1], 1), nn.GroupNorm(1, channels[1]), nn.GELU()),
        )
        self.down_16 = nn.Sequential(nn.Conv2d(dim, channels[2], 1), nn.GroupNorm(1, channels[2]), nn.GELU())
        self.down_32 = nn.Sequential(
            *(nn.Conv2d(dim, double, 2, 2), nn.GroupNorm(1, double)),
            *(nn.Conv2d(double, channels[3], 1), nn.GroupNorm(1, channels[3]), nn.GELU()),
        )

    def forward(self, x: Tensor) -> Pyramid:
        """(B, dim, h, w) at stride 16 -> features at strides 4, 8, 16, 32."""
        return Pyramid(self.down_4(x), self.down_8(x), self.down_16(x), self.down_32(x))


class PatchEmbed(nn.Module):
    """Non-overlapping patches: (B, 3, H, W) -> (B, H/patch, W/patch, C)."""

    def __init__(self, config: SamVitConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch, config.patch)

    def forward(self, image: Tensor) -> Tensor:
        return to_nhwc(self.proj(channels_last(image)))


class SamVit(nn.Module):
    """Image of `config.image_size` squared -> `Pyramid` of `config.channels`."""

    def __init__(self, config: SamVitConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.image_size // config.patch
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, cells, config.dim))
        self.blocks = nn.ModuleList(
            VitBlock(config, 0 if i in config.global_blocks else config.window) for i in range(config.depth)
        )
        self.neck = SimplePyramid(config.dim, config.channels)

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, 3, S, S) normalised, zeros below and right of it to fill S = `image_size` -> strides 4, 8, 16, 32.

        Raises InputError for any other size: positions are learned for this one.
        """
        size = self.config.image_size
        if image.shape[-2:] != (size, size):
            H, W = image.shape[-2:]
            raise InputError(f"SAM's encoder takes {size}x{size} images, not {W}x{H}; resize and pad the image to that")
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        pyramid: Pyramid = self.neck(to_nchw(x))
        return pyramid
