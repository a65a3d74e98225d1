"""Areas that annotation tools draw, as masks of the frames they are for: `Scaling`, `fill_polygons`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.coco_masks import fill_polygon
from seem_core.errors import MaskError
from vos.picture_limit import check_pixels

Mask: TypeAlias = npt.NDArray[np.bool_]  # (H, W)
Points: TypeAlias = tuple[tuple[float, float], ...]  # (x, y)
Size: TypeAlias = tuple[int, int]  # (H, W)

_SAME_SHAPE = 0.02  # relative difference of the aspect ratios of two sizes of one picture


@dataclass(frozen=True)
class Scaling:
    """From the picture that was drawn on, of size ``source``, to the frame of size ``target``."""

    source: Size
    target: Size

    @classmethod
    def of(cls, source: Size, target: Size, place: str) -> Scaling:
        """Raises MaskError that begins with ``place`` where the two are not one picture in two sizes, or the first is
        above the limit of pictures."""
        (h, w), (H, W) = source, target
        check_pixels(w, h, f"{place.removesuffix(': ')}: the picture that it was drawn on", MaskError)
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
    """(H, W) bool: pixels whose centre lies in any of the polygons; points are in pixels, centres on whole numbers."""
    mask = np.zeros(size, np.bool_)
    for points in polygons:
        mask |= fill_polygon(np.asarray(points, np.float64) + 0.5, *size)
    return mask
