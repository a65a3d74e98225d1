"""Tiny generated clips with known truth: a bright square that moves over a textured ground."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.errors import VideoError
from vos.frames import Frame, VideoInfo

HEIGHT, WIDTH = 48, 64
SIDE = 16


def square(index: int) -> npt.NDArray[np.bool_]:
    """(HEIGHT, WIDTH) true mask of the square on a frame: two pixels to the right per frame, then back."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    way = WIDTH - SIDE
    x = 2 * index % (2 * way)
    x = min(x, 2 * way - x)
    mask[16 : 16 + SIDE, x : x + SIDE] = True
    return mask


def picture(index: int) -> npt.NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) RGB frame."""
    image = np.random.default_rng(0).integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[square(index)] = (230, 120, 40)
    return image


def write_clip(path: Path, frames: int = 12) -> Path:
    """An H.264 file of 24 frames per second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        out.mux(stream.encode())
    return path


def write_mask(path: Path, index: int = 0, value: int = 255) -> Path:
    """The true mask of a frame as a grey PNG of 0 and ``value``."""
    Image.fromarray(square(index) * np.uint8(value)).save(path)
    return path


class Clip:
    """The same clip as a source in memory; ``missing`` frames cannot be decoded, ``broken`` raises what it is given."""

    def __init__(
        self, frames: int = 12, missing: tuple[int, ...] = (), broken: dict[int, Exception] | None = None
    ) -> None:
        self.info = VideoInfo(Path("clip.mp4"), HEIGHT, WIDTH, Fraction(24), frames, None, 0, False, "h264")
        self.missing, self.broken = missing, broken or {}
        self.gaps: tuple[int, ...] = ()
        self.closed = False

    @property
    def warnings(self) -> tuple[str, ...]:
        return (f"{len(self.gaps)} frames cannot be decoded",) if self.gaps else ()

    def __len__(self) -> int:
        return self.info.frames

    def __getitem__(self, index: int) -> Frame:
        if index in self.missing:
            raise VideoError(f"frame {index} cannot be decoded")
        return Frame(index, self.seconds(index), picture(index))

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        for i in range(len(self))[start:stop:step]:
            if i in self.broken:
                raise self.broken[i]
            if i in self.missing:
                self.gaps = (*self.gaps, i)
            else:
                yield self[i]

    def seconds(self, index: int) -> float:
        return index / 24

    def close(self) -> None:
        self.closed = True
