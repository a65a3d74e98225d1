"""All training pictures and label maps in one flat tensor on the training device, and bilinear sampling from it.

A pixel is four bytes, red, green, blue and object id, seen as one int32, so that one gather fetches a corner's colour
and label. Pictures of any size lie one after the other; nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seem_core.training.pack import IGNORED_VALUE, Pack

FILL = 118.0  # colour beyond the border of a picture


@dataclass(frozen=True, eq=False)
class PictureStore:
    """pixels (P,) int32; per frame the place of its first pixel (F,) int64, and its height and width (F,) int64."""

    pixels: Tensor
    start: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def of(cls, pack: Pack, device: str | torch.device = "cpu", workers: int | None = None) -> PictureStore:
        """Decode every frame of ``pack``; frame f of clip c comes in the order of the pack."""
        sizes = np.array([(f.height, f.width) for clip in pack.clips for f in clip.frames], np.int64)
        start = np.r_[0, np.cumsum(sizes.prod(1))]
        pixels = np.empty((int(start[-1]), 4), np.uint8)
        for i, (image, labels) in enumerate(pack.decode_all(workers)):
            rows = pixels[start[i] : start[i + 1]]
            rows[:, :3] = image.reshape(-1, 3)
            rows[:, 3] = np.where(labels == IGNORED_VALUE, 0, labels).reshape(-1)
        flat = torch.from_numpy(pixels).view(torch.int32)[:, 0]
        place = (torch.from_numpy(a) for a in (start[:-1], sizes[:, 0], sizes[:, 1]))
        return cls(flat.to(device), *(t.contiguous().to(device) for t in place))

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def sample(self, frame: Tensor, xy: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Bilinear samples of frames (F,) at ``xy``, two (F, S, S) maps of pixel coordinates (centre of the first
        pixel: 0.5); ``ids`` (F, N) are object ids, 0 for none.

        Returns colour (F, 3, S, S) in 0..255, FILL outside, and soft masks (F, N, S, S) in 0..1, 0 outside.
        """
        x, y = xy[0] - 0.5, xy[1] - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = x - left, y - top
        left, top = left.long(), top.long()
        start, height, width = (t[frame][:, None, None] for t in (self.start, self.height, self.width))
        colour = torch.zeros(len(frame), 3, *x.shape[1:], device=x.device)
        masks = torch.zeros(len(frame), ids.shape[1], *x.shape[1:], device=x.device)
        covered = torch.zeros_like(x)
        wanted = torch.where(ids > 0, ids, -1)[:, :, None, None]  # id 0 must not match the background
        for dy in (0, 1):
            for dx in (0, 1):
                cx, cy = left + dx, top + dy
                weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
                weight = weight * ((cx >= 0) & (cx < width) & (cy >= 0) & (cy < height))
                place = start + cy.clamp(min=0).minimum(height - 1) * width + cx.clamp(min=0).minimum(width - 1)
                pixel = self.pixels[place]
                covered += weight
                for channel in range(3):
                    colour[:, channel] += ((pixel >> (8 * channel)) & 255) * weight
                label = ((pixel >> 24) & 255)[:, None]
                masks += (label == wanted) * weight[:, None]
        return colour + FILL * (1 - covered)[:, None], masks
