"""DaViT: attention over windows of cells, then attention over groups of channels, in turn.

Paper: Ding et al., "DaViT: Dual Attention Vision Transformers" (arXiv:2204.03645), sections 3.2 and 3.3. SEEM's
variants differ from the paper's classifiers: channel attention scales by the number of *cells*, windows that reach
over the border are filled with zeros *after* the norm and not masked, there are no norms on the outputs, and
convolutions between the stages are preceded by a layer norm (SPEC §2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.backbones.parts import (
    DepthwiseConv,
    Mlp,
    Pyramid,
    channels_last,
    join_windows,
    split_windows,
    to_nchw,
    to_nhwc,
)


@dataclass(frozen=True)
class DaViTConfig:
    """What to build; `DAVIT_D3` and `DAVIT_D5` are the ones that SEEM's paper uses."""

    channels: tuple[int, int, int, int] = (128, 256, 512, 1024)
    heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    depths: tuple[int, int, int, int] = (1, 1, 9, 1)
    kernels: tuple[int, int, int, int] = (7, 2, 2, 2)
    paddings: tuple[int, int, int, int] = (3, 0, 0, 0)
    window: int = 7
    mlp_ratio: int = 4

    @property
    def size_divisor(self) -> int:
        """Height and width that SEEM feeds are multiples of this."""
        return 32

    def build(self) -> DaViT:
        """A network with untrained weights."""
        return DaViT(self)


DAVIT_D3 = DaViTConfig()
DAVIT_D5 = DaViTConfig(
    channels=(256, 512, 1024, 2048), heads=(8, 16, 32, 64), kernels=(7, 3, 3, 3), paddings=(3, 1, 1, 1)
)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of `window` x `window` cells; no position bias, no mask."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        B, H, W, _ = x.shape
        windows = split_windows(x, self.window)  # (n, T, C), T = window^2
        qkv = self.qkv(windows).view(*windows.shape[:2], 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, T, C / heads) each
        y = F.scaled_dot_product_attention(query, key, value)
        y = self.proj(y.transpose(1, 2).reshape(windows.shape))
        return join_windows(y, self.window, (B, H, W))


class ChannelAttention(nn.Module):
    """Channels of a group attend to each other; what they compare is their pattern over all cells of the map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        B, H, W, _ = x.shape
        N = H * W
        qkv = self.qkv(x).view(B, N, 3, self.groups, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, groups, N, C / groups) each
        affinity = (query * N**-0.5).transpose(-1, -2) @ key  # (B, groups, C / groups, C / groups)
        affinity = affinity.softmax(dim=-1, dtype=torch.float32).to(x.dtype)
        y = value @ affinity.transpose(-1, -2)  # (B, groups, N, C / groups)
        z: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return z


class DualBlock(nn.Module):
    """One half of the pair: depthwise convolution, attention, depthwise convolution, perceptron, each residual."""

    def __init__(self, channels: int, mlp_ratio: int, attention: nn.Module) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv(channels, 3)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.conv2 = DepthwiseConv(channels, 3)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.conv1(x)
        x = x + self.attn(self.norm1(x))
        x = x + self.conv2(x)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class DualAttention(nn.Module):
    """A window block and a channel block: between them, every cell and every channel has seen the others."""

    def __init__(self, channels: int, heads: int, config: DaViTConfig) -> None:
        super().__init__()
        window = WindowAttention(channels, heads, config.window)
        self.spatial_block = DualBlock(channels, config.mlp_ratio, window)
        self.channel_block = DualBlock(channels, config.mlp_ratio, ChannelAttention(channels, heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y: Tensor = self.channel_block(self.spatial_block(x))
        return y


class ConvEmbed(nn.Module):
    """Convolution that shrinks the map; the layer norm comes before it, and only for the image itself after it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.from_image = c_in == 3
        self.proj = nn.Conv2d(c_in, c_out, kernel, stride, padding)
        self.norm = nn.LayerNorm(c_out if self.from_image else c_in)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H/s, W/s, C')."""
        if not self.from_image:
            x = self.norm(x)
        x = to_nhwc(self.proj(to_nchw(x)))
        if self.from_image:
            x = self.norm(x)
        return x


class DaViT(nn.Module):
    """Image -> `Pyramid` of `config.channels`."""

    def __init__(self, config: DaViTConfig) -> None:
        super().__init__()
        self.config = config
        inputs, strides = (3, *config.channels[:3]), (4, 2, 2, 2)
        shapes = zip(inputs, config.channels, config.kernels, strides, config.paddings, strict=True)
        self.convs = nn.ModuleList(ConvEmbed(*shape) for shape in shapes)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(DualAttention(channels, heads, config) for _ in range(depth)))
            for channels, heads, depth in zip(config.channels, config.heads, config.depths, strict=True)
        )

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, 3, H, W), normalised by SEEM's mean and deviation -> features at strides 4, 8, 16, 32."""
        x = to_nhwc(channels_last(image))
        levels = []
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x = blocks(conv(x))
            levels.append(to_nchw(x))
        return Pyramid(*levels)
