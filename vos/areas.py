"""Areas that annotation tools draw, as masks of the frames they are for: `Scaling`, `fill_polygons`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError

Mask: TypeAlias = npt.NDArray[np.bool_]  # (H, W)
Points: TypeAlias = tuple[tuple[float, float], ...]  # (x, y)
Size: TypeAlias = tuple[int, int]  # (H, W)

_FINER = 4  # a pixel belongs to a polygon that covers half of its 4 x 4 parts
_SAME_SHAPE = 0.02  # relative difference of the aspect ratios of two sizes of one picture


@dataclass(frozen=True)
class Scaling:
    """From the picture that was drawn on, of size ``source``, to the frame of size ``target``."""

    source: Size
    target: Size

    @classmethod
    def of(cls, source: Size, target: Size, place: str) -> Scaling:
        """Raises MaskError that begins with ``place`` where the two are not one picture in two sizes."""
        (h, w), (H, W) = source, target
        if abs(w * H / (h * W) - 1) > _SAME_SHAPE:
            raise MaskError(f"{place.removesuffix(': ')}: it was drawn on a picture of {w}x{h}, the video is {W}x{H}")
        return cls(source, target)

    def points(self, points: Points) -> Points:
        """Points in pixels from the corner of the picture -> pixels of the frame, (0, 0) the first one's centre.

        What lies outside is brought to the frame's edge.
        """
        (h, w), (H, W) = self.source, self.target
        scaled = ((x * W / w - 0.5, y * H / h - 0.5) for x, y in points)
        return tuple((min(max(x, -0.5), W - 0.5), min(max(y, -0.5), H - 0.5)) for x, y in scaled)

    def mask(self, mask: Mask) -> Mask:
        """(h, w) bool of the picture -> (H, W) bool of the frame."""
        if self.source == self.target:
            return mask
        share = cv2.resize(mask.astype(np.float32), self.target[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(share >= 0.5)


def fill_polygons(polygons: Iterable[Points], size: Size) -> Mask:
    """(H, W) bool: all that lies in any of the polygons, whose points are in pixels, centres on whole numbers."""
    mask = np.zeros(size, np.bool_)
    for points in polygons:
        corners = np.asarray(points, np.float64)  # (N, 2) x, y
        x0, y0 = (max(0, int(v)) for v in np.floor(corners.min(0) + 0.5))
        x1, y1 = (min(n, int(v)) for n, v in zip(size[::-1], np.ceil(corners.max(0) + 0.5), strict=True))
        if x0 >= x1 or y0 >= y1:
            continue
        canvas = np.zeros(((y1 - y0) * _FINER, (x1 - x0) * _FINER), np.uint8)
        fine = (corners + 0.5 - (x0, y0)) * _FINER - 0.5
        cv2.fillPoly(canvas, [np.round(fine * 256).astype(np.int32)], 255, shift=8)
        share = cv2.resize(canvas, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        mask[y0:y1, x0:x1] |= share >= 128
    return mask
