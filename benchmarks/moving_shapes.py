"""Clips to measure and to disturb batches with: two shapes that drift over a textured ground, and their first mask."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vos.label_files import write_labels
from vos.video_writer import VideoWriter

RATE = 25


def write_clips(folder: Path, clips: int, frames: int, size: tuple[int, int], seed: int = 8) -> tuple[str, ...]:
    """Make ``clips`` videos of ``size`` (width, height), each with the mask of its first frame; returns their names."""
    names = tuple(f"clip{number:02d}" for number in range(clips))
    for number, name in enumerate(names):
        scene = Scene(size, seed + number)
        write_labels(folder / f"{name}.png", scene.labels(0))
        with VideoWriter(folder / f"{name}.mp4", size[1], size[0], Fraction(RATE)) as out:
            for index, picture in enumerate(scene.pictures(frames)):
                out.write(picture, index / RATE)
    return names


class Scene:
    """A disc (object 1) and a square (object 2) with textures, speeds and places of their own."""

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        chance = np.random.default_rng(seed)
        self._width, self._height = size
        self._side = min(size) // 4
        self._ground = _texture(chance, (self._height, self._width), (20, 110))
        self._skins = [_texture(chance, (self._side, self._side), (130, 250)) for _ in range(2)]
        shares = chance.uniform(0, 1, (2, 2)) * (0.35, 1) + np.array([[0, 0], [0.65, 0]])  # one on the left, one right
        self._places = shares * (self._width - self._side, self._height - self._side)
        self._speeds = chance.uniform(-1, 1, (2, 2)) * self._side / 12  # pixels per frame
        disc = np.zeros((self._side, self._side), np.uint8)
        cv2.circle(disc, (self._side // 2, self._side // 2), self._side // 2 - 1, 1, -1)
        self._shapes = [disc.astype(np.bool_), np.ones((self._side, self._side), np.bool_)]

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W) 1 and 2 where the objects are."""
        found = np.zeros((self._height, self._width), np.uint8)
        for number, shape in enumerate(self._shapes):
            found[self._window(number, index)][shape] = number + 1
        return found

    def pictures(self, frames: int) -> Iterator[npt.NDArray[np.uint8]]:
        """(H, W, 3) RGB, ``frames`` of them."""
        for index in range(frames):
            image = self._ground.copy()
            for number, shape in enumerate(self._shapes):
                image[self._window(number, index)][shape] = self._skins[number][shape]
            yield image

    def _window(self, number: int, index: int) -> tuple[slice, slice]:
        way = np.array([self._width - self._side, self._height - self._side])
        place = np.abs(
            (self._places[number] + self._speeds[number] * index + way) % (2 * way) - way
        )  # back at a border
        x, y = (int(value) for value in place.round())
        return slice(y, y + self._side), slice(x, x + self._side)


def _texture(chance: np.random.Generator, size: tuple[int, int], values: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) smooth noise between two grey levels."""
    coarse = chance.integers(*values, (max(2, size[0] // 6), max(2, size[1] // 6), 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
