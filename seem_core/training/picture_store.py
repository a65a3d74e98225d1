"""All training pictures and label maps in one flat tensor on the training device, and bilinear sampling from it.

A pixel is four bytes, red, green, blue and object id, seen as one int32, so that one gather fetches a corner's colour
and label. Pictures of any size lie one after the other; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        start, height, width = (t[frame][:, None, None] for t in (self.start, self.height, self.width))
        columns = list(_two_neighbours(xy[0] - 0.5, width))
        rows = [(start + row * width, weight) for row, weight in _two_neighbours(xy[1] - 0.5, height)]
        colour = torch.zeros(*xy.shape[1:], 3, device=xy.device)
        masks = torch.zeros(len(frame), ids.shape[1], *xy.shape[2:], device=xy.device)
        wanted = torch.where(ids > 0, ids, -1)[:, :, None, None]  # id 0 must not match the background
        for row, down in rows:
            for column, across in columns:
                weight = down * across
                pixel = self.pixels[row + column]
                colour.addcmul_(pixel.view(torch.uint8).view(*pixel.shape, 4)[..., :3], weight[..., None])
                label = (pixel >> 24) & 255
                for n in range(ids.shape[1]):
                    masks[:, n].addcmul_(label == wanted[:, n], weight)
        covered = (columns[0][1] + columns[1][1]) * (rows[0][1] + rows[1][1])
        colour += FILL * (1 - covered)[..., None]
        return colour.permute(0, 3, 1, 2), masks


def _two_neighbours(at: Tensor, size: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For a coordinate of pixel centres, the pixels on both sides, inside 0..size-1, and their linear weights (0 for
    a pixel outside)."""
    first = at.floor()
    share = at - first
    first = first.long()
    for pixel, weight in ((first, 1 - share), (first + 1, share)):
        yield pixel.clamp(min=0).minimum(size - 1), weight * ((pixel >= 0) & (pixel < size))
