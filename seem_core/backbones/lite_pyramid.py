"""EfficientNet-Lite0 as a backbone of SEEM: the trunk's outputs at strides 4 to 32, its batch norms folded.

The norms' statistics are ImageNet's and stay so: each is one scale and shift, merged into its convolution, which may
be trained on (batches are small, and the same file then serves training and use).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from seem_core.backbones.efficientnet_lite import EfficientNetLiteConfig, load_lite0
from seem_core.backbones.parts import Pyramid, channels_last

_BLOCKS = 15  # the last block widens to 320 channels for the classifier: left out
_TAPS = (2, 4, 10, 14)  # the last block at each stride


@dataclass(frozen=True)
class LitePyramidConfig:
    """What to build; there is one."""

    channels: tuple[int, int, int, int] = (24, 40, 112, 192)

    @property
    def size_divisor(self) -> int:
        """Height and width that SEEM feeds are multiples of this."""
        return 32

    def build(self) -> LitePyramid:
        """A network with untrained weights."""
        return LitePyramid()


LITE0 = LitePyramidConfig()


class LitePyramid(nn.Module):
    """Image -> `Pyramid` of 24, 40, 112 and 192 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNetLiteConfig(blocks=_BLOCKS).build().fold()

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, 3, H, W), normalised as ``(x - 127) / 128``, any size -> features at strides 4, 8, 16, 32."""
        return Pyramid(*self.trunk.features(channels_last(image), _TAPS))

    def load_imagenet(self) -> None:
        """Take ImageNet's weights from the extra train. Raises MissingExtraError without it, CheckpointError."""
        self.trunk.load_state_dict(load_lite0(_BLOCKS).fold().state_dict(), strict=True)
