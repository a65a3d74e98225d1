"""FocalNet: context gathered by depthwise convolutions of growing reach, gated per cell, instead of attention.

Paper: Yang et al., "Focal Modulation Networks" (arXiv:2203.11926), section 3 and figure 4. SEEM uses two variants that
differ from the paper's released image classifiers:

- Focal-T (``focal_dw``): two residual 3x3 depthwise convolutions per block, and each layer norm follows the residual
  *sum*; the stem pads by 3.
- Focal-L (``focal``): each layer norm sits on the *branch*, before the residual sum; the stem pads by 2.

Both: overlapping patch embeddings, layer scale, modulators divided by the number of context levels (SPEC §2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.backbones.parts import DepthwiseConv, Mlp, Pyramid, cell_by_cell, channels_last, to_nchw, to_nhwc


@dataclass(frozen=True)
class FocalNetConfig:
    """What to build; `FOCAL_T` and `FOCAL_L` are the two published ones."""

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    focal_levels: int = 3
    block: Literal["focal_dw", "focal"] = "focal_dw"
    mlp_ratio: int = 4

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2..res5."""
        c = self.embed_dim
        return c, 2 * c, 4 * c, 8 * c

    @property
    def size_divisor(self) -> int:
        """Height and width that SEEM feeds are multiples of this."""
        return 32

    def build(self) -> FocalNet:
        """A network with untrained weights."""
        return FocalNet(self)


FOCAL_T = FocalNetConfig()
FOCAL_L = FocalNetConfig(embed_dim=192, depths=(2, 2, 18, 2), focal_levels=4, block="focal")


class FocalModulation(nn.Module):
    """y = proj(q * h(sum_l gate_l * context_l)), equation 4 of the paper; contexts reach 3, 5, 7, ... cells and all.

    Kernel sizes start at 3 and grow by 2, each layer working on the output of the one before.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels = channels
        self.f = nn.Linear(channels, 2 * channels + levels + 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Linear(channels, channels)
        self.focal_layers = nn.ModuleList(DepthwiseConv(channels, 3 + 2 * i, bias=False) for i in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        contexts = self.contexts(x)
        return self.gather(x, *contexts)

    def contexts(self, x: Tensor) -> list[Tensor]:
        """What is around each cell, from near to everywhere: (B, H, W, C) -> levels of the same shape."""
        C = self.channels
        context = F.linear(x, self.f.weight[C : 2 * C], self.f.bias[C : 2 * C])
        near = []
        for layer in self.focal_layers:
            context = F.gelu(layer(context))
            near.append(context)
        everywhere = F.gelu(mean_of_cells(context))[:, None]  # (B, 1, 1, C)
        return [*near, everywhere.expand_as(context)]

    def gather(self, x: Tensor, *contexts: Tensor) -> Tensor:
        """What each cell takes of its contexts: (..., C) and levels of the same shape -> (..., C)."""
        C = self.channels
        # one projection per output: each comes out contiguous
        query = F.linear(x, self.f.weight[:C], self.f.bias[:C])
        gates = F.linear(x, self.f.weight[2 * C :], self.f.bias[2 * C :])
        gates = gates / gates.shape[-1]
        modulator = contexts[-1] * gates[..., -1:]
        for level, context in enumerate(contexts[:-1]):
            modulator = torch.addcmul(modulator, context, gates[..., level : level + 1])
        h = F.linear(modulator, self.h.weight.flatten(1), self.h.bias)  # a 1x1 convolution on (..., C)
        y: Tensor = self.proj(query * h)
        return y


def mean_of_cells(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, 1, C), as a product: a third of the time that a reduction takes in half precision."""
    cells = x.shape[1] * x.shape[2]
    share = 2.0 ** -(cells.bit_length() - 1)  # exact in every precision, and keeps the sum small
    total = x.new_full((1, cells), share) @ x.flatten(1, 2)
    return total * (1 / (share * cells))


class FocalBlock(nn.Module):
    """Modulation and perceptron, each added to its input after norm and layer scale (Focal-L)."""

    def __init__(self, channels: int, config: FocalNetConfig) -> None:
        super().__init__()
        self.modulation = FocalModulation(channels, config.focal_levels)
        self.mlp = Mlp(channels, config.mlp_ratio * channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.gamma_1 = nn.Parameter(torch.ones(channels))
        self.gamma_2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        C = self.modulation.channels
        x = cell_by_cell(self.modulate, x, *self.modulation.contexts(x), widest=4 * C)
        return cell_by_cell(self.refine, x, widest=self.mlp.fc1.out_features)

    def modulate(self, x: Tensor, *contexts: Tensor) -> Tensor:
        """Cells (..., C) and their contexts -> (..., C)."""
        return torch.addcmul(x, self.gamma_1, self.norm1(self.modulation.gather(x, *contexts)))

    def refine(self, x: Tensor) -> Tensor:
        """Cells (..., C) -> (..., C)."""
        return torch.addcmul(x, self.gamma_2, self.norm2(self.mlp.whole(x)))


class DepthwiseFocalBlock(FocalBlock):
    """The same with a residual 3x3 depthwise convolution before each half, and the norm after the sum (Focal-T)."""

    def __init__(self, channels: int, config: FocalNetConfig) -> None:
        super().__init__(channels, config)
        self.dw1 = DepthwiseConv(channels, 3)
        self.dw2 = DepthwiseConv(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        C = self.modulation.channels
        x = x + self.dw1(x)
        x = cell_by_cell(self.modulate, x, *self.modulation.contexts(x), widest=4 * C)
        x = x + self.dw2(x)
        return cell_by_cell(self.refine, x, widest=self.mlp.fc1.out_features)

    def modulate(self, x: Tensor, *contexts: Tensor) -> Tensor:
        """Cells (..., C) and their contexts -> (..., C)."""
        y: Tensor = self.norm1(torch.addcmul(x, self.gamma_1, self.modulation.gather(x, *contexts)))
        return y

    def refine(self, x: Tensor) -> Tensor:
        """Cells (..., C) -> (..., C)."""
        y: Tensor = self.norm2(torch.addcmul(x, self.gamma_2, self.mlp.whole(x)))
        return y


class PatchEmbed(nn.Module):
    """Overlapping convolution that shrinks the map, then a layer norm: (B, H, W, C) -> (B, H/s, W/s, C')."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, kernel, stride, padding)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(to_nhwc(self.proj(to_nchw(x))))
        return y


class FocalStage(nn.Module):
    """Blocks at one resolution, and the way to the next one."""

    def __init__(self, channels: int, depth: int, config: FocalNetConfig, last: bool) -> None:
        super().__init__()
        Block = DepthwiseFocalBlock if config.block == "focal_dw" else FocalBlock
        self.blocks = nn.ModuleList(Block(channels, config) for _ in range(depth))
        # An odd size needs no padding to even here: the convolution's own zero border gives the same windows.
        self.downsample = nn.Identity() if last else PatchEmbed(channels, 2 * channels, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, w, C) -> the same at this resolution, and (B, h/2, w/2, 2C) for the next stage, if any."""
        for block in self.blocks:
            x = block(x)
        return x, self.downsample(x)


class FocalNet(nn.Module):
    """Image -> `Pyramid` of `config.channels`."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(3, config.embed_dim, 7, 4, 3 if config.block == "focal_dw" else 2)
        self.layers = nn.ModuleList(
            FocalStage(channels, depth, config, last=i == 3)
            for i, (channels, depth) in enumerate(zip(config.channels, config.depths, strict=True))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in config.channels)

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, 3, H, W), normalised by SEEM's mean and deviation, any size -> features at strides 4 to 32."""
        H, W = image.shape[-2:]
        image = F.pad(image, (0, -W % 4, 0, -H % 4))
        x = self.patch_embed(to_nhwc(channels_last(image)))  # (B, H/4, W/4, C)
        levels = []
        for stage, norm in zip(self.layers, self.norms, strict=True):
            level, x = stage(x)
            levels.append(to_nchw(norm(level)))
        return Pyramid(*levels)
