"""Synthetic scenes for tracker tests: textured objects moving over a textured ground, with their true masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Position = tuple[int, int] | None  # centre (x, y), or None where the object is not in the picture


@dataclass(frozen=True)
class Scene:
    """images: (H, W, 3) uint8 RGB; masks: per frame, per object (H, W) bool."""

    images: list[npt.NDArray[np.uint8]]
    masks: list[list[npt.NDArray[np.bool_]]]


def ground(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth greenish noise at several scales."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64):
        noise = rng.random((cells, cells, 3), np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture *= np.array([40, 70, 30], np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def sprite(index: int, radius: int) -> npt.NDArray[np.uint8]:
    """A square picture to cut a disc from: a checkerboard, stripes or dots, each in its own colours."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    period = max(2, radius // 4)
    pattern = [((x // period) + (y // period)) % 2, (y // period) % 2, ((x % period) ** 2 + (y % period) ** 2) % 2][
        index % 3
    ].astype(bool)
    colours = [((220, 30, 30), (250, 230, 220)), ((30, 40, 210), (240, 220, 40)), ((200, 60, 200), (20, 20, 20))]
    dark, light = colours[index % 3]
    return np.where(pattern[..., None], np.array(light), np.array(dark)).astype(np.uint8)


def scene(paths: list[list[Position]], height: int = 180, width: int = 320, radius: int = 28, shift: int = 2) -> Scene:
    """One frame per entry of ``paths`` (a position per object); the ground moves by ``shift`` pixels a frame."""
    wide = ground(height, width + shift * len(paths))
    sprites = [sprite(i, radius) for i in range(max(map(len, paths), default=0))]
    disc = cv2.circle(np.zeros((2 * radius + 1,) * 2, np.uint8), (radius, radius), radius, 1, -1) > 0
    images, masks = [], []
    for frame, places in enumerate(paths):
        image = wide[:, shift * frame : shift * frame + width].copy()
        found = []
        for picture, place in zip(sprites, places, strict=True):
            mask = np.zeros((height, width), np.bool_)
            if place is not None:
                _paste(image, mask, picture, disc, place)
                for below in found:
                    below &= ~mask
            found.append(mask)
        images.append(image)
        masks.append(found)
    return Scene(images, masks)


def _paste(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    picture: npt.NDArray[np.uint8],
    disc: npt.NDArray[np.bool_],
    centre: tuple[int, int],
) -> None:
    radius = disc.shape[0] // 2
    (x, y), (height, width) = centre, mask.shape
    top, bottom, left, right = (
        max(0, y - radius),
        min(height, y + radius + 1),
        max(0, x - radius),
        min(width, x + radius + 1),
    )
    if top >= bottom or left >= right:
        return
    cut = slice(top - y + radius, bottom - y + radius), slice(left - x + radius, right - x + radius)
    mask[top:bottom, left:right] = disc[cut]
    image[top:bottom, left:right][disc[cut]] = picture[cut][disc[cut]]


def iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union
