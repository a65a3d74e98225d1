"""What flows through the pipeline: `Frame` in, `FrameResult` out; `VideoInfo` and `VideoSource` say where from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trackers.base import ObjectMasks


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    index    position in the source's presentation order, from 0; a frame that could not be decoded leaves a gap
    seconds  presentation time from the first frame
    image    (H, W, 3) uint8 RGB, contiguous, upright (rotation applied); the frame's own copy
    name     stem of the image file for folders of images, else None (masks of image folders keep such names)
    """

    index: int
    seconds: float
    image: npt.NDArray[np.uint8]
    name: str | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"a frame's image is (H, W, 3) uint8 RGB, not {self.image.shape} {self.image.dtype}")

    def __repr__(self) -> str:
        return f"Frame(index={self.index}, seconds={self.seconds:.3f}, image={self.image.shape})"


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a source before and after it was read.

    height, width    pixels, upright (after rotation)
    rate             mean frames per second (a folder of images: 24 unless it was given)
    frames           number of frames in the index = the length of the source (image count, or packets demuxed)
    frames_declared  what the container's header says, None where it says nothing
    rotation         degrees, clockwise, that were applied: 0, 90, 180 or 270
    has_audio        whether there is an audio stream
    codec            short name, "images" for folders
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    frames: int
    frames_declared: int | None
    rotation: int
    has_audio: bool
    codec: str


@runtime_checkable
class VideoSource(Protocol):
    """Frames of one video, in presentation order.

    Iterating yields every frame that can be decoded; ``gaps`` then lists the indices that could not. ``source[i]`` is
    exact random access and gives the frame of that index; it raises IndexError outside 0..len-1, VideoError for a gap.
    """

    @property
    def info(self) -> VideoInfo: ...

    @property
    def gaps(self) -> tuple[int, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        """The decodable frames of ``range(len)[start:stop:step]``, without decoding more than the codec needs."""
        ...

    def seconds(self, index: int) -> float:
        """Presentation time of a frame, from the index alone."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class FrameResult:
    """One frame and the objects found on it."""

    frame: Frame
    masks: ObjectMasks
