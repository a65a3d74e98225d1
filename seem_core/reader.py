"""The learned dense reader: keys per image, values per object, and a decoder that turns what it reads into masks.

The scheme is that of space-time memory networks: STM (arXiv:1904.00607) for keys and values per object, STCN
(arXiv:2106.05210) for keys that come from the image alone, so that each image is encoded once for all objects. Here it
is cut down to a CPU: an EfficientNet-Lite0 trunk, global matching at stride 16 to a few remembered frames, matching in
a small window at stride 8 to the previous frame (as the short-term branch of AOT, arXiv:2106.02638), and a decoder with
skips down to stride 2 that also sees the previous mask.

Shapes: B images, N objects, C channels, L = h w cells of one map. A mask inside the network is a probability at stride
2. Images are RGB in 0..255, sides multiples of 16. The module keeps no state: what is remembered is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.backbones.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, load_lite0, normalise
from seem_core.backbones.lite_trunk import load_trunk

TAPS = (0, 2, 4, 10)  # trunk blocks read: strides 2, 4, 8, 16
TAP_CHANNELS = (16, 24, 40, 112)
TAP_SCALE = 6.0  # block outputs are linear with a standard deviation of 5.7 to 8.0 on photographs
MULTIPLE = 16  # sides of an image are multiples of this
TILE = 8  # cells of stride 8 per side of a tile in the local matching
MAX_SHARPNESS = 4.2  # natural logarithm; beyond it one cell takes all
CACHED_AFFINITIES = 500_000  # float32 affinities that fit a core's second-level cache (2 MB)


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of the reader.

    key, local_key   channels of the matching keys at strides 16 and 8
    window           radius of the local matching, in cells of stride 8
    value, local_value   channels that are read per object at strides 16 and 8
    decoder          channels of the decoder at strides 16, 8, 4, 2
    top_k            cells that vote per query cell in the global matching; 0 = all. No parameter depends on it
    frozen_blocks    leading trunk blocks (with the stem) that training leaves as they are
    """

    key: int = 64
    local_key: int = 32
    window: int = 5
    value: int = 128
    local_value: int = 16
    decoder: tuple[int, int, int, int] = (128, 64, 32, 16)
    top_k: int = 0
    frozen_blocks: int = 3

    def build(self) -> DenseReader:
        """A reader with fresh weights (the trunk's too; `DenseReader.pretrained_trunk` loads ImageNet's)."""
        return DenseReader(self)


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """Encoded images, shared by all objects: trunk maps at strides 2, 4, 8, 16 and L2-normalised matching keys."""

    stride2: Tensor  # (B, 16, H/2, W/2)
    stride4: Tensor  # (B, 24, H/4, W/4)
    stride8: Tensor  # (B, 40, H/8, W/8)
    stride16: Tensor  # (B, 112, H/16, W/16)
    key: Tensor  # (B, Ck, H/16, W/16)
    local_key: Tensor  # (B, Cl, H/8, W/8)

    def __getitem__(self, images: slice) -> FrameFeatures:
        return FrameFeatures(*(getattr(self, f.name)[images] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class FrameValues:
    """What one frame with known masks adds to memory. The last channel of both values is the mask itself."""

    key: Tensor  # (B, Ck, L)
    value: Tensor  # (B, N, Cv + 1, L)
    summary: Tensor  # (B, N, 2 Cv) mean value inside and outside the mask
    local_key: Tensor  # (B, Cl, H/8, W/8)
    local_value: Tensor  # (B, N, Cw + 1, H/8, W/8)
    mask: Tensor  # (B, N, H/2, W/2) in 0..1


@dataclass(frozen=True, eq=False)
class Memory:
    """Several remembered frames side by side: M = frames x L cells."""

    key: Tensor  # (B, Ck, M)
    value: Tensor  # (B, N, Cv + 1, M)
    summary: Tensor  # (B, N, 2 Cv)

    @classmethod
    def of(cls, frames: Sequence[FrameValues]) -> Memory:
        """Concatenate; every frame must know the same N objects."""
        if len(frames) == 1:
            return cls(frames[0].key, frames[0].value, frames[0].summary)
        summary = torch.stack([f.summary for f in frames]).mean(0)
        return cls(torch.cat([f.key for f in frames], 2), torch.cat([f.value for f in frames], 3), summary)


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read for one frame.

    logits       (B, N, H/2, W/2): object n against background; `probabilities` makes the objects share a pixel
    presence     (B, N) logit of "the object is visible"
    quality      (B, N) logit of the expected IoU of the mask
    prior        (B, N, H/16, W/16) in 0..1, mask propagated by the global matching alone
    local_prior  (B, N, H/8, W/8) in 0..1, likewise by the local matching
    """

    logits: Tensor
    presence: Tensor
    quality: Tensor
    prior: Tensor
    local_prior: Tensor


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every cell of (B, C, h, w), in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # autocast would go to float32 and back
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            cells = x.permute(0, 2, 3, 1)  # channels_last memory: no copy
            return F.layer_norm(cells, self.normalized_shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class Refine(nn.Module):
    """Pre-activation residual block: two times (norm,) ReLU, 3x3 convolution."""

    def __init__(self, channels: int, norm: bool = True) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = ChannelNorm(channels) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        refined: Tensor = x + self.conv2(F.relu(self.norm2(y)))
        return refined


class Join(nn.Module):
    """3x3 convolution over [shared (B, ..), own (B N, ..)], the shared part computed once for all objects."""

    def __init__(self, shared: int, own: int, out: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(shared, out, 3, padding=1)
        self.own = nn.Conv2d(own, out, 3, padding=1, bias=False)

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        b = shared.shape[0]
        common: Tensor = self.shared(shared)
        single: Tensor = self.own(own)
        if single.shape[0] == b:
            return common + single
        joined = single.view(b, -1, *single.shape[1:]) + common[:, None]  # (B, N, C, h, w)
        return joined.flatten(0, 1)


class ValueEncoder(nn.Module):
    """Image maps and masks -> values at strides 16 and 8. The mask enters as 4x4 sub-cells of stride 8."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.decoder[1]
        self.join8 = Join(TAP_CHANNELS[2], 32, width)
        self.local = nn.Conv2d(width, config.local_value, 1)
        self.down = nn.Conv2d(width, config.value, 3, stride=2, padding=1)
        self.join16 = Join(TAP_CHANNELS[3], config.value, config.value)
        self.refine = Refine(config.value)

    def forward(self, features: FrameFeatures, masks: Tensor) -> tuple[Tensor, Tensor]:
        """masks (B, N, H/2, W/2) -> value (B, N, Cv, h16, w16), local value (B, N, Cw, h8, w8)."""
        b, n = masks.shape[:2]
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1)
        cells = F.pixel_unshuffle(torch.stack([masks, others], 2).flatten(0, 1), 4)  # (B N, 32, h8, w8)
        x = F.relu(self.join8(features.stride8, cells))
        local = self.local(x)
        x = self.refine(self.join16(features.stride16, F.relu(self.down(x))))
        return x.view(b, n, *x.shape[1:]), local.view(b, n, *local.shape[1:])


class Decoder(nn.Module):
    """What was read, image maps and the previous mask -> logits at stride 2, presence and quality."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        c16, c8, c4, c2 = config.decoder
        self.join16 = Join(TAP_CHANNELS[3] + 1, config.value + 2, c16)
        self.modulate = nn.Linear(2 * config.value, 2 * c16)
        self.refine16 = nn.Sequential(Refine(c16), Refine(c16))
        self.join8 = Join(TAP_CHANNELS[2] + 1, config.local_value + 2, c8)
        self.up8 = nn.Conv2d(c16, c8, 1)
        self.refine8 = Refine(c8)
        self.join4 = Join(TAP_CHANNELS[1], 1, c4)
        self.up4 = nn.Conv2d(c8, c4, 1)
        self.refine4 = Refine(c4, norm=False)
        self.join2 = Join(TAP_CHANNELS[0], 1, c2)
        self.up2 = nn.Conv2d(c4, c2, 1)
        self.conv2 = nn.Conv2d(c2, c2, 3, padding=1)
        self.logit = nn.Conv2d(c2, 1, 3, padding=1)
        self.pooled = nn.Linear(2 * c16, 64)
        self.score = nn.Linear(64, 2)

    def forward(
        self, features: FrameFeatures, read: Tensor, best: Tensor, local: Tensor, local_best: Tensor,
        summary: Tensor, previous: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """read (BN, Cv + 1, h16, w16), best (B, 1, h16, w16), local (BN, Cw + 1, h8, w8), local_best (B, 1, h8, w8),
        summary (BN, 2 Cv), previous (BN, 1, H/2, W/2) -> logits (BN, 1, H/2, W/2), scores (BN, 2)."""
        previous4 = F.avg_pool2d(previous, 2)
        previous8 = F.avg_pool2d(previous4, 2)
        previous16 = F.avg_pool2d(previous8, 2)
        x = self.join16(torch.cat([features.stride16, best], 1), torch.cat([read, previous16], 1))
        scale, shift = self.modulate(summary)[..., None, None].chunk(2, 1)
        x = self.refine16(x * (1 + scale) + shift)
        scores = self.score(F.relu(self.pooled(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))))
        own = torch.cat([local, previous8], 1)
        x = self.join8(torch.cat([features.stride8, local_best], 1), own) + _double(self.up8(x))
        x = self.refine8(x)
        x = self.refine4(self.join4(features.stride4, previous4) + _double(self.up4(x)))
        x = F.relu(self.join2(features.stride2, previous) + _double(self.up2(x)))
        x = F.relu(self.conv2(x))
        return self.logit(x), scores


class DenseReader(nn.Module):
    """Encode an image, write masks into memory, read the masks of the next image."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        # batch norms are folded: the statistics stay ImageNet's, and fewer and cheaper operations run and train
        self.trunk: EfficientNetLite = EfficientNetLiteConfig(blocks=TAPS[-1] + 1).build().fold()
        self.to_key = nn.Conv2d(TAP_CHANNELS[2] + TAP_CHANNELS[3], config.key, 1)
        self.to_local_key = nn.Conv2d(TAP_CHANNELS[2] + TAP_CHANNELS[3], config.local_key, 1)
        self.sharpness = nn.Parameter(torch.tensor([math.log(16.0), math.log(16.0)]))  # global, local; 1 / temperature
        self.offset_bias = nn.Parameter(torch.zeros(2 * config.window + 1, 2 * config.window + 1))
        self.value_encoder = ValueEncoder(config)
        self.decoder = Decoder(config)
        self._initialise()

    def _initialise(self) -> None:
        for module in (*self.value_encoder.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Refine):
                nn.init.normal_(module.conv2.weight, std=1e-3)
        for last in (self.decoder.logit, self.decoder.score):  # begins undecided
            nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(self.decoder.modulate.weight)
        nn.init.zeros_(self.decoder.modulate.bias)
        for conv in (self.to_key, self.to_local_key):  # a random projection keeps the trunk's similarities
            nn.init.orthogonal_(conv.weight.view(conv.weight.shape[0], -1))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def pretrained_trunk(self, path: Path | None = None) -> DenseReader:
        """Put ImageNet's weights into the trunk: those that ship, or of a published file. Returns self."""
        blocks = TAPS[-1] + 1
        trunk = load_trunk(blocks) if path is None else load_lite0(blocks, path).fold()
        self.trunk.load_state_dict(trunk.state_dict(), strict=True)
        return self

    def frozen_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that training does not change: stem and the first ``frozen_blocks`` blocks."""
        if self.config.frozen_blocks > 0:
            yield from self.trunk.stem.parameters()
        for block in self.trunk.blocks[: self.config.frozen_blocks]:
            yield from block.parameters()

    def encode(self, images: Tensor) -> FrameFeatures:
        """Encode (B, 3, H, W) RGB images in 0..255, H and W multiples of 16."""
        height, width = images.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(f"image sides are multiples of {MULTIPLE}, not {width} x {height}")
        f2, f4, f8, f16 = (x / TAP_SCALE for x in self.trunk.features(normalise(images), TAPS))
        n8, n16 = _unit(f8), _unit(f16)
        key = self.to_key(torch.cat([F.avg_pool2d(n8, 2), n16], 1))
        local_key = self.to_local_key(torch.cat([n8, _double(n16)], 1))
        return FrameFeatures(f2, f4, f8, f16, _unit(key), _unit(local_key))

    def write(self, features: FrameFeatures, masks: Tensor) -> FrameValues:
        """What these frames add to memory. masks: (B, N, H/2, W/2) probabilities; objects of an image sum to <= 1."""
        value, local = self.value_encoder(features, masks)
        cells8, cells16 = F.avg_pool2d(masks, 4), F.avg_pool2d(masks, 8)
        inside = cells16.flatten(2)[:, :, None]  # (B, N, 1, L)
        flat = value.flatten(3)
        mean = [(flat * w).sum(3) / w.sum(3).clamp(min=1.0) for w in (inside, 1 - inside)]
        return FrameValues(
            key=features.key.flatten(2),
            value=torch.cat([flat, inside.to(flat.dtype)], 2),
            summary=torch.cat(mean, 2),
            local_key=features.local_key,
            local_value=torch.cat([local, cells8[:, :, None].to(local.dtype)], 2),
            mask=masks,
        )

    def read(self, features: FrameFeatures, memory: Memory, previous: FrameValues, top_k: int | None = None) -> Reading:
        """Masks of the objects of ``memory`` on these frames; ``previous`` is the frame just before.

        ``top_k`` takes the place of the configuration's.
        """
        top_k = self.config.top_k if top_k is None else top_k
        b, n = memory.value.shape[:2]
        h, w = features.stride16.shape[-2:]
        read, best = self._match(features.key.flatten(2), memory, top_k)  # (B, N (Cv + 1), L), (B, 1, L)
        local, local_best = self._match_locally(features.local_key, previous)
        read, local = read.reshape(b * n, -1, h, w), local.reshape(b * n, -1, *local.shape[-2:])
        logits, scores = self.decoder(
            features, read, best.view(b, 1, h, w), local, local_best,
            memory.summary.flatten(0, 1), previous.mask.flatten(0, 1)[:, None],
        )  # fmt: skip
        return Reading(
            logits=logits.view(b, n, *logits.shape[-2:]),
            presence=scores[:, 0].view(b, n),
            quality=scores[:, 1].view(b, n),
            prior=read[:, -1].view(b, n, h, w),
            local_prior=local[:, -1].view(b, n, *local.shape[-2:]),
        )

    def _match(self, key: Tensor, memory: Memory, top_k: int = 0) -> tuple[Tensor, Tensor]:
        """key (B, Ck, L) -> values read (B, N (Cv + 1), L), best cosine (B, 1, L)."""
        scale = self.sharpness[0].clamp(max=MAX_SHARPNESS).exp()
        query = (key * scale).transpose(1, 2)  # (B, L, Ck)
        values = memory.value.reshape(key.shape[0], -1, memory.value.shape[3])  # (B, N (Cv + 1), M)
        # on a CPU, blocks of queries whose affinities stay in the cache; training needs them all for its backward pass
        block = query.shape[1] if torch.is_grad_enabled() or query.is_cuda else CACHED_AFFINITIES // values.shape[2] + 1
        read, best = [], []
        for start in range(0, query.shape[1], block):
            affinity = query[:, start : start + block] @ memory.key  # (B, block, M)
            best.append(affinity.amax(2))
            read.append(values @ _weights(affinity, top_k).transpose(1, 2).to(values.dtype))
        return torch.cat(read, 2), torch.cat(best, 1)[:, None] / scale

    def _match_locally(self, key: Tensor, previous: FrameValues) -> tuple[Tensor, Tensor]:
        """key (B, Cl, h, w) -> values read (B, N, Cw + 1, h, w), best cosine (B, 1, h, w).

        The map is cut into tiles of TILE x TILE cells; a tile meets the cells around it, ``window`` more on each side,
        in one matrix product. S = TILE^2 queries, K = (TILE + 2 window)^2 keys, of which each query sees its window.
        """
        b, _, h, w = key.shape
        r = self.config.window
        n, cv = previous.local_value.shape[1:3]
        scale = self.sharpness[1].clamp(max=MAX_SHARPNESS).exp()
        query = _tiles(key * scale, 0)  # (B, tiles, Cl, S)
        keys = _tiles(previous.local_key, r)  # (B, tiles, Cl, K)
        values = _tiles(previous.local_value.flatten(1, 2), r)  # (B, tiles, N (Cw + 1), K)
        inside = _tiles(key.new_ones(1, 1, h, w), r)[0]  # (tiles, 1, K)
        affinity = query.transpose(2, 3) @ keys  # (B, tiles, S, K)
        affinity = affinity + (self._window_bias() + (inside - 1) * 1e4).to(affinity.dtype)
        best = affinity.amax(3)[:, :, None] / scale
        read = values @ affinity.softmax(3).transpose(2, 3).to(values.dtype)  # (B, tiles, N (Cw + 1), S)
        return _untile(read, h, w).view(b, n, cv, h, w), _untile(best, h, w)

    def _window_bias(self) -> Tensor:
        """(S, K): the learned bias of each offset inside the window of a tile's queries, -1e4 outside."""
        r, device = self.config.window, self.offset_bias.device
        offset = torch.arange(TILE + 2 * r, device=device) - torch.arange(TILE, device=device)[:, None]  # 0..2 r inside
        outside = (offset < 0) | (offset > 2 * r)  # (TILE, TILE + 2 r)
        offset = offset.clamp(0, 2 * r)
        bias = self.offset_bias[offset[:, None, :, None], offset[None, :, None, :]]
        bias = bias.masked_fill(outside[:, None, :, None] | outside[None, :, None, :], -1e4)
        return bias.reshape(TILE * TILE, -1)


def probabilities(logits: Tensor) -> Tensor:
    """(B, N, H, W) logits of each object against background -> probabilities of which a pixel's sum is <= 1.

    Softmax over the objects and a background whose logit is 0; with one object it is the sigmoid.
    """
    if logits.shape[1] == 1:
        return logits.sigmoid()
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).softmax(1)[:, 1:]


def _weights(affinity: Tensor, top_k: int) -> Tensor:
    """Softmax over the last axis, over the ``top_k`` largest alone if that is not 0."""
    if not 0 < top_k < affinity.shape[2]:
        return affinity.softmax(2)
    kept = affinity.topk(top_k, dim=2, sorted=False)
    return torch.zeros_like(affinity).scatter_(2, kept.indices, kept.values.softmax(2).to(affinity.dtype))


def _tiles(maps: Tensor, halo: int) -> Tensor:
    """(B, C, h, w) -> (B, tiles, C, (TILE + 2 halo)^2); the map is padded with zeros to whole tiles."""
    b, c, h, w = maps.shape
    maps = F.pad(maps, (halo, halo - w % -TILE, halo, halo - h % -TILE))
    tiles = maps.unfold(2, TILE + 2 * halo, TILE).unfold(3, TILE + 2 * halo, TILE)  # (B, C, th, tw, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(b, tiles.shape[2] * tiles.shape[3], c, -1)


def _untile(tiles: Tensor, h: int, w: int) -> Tensor:
    """(B, tiles, C, TILE^2) -> (B, C, h, w), the inverse of `_tiles` without halo."""
    b, _, c, _ = tiles.shape
    th, tw = -(-h // TILE), -(-w // TILE)
    maps = tiles.view(b, th, tw, c, TILE, TILE).permute(0, 3, 1, 4, 2, 5).reshape(b, c, th * TILE, tw * TILE)
    return maps[:, :, :h, :w]


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps, dim=1, eps=1e-4)


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
