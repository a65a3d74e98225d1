"""Deformable pixel decoder: each cell of three levels reads a few places that it chooses itself, on all three levels.

Zhu et al., "Deformable DETR" (arXiv:2010.04159) section 4.1, as Mask2Former's pixel decoder uses it; SEEM's SAM
configurations (SPEC §3.2). Written without a custom operator: a bilinear sample is a weighted sum of four cells, so a
cell's whole reading (levels x points x 4 corners) is one bag of rows of a table, which PyTorch sums in one call.
Places, weights and sums are float32 whatever the precision of the linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.backbones.parts import Pyramid, to_nchw, to_nhwc
from seem_core.pixel_decoder import ConvNorm, PixelFeatures
from seem_core.positions import sine_positions

Sizes = tuple[tuple[int, int], ...]

QUERIES_PER_BLOCK = 1024
"""Cells that read at once on a CPU, so that their places and weights stay in the cache."""


@dataclass(frozen=True)
class DeformableConfig:
    """What to build; the defaults are SEEM's."""

    channels: int = 512
    heads: int = 8
    layers: int = 6
    hidden: int = 1024
    points: int = 4

    def build(self, in_channels: tuple[int, int, int, int]) -> DeformableDecoder:
        """A pixel decoder with untrained weights on a backbone with these channels (res2..res5)."""
        return DeformableDecoder(self, in_channels)


class DeformableAttention(nn.Module):
    """Reads `points` places per head and level, at offsets that are linear in the query."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, x: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """query, x: (B, T, C), T cells of all levels; centres: (T, 2) as (x, y) in 0..1; sizes: (h, w) per level."""
        B, T, _ = x.shape
        shape = (B, T, self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*shape, 2).float()  # in cells of the level, (x, y)
        weights = self.attention_weights(query).float().view(B, T, self.heads, -1).softmax(dim=-1).view(shape)
        extent = torch.tensor([(w, h) for h, w in sizes], device=x.device)[:, None]  # (levels, 1, 2)
        places = centres[None, :, None, None, None] * extent + offsets - 0.5  # cell i has its centre at i
        values = self.value_proj(x).view(B, T, self.heads, -1).float()
        step = T if x.is_cuda else QUERIES_PER_BLOCK
        blocks = zip(places.split(step, dim=1), weights.split(step, dim=1), strict=True)
        y = torch.cat([sample(values, p, w, sizes) for p, w in blocks], dim=1)
        out: Tensor = self.output_proj(y.to(x.dtype))
        return out


def sample(values: Tensor, places: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sum of bilinear samples, zero outside: -> (B, T, heads * c).

    values: (B, S, heads, c), the S cells of all levels, level after level, row-major. places: (B, T, heads, levels,
    points, 2) as (x, y), in cells, 0 at the first centre. weights: (B, T, heads, levels, points).
    """
    B, S, heads, _ = values.shape
    points = places.shape[4]
    table = [(w, h, start) for (h, w), start in zip(sizes, first_cells(sizes), strict=True) for _ in range(points)]
    # (J,) each, J = levels * points: long rows without inner broadcasting, which is what a CPU is quick at
    width, height, start = places.new_tensor(table).unbind(1)
    x, y = places.flatten(3, 4).unbind(-1)  # (B, T, heads, J) each
    columns, rows = _neighbours(x, width), _neighbours(y, height)
    share_of_place = weights.flatten(3)
    rows = [(start + row * width, share * share_of_place) for row, share in rows]
    # One table of (batch, cell, head) rows; one bag per (batch, query, head) reads 4 * J of them.
    cell = torch.stack([row + column for row, _ in rows for column, _ in columns], dim=3)  # exact in float32
    share = torch.stack([by_row * by_column for _, by_row in rows for _, by_column in columns], dim=3)
    index = cell.flatten(3).int() * heads
    index += torch.arange(heads, device=index.device, dtype=index.dtype)[:, None]
    index += torch.arange(B, device=index.device, dtype=index.dtype)[:, None, None, None] * (S * heads)
    bags = F.embedding_bag(
        index.flatten(0, 2),
        values.reshape(B * S * heads, -1),
        mode="sum",
        per_sample_weights=share.flatten(3).flatten(0, 2),
    )
    return bags.view(B, places.shape[1], -1)


def _neighbours(place: Tensor, extent: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two cells around a place on one axis and their shares; one outside 0..extent - 1 is cell 0 with share 0."""
    low = place.floor()
    upper = place - low
    both = []
    for cell, share in ((low, 1 - upper), (low + 1, upper)):
        inside = (cell >= 0) & (cell < extent)
        both.append((torch.where(inside, cell, 0.0), torch.where(inside, share, 0.0)))
    return both


def first_cells(sizes: Sizes) -> list[int]:
    """Where each level starts among the cells of all levels."""
    return [0, *accumulate(h * w for h, w in sizes[:-1])]


class DeformableLayer(nn.Module):
    """Post-norm encoder layer around the deformable attention (ReLU)."""

    def __init__(self, config: DeformableConfig, levels: int) -> None:
        super().__init__()
        C = config.channels
        self.self_attn = DeformableAttention(C, config.heads, levels, config.points)
        self.linear1 = nn.Linear(C, config.hidden)
        self.linear2 = nn.Linear(config.hidden, C)
        self.norm1 = nn.LayerNorm(C)
        self.norm2 = nn.LayerNorm(C)

    def forward(self, x: Tensor, position: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """x: (B, T, C), position: (1, T, C) -> (B, T, C)."""
        x = self.norm1(x + self.self_attn(x + position, x, centres, sizes))
        y: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return y


class DeformableDecoder(nn.Module):
    """Deformable encoder on strides 32, 16, 8, then one step up to stride 4. Same results as `EncoderFpn`, by type."""

    def __init__(self, config: DeformableConfig, in_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        C = config.channels
        self.config = config
        coarse_first = in_channels[:0:-1]  # res5, res4, res3
        self.input_proj = nn.ModuleList(nn.Sequential(nn.Conv2d(c, C, 1), nn.GroupNorm(32, C)) for c in coarse_first)
        self.level_embed = nn.Parameter(torch.zeros(len(coarse_first), C))
        self.encoder = nn.ModuleList(DeformableLayer(config, len(coarse_first)) for _ in range(config.layers))
        self.adapter_1 = ConvNorm(in_channels[0], C, 1, relu=False)
        self.layer_1 = ConvNorm(C, C, 3, relu=True)
        self.mask_features = nn.Conv2d(C, C, 1)

    def forward(self, pyramid: Pyramid) -> PixelFeatures:
        """Levels and the finest map; `mask_features(finest)` is (B, C, H/4, W/4), left to the caller."""
        levels = self.encode(pyramid)
        lateral = self.adapter_1(pyramid.res2)
        up = F.interpolate(levels[2], lateral.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(levels, self.layer_1(lateral + up))

    def encode(self, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder on res5, res4, res3: three maps (B, C, h, w) at strides 32, 16, 8."""
        coarse_first = (pyramid.res5, pyramid.res4, pyramid.res3)
        maps = [proj(level) for proj, level in zip(self.input_proj, coarse_first, strict=True)]
        sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
        tokens = torch.cat([to_nhwc(m).flatten(1, 2) for m in maps], dim=1)  # (B, T, C)
        position = self.positions(sizes, tokens)
        centres = torch.cat([cell_centres(size, tokens.device) for size in sizes])
        for layer in self.encoder:
            tokens = layer(tokens, position, centres, sizes)
        parts = torch.split(tokens, [h * w for h, w in sizes], dim=1)
        s32, s16, s8 = (to_nchw(part.reshape(len(part), h, w, -1)) for part, (h, w) in zip(parts, sizes, strict=True))
        return s32, s16, s8

    def positions(self, sizes: Sizes, like: Tensor) -> Tensor:
        """(1, T, C): sine position in the level, plus what level it is."""
        waves = (sine_positions(h, w, like.shape[-1], device=like.device, dtype=like.dtype) for h, w in sizes)
        placed = zip(waves, self.level_embed, strict=True)
        return torch.cat([to_nhwc(wave).flatten(1, 2) + level for wave, level in placed], dim=1)


def cell_centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, 2) float32: centres of the cells as (x, y), where the map spans 0..1."""
    h, w = size
    y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
    x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
    return torch.stack((x.expand(h, w), y[:, None].expand(h, w)), dim=-1).flatten(0, 1)
