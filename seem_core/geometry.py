"""From a picture's pixels to the network's padded input and back, for images, points and masks: one place.

Three frames, all with pixel (x, y), x to the right, y down, (0, 0) the centre of the top left pixel:
*source* is the picture as given; *image* is it resized to be encoded; *padded* is the network's input, the image at the
top left and zeros on the right and below. Sizes are (height, width). Source: SPEC §6.2, §7.1, §8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from seem_core.errors import LimitError, MaskError, PromptError

Size = tuple[int, int]
Interpolation = Literal["bilinear", "bicubic"]
MAX_PIXELS = 1 << 24
"""Largest padded input, in pixels; a picture of extreme shape would grow beyond any memory when its short side does."""


@dataclass(frozen=True)
class InputSize:
    """How large an image is made before it is encoded: short side `short`, long side at most `longest` (None: any)."""

    short: int
    longest: int | None = None


@dataclass(frozen=True)
class Geometry:
    """Where one picture lies in the network's input."""

    source: Size
    image: Size
    padded: Size

    @classmethod
    def plan(cls, source: Size, input_size: InputSize, divisor: int) -> Geometry:
        """Resize by the rule of `input_size`, then pad to multiples of `divisor`.

        Raises LimitError where the result would have more than `MAX_PIXELS`.
        """
        image = resized_size(source, input_size)
        padded = (image[0] + -image[0] % divisor, image[1] + -image[1] % divisor)
        if padded[0] * padded[1] > MAX_PIXELS:
            raise LimitError(
                f"a picture of {source[1]}x{source[0]} would be encoded as {padded[1]}x{padded[0]}; "
                f"crop it, or limit its longest side"
            )
        return cls(source, image, padded)

    # --- in ---

    def points_to_image(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n, 2) (x, y) of the source to the same places of the resized image, pixel centres being whole numbers."""
        return _scale_points(points, self.source, self.image)

    def points_to_source(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n, 2) (x, y) of the resized image back to the source."""
        return _scale_points(points, self.image, self.source)

    def pixel_to_image(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of the image pixel that holds a source point; PromptError where it lies outside."""
        h, w = self.source
        if not (-0.5 <= x < w - 0.5 and -0.5 <= y < h - 0.5):
            raise PromptError(f"point {x:g},{y:g} lies outside the image of {w}x{h}")
        (px, py), *_ = self.points_to_image([(x, y)])
        return min(max(round(px), 0), self.image[1] - 1), min(max(round(py), 0), self.image[0] - 1)

    def mask_to_padded(self, mask: Tensor) -> Tensor:
        """(N, H, W) bool on the source to (N, H', W') bool on the padded input.

        Resized bilinearly as bytes, as the published demo does with its canvas: whatever is at least half a grey level
        counts, so that thin strokes grow a little and never vanish.
        """
        if mask.dtype != torch.bool or tuple(mask.shape[1:]) != self.source:
            raise MaskError(
                f"masks are (N, {self.source[0]}, {self.source[1]}) bool, not {tuple(mask.shape)} {mask.dtype}"
            )
        grey = mask.to("cpu", torch.uint8)[:, None] * 255
        resized = F.interpolate(grey, size=self.image, mode="bilinear") if self.image != self.source else grey
        return self.pad(resized[:, 0] > 0).to(mask.device)

    def pad(self, maps: Tensor) -> Tensor:
        """(..., h, w) of the resized image to (..., H, W) padded with zeros."""
        return F.pad(maps, (0, self.padded[1] - self.image[1], 0, self.padded[0] - self.image[0]))

    # --- out ---

    def logits_to_image(self, logits: Tensor, mode: Interpolation = "bilinear") -> Tensor:
        """(N, h, w) logits on the padded input at any stride to (N, H, W) on the resized image."""
        full = F.interpolate(logits[None], size=self.padded, mode=mode, align_corners=False)[0]
        return full[:, : self.image[0], : self.image[1]]

    def logits_to_source(self, logits: Tensor, mode: Literal["bilinear", "bicubic", "panoptic"] = "bilinear") -> Tensor:
        """(N, h, w) logits on the padded input to (N, H, W) on the source, in the two steps of the official code.

        First to the padded size and cropped, then to the source size: `bilinear` twice for prompted masks of v0 and
        v1, `bicubic` twice for the demo's, `panoptic` bilinear and then bicubic with antialias.
        """
        if mode == "panoptic":
            return resize_maps(self.logits_to_image(logits), self.source, "bicubic", antialias=True)
        return resize_maps(self.logits_to_image(logits, mode), self.source, mode)


def resize_maps(maps: Tensor, size: Size, mode: Interpolation, antialias: bool = False) -> Tensor:
    """(N, h, w) to (N, *size); unchanged where the size is already right."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[None], size=size, mode=mode, align_corners=False, antialias=antialias)[0]


def resized_size(source: Size, input_size: InputSize) -> Size:
    """Size to which a picture is resized before it is encoded.

    Scaled until the short side is `short`, or the long one `longest`, whichever comes first; the other side is rounded
    down.
    """
    near, far = min(source), max(source)
    short, long = input_size.short, input_size.short * far // near
    if input_size.longest is not None and input_size.short * far > input_size.longest * near:
        short, long = max(input_size.longest * near // far, 1), input_size.longest
    return (short, long) if source[0] <= source[1] else (long, short)


def resize_image(image: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB to (*size, 3), bicubic with antialias as Pillow does it (all published figures are so)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _scale_points(points: npt.ArrayLike, source: Size, target: Size) -> npt.NDArray[np.float64]:
    """(n, 2) (x, y) between two sizes of one picture: edges map to edges."""
    factor = np.array([target[1] / source[1], target[0] / source[0]])
    scaled: npt.NDArray[np.float64] = (np.asarray(points, np.float64) + 0.5) * factor - 0.5
    return scaled
