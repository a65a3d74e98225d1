"""A crop of the picture at a working size, and prompts brought to it: strokes drawn, boxes filled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Soft = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in picture pixels, both corners inside

_LARGEST_SCALE = 1.5  # small pictures are enlarged by so much at most
_LEAST = 8  # working pixels, at least, each way


@dataclass(frozen=True)
class Stroke:
    """A click, or a scribble: (K, 2) x, y in image pixels. Its surroundings say the same as a click itself, while a
    scribble may run along a border."""

    points: npt.NDArray[np.float64]
    width: float
    positive: bool
    is_click: bool = False

    @property
    def box(self) -> Box:
        (x0, y0), (x1, y1) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return x0, y0, x1, y1


def hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


@dataclass(frozen=True)
class Window:
    """A crop of the picture (left, top, right, bottom in its pixels, right and bottom excluded) at (h, w)."""

    left: int
    top: int
    right: int
    bottom: int
    h: int
    w: int

    @classmethod
    def around(cls, box: Box, margin: float, shape: tuple[int, int], side: float) -> Window:
        """The box (corners inside) with ``margin`` of its size on every side; its longer side becomes ``side``."""
        width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
        left, right = max(0, int(box[0] - margin * width)), min(shape[1], int(box[2] + margin * width) + 2)
        top, bottom = max(0, int(box[1] - margin * height)), min(shape[0], int(box[3] + margin * height) + 2)
        scale = min(_LARGEST_SCALE, side / max(width, height))
        h, w = max(_LEAST, round((bottom - top) * scale)), max(_LEAST, round((right - left) * scale))
        return cls(left, top, right, bottom, h, w)

    @property
    def scale(self) -> tuple[float, float]:
        """Working pixels per picture pixel, in x and y."""
        return self.w / (self.right - self.left), self.h / (self.bottom - self.top)

    def crop(self, full: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return full[self.top : self.bottom, self.left : self.right]

    def shrink(self, full: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The crop of (H, W) or (H, W, C) at working size."""
        part = np.ascontiguousarray(self.crop(full))
        smaller = self.h * self.w < part.shape[0] * part.shape[1]
        return cv2.resize(part, (self.w, self.h), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

    def grid(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Picture coordinates of working pixels: x (w,) and y (h, 1)."""
        fx, fy = self.scale
        x = (np.arange(self.w, dtype=np.float64) + 0.5) / fx + self.left - 0.5
        y = (np.arange(self.h, dtype=np.float64)[:, None] + 0.5) / fy + self.top - 0.5
        return x, y

    def drawn(self, strokes: Iterable[Stroke], least: int) -> Mask:
        """(h, w) Pixels under the strokes, each at least ``least`` wide."""
        fx, fy = self.scale
        paths: dict[int, list[npt.NDArray[np.int32]]] = {}  # by half width: cv2 draws broad lines too broad
        for stroke in strokes:
            x = (stroke.points[:, 0] + 0.5 - self.left) * fx
            y = (stroke.points[:, 1] + 0.5 - self.top) * fy
            half = max(least, round(stroke.width * min(fx, fy))) // 2
            paths.setdefault(half, []).append(np.floor(np.stack([x, y], axis=1)).astype(np.int32))
        drawn = np.zeros((self.h, self.w), np.bool_)
        for half, lines in paths.items():
            elsewhere = np.ones((self.h, self.w), np.uint8)
            cv2.polylines(elsewhere, [np.concatenate([line, line[-1:]]) for line in lines], False, 0, 1)
            drawn |= cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= half
        return drawn

    def extent(self, mask: Mask) -> Box:
        """Box around a (h, w) mask in picture coordinates; all of the window if it is empty."""
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8)) if mask.any() else (0, 0, self.w, self.h)
        fx, fy = self.scale
        return self.left + x / fx, self.top + y / fy, self.left + (x + w) / fx - 1, self.top + (y + h) / fy - 1

    def taken_over(self, values: Soft, source: Window) -> Soft:
        """(h, w) Values of another window on this one's grid; its outermost ones where it does not reach."""
        x, y = self.grid()
        fx, fy = source.scale
        map_x = np.broadcast_to((x + 0.5 - source.left) * fx - 0.5, (self.h, self.w)).astype(np.float32)
        map_y = np.broadcast_to((y + 0.5 - source.top) * fy - 0.5, (self.h, self.w)).astype(np.float32)
        moved = cv2.remap(values, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved, dtype=np.float32)

    def in_box(self, box: Box) -> Mask:
        """(h, w) Pixels of which a part lies in the box."""
        x, y = self.grid()
        half_x, half_y = 0.5 / self.scale[0], 0.5 / self.scale[1]
        return np.asarray((x > box[0] - half_x) & (x < box[2] + half_x) & (y > box[1] - half_y) & (y < box[3] + half_y))

    def ellipse(self, box: Box) -> Soft:
        """(h, w) Radius of each pixel in the ellipse that touches the box: 1 on it."""
        x, y = self.grid()
        radius = np.hypot(
            (x - (box[0] + box[2]) / 2) / ((box[2] - box[0] + 1) / 2),
            (y - (box[1] + box[3]) / 2) / ((box[3] - box[1] + 1) / 2),
        )
        return radius.astype(np.float32)
