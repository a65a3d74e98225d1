"""What one encoded image is: `Features`, shared by every object and every prompt on that image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """One image, encoded once.

    keys    (C, h, w) dense map for affinity, each cell L2-normalised; ``h = height / stride``
    stride  pixels of the *encoded* image (height x width) per cell of ``keys``
    height, width                 size of the encoded image, in pixels
    source_height, source_width   size of the image that was given; it was resized (not padded) to height x width
    levels  further feature maps (C_i, h_i, w_i), finest first, for whoever reads them; may be empty
    """

    keys: Tensor
    stride: int
    height: int
    width: int
    source_height: int
    source_width: int
    levels: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        h, w = self.height // self.stride, self.width // self.stride
        if self.keys.ndim != 3 or self.keys.shape[1:] != (h, w):
            raise ValueError(f"keys is (C, {h}, {w}), not {tuple(self.keys.shape)}")

    def __repr__(self) -> str:
        source = f"{self.source_width}x{self.source_height}"
        return f"Features(keys={tuple(self.keys.shape)}, stride={self.stride}, source={source})"
