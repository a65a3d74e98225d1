"""Any video as a `VideoSource`: `open_video` picks the reader; the default one is `PyavVideo`."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from seem_core.errors import VideoError
from vos.container import open_media
from vos.frames import Frame, VideoInfo, VideoSource
from vos.images import IMAGE_SUFFIXES, ImageSequence
from vos.video_decoder import VideoDecoder
from vos.video_index import build_index
from vos.wording import ranges

__all__ = ["PyavVideo", "Reader", "open_video", "shown_size"]

Reader = Literal["pyav", "decord"]

# Without a destination matrix PyAV before 17 takes every source matrix for BT.601. From 17 on its scaler starts threads
# of its own unless told not to, which costs more than it gains.
_SCALER: dict[str, Any] = {"dst_colorspace": "DEFAULT"}
if int(av.__version__.split(".")[0]) >= 17:
    _SCALER["threads"] = 1

# Clockwise degrees of a display matrix's signs; of a mirrored one, degrees before left and right are swapped.
_DEGREES = {
    (1, 0, 0, 1): 0,
    (0, 1, -1, 0): 90,
    (-1, 0, 0, -1): 180,
    (0, -1, 1, 0): 270,
    (-1, 0, 0, 1): 0,
    (0, 1, 1, 0): 90,
    (1, 0, 0, -1): 180,
    (0, -1, -1, 0): 270,
}


def open_video(
    path: str | PathLike[str], *, reader: Reader = "pyav", rate: Fraction | float | None = None, threads: int = 1
) -> VideoSource:
    """Open a video file, a folder of images (a DAVIS sequence is one), or a single image.

    reader   who decodes video files: "pyav", or "decord" (extra; intact files only)
    rate     frames per second of a folder of images, 24 if None; a video file has its own
    threads  threads that the codec of a video file may use. With more than one, an intact file gives the same frames,
             a damaged one may hide its damage differently

    Raises VideoError if there is nothing to decode, MissingExtraError if decord is asked for and not installed.
    """
    path = Path(path)
    if os.path.isdir(path) or path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSequence(path, Fraction(24) if rate is None else Fraction(rate).limit_denominator(1001))
    if rate is not None:
        raise VideoError(f"a rate can be given for a folder of images only, and {path} has its own; leave the rate out")
    if reader == "decord":
        from vos.decord_reader import DecordVideo

        return DecordVideo(path)
    if reader != "pyav":
        raise VideoError(f"there is no reader {reader!r}; use 'pyav' or 'decord'")
    return PyavVideo(path, threads)


class PyavVideo:
    """A video file read by PyAV (FFmpeg). See `VideoSource` for the contract.

    Image sizes are those of the coded pixels after rotation and mirroring by the display matrix; pixels that are not
    square stay as they are, and a stream that changes its size half-way is scaled to the size of its first frame.
    YUV becomes RGB by swscale: matrix (BT.601, BT.709, BT.2020) and range as each frame declares them, BT.601 and
    limited range where it declares none; chroma is not interpolated. HDR transfer curves are not tone-mapped.

    Every iteration has its own decoder, so several may run at once; random access has one more, guarded by a lock.
    """

    def __init__(self, path: str | PathLike[str], threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"the number of codec threads must be at least 1, not {threads}")
        self._path = Path(path)
        self._threads = threads
        with open_media(self._path) as media:
            codec = media.codec
            declared = media.stream.frames or None
            has_audio = bool(media.container.streams.audio)
        self._index = build_index(self._path)
        self._gaps: set[int] = set()
        self._resized = self._damaged = False
        self._lock = threading.Lock()
        self._random: VideoDecoder | None = None
        first = self._first_frame()
        self._coded = (first.height, first.width)
        self._matrix = _display_matrix(first)
        height, width = shown_size(first)
        self._info = VideoInfo(
            path=self._path,
            height=height,
            width=width,
            rate=self._index.rate,
            frames=len(self._index),
            frames_declared=declared,
            rotation=_DEGREES[self._matrix],
            has_audio=has_audio,
            codec=codec,
        )

    def __enter__(self) -> PyavVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self.info
        return f"PyavVideo({str(self._path)!r}, {info.codec}, {info.width}x{info.height}, {info.frames} frames)"

    @property
    def info(self) -> VideoInfo:
        return self._info

    @property
    def gaps(self) -> tuple[int, ...]:
        return tuple(sorted(self._gaps))

    @property
    def damaged(self) -> bool:
        """Whether a packet was damaged on the way to the frames that were read so far, also where they came out."""
        return self._damaged

    @property
    def warnings(self) -> tuple[str, ...]:
        found, declared = self._info.frames, self._info.frames_declared
        texts = []
        if declared is not None and declared > found:
            texts.append(f"{self._path.name} ends early: its header promises {declared} frames, {found} are there")
        if self._gaps:
            texts.append(
                f"{len(self._gaps)} of {found} frames of {self._path.name} cannot be decoded: {ranges(self.gaps)}"
            )
        if self._resized:
            height, width = self._coded
            texts.append(f"{self._path.name} changes its picture size; all frames are scaled to {width}x{height}")
        return tuple(texts)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __getitem__(self, index: int) -> Frame:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is outside 0..{len(self) - 1} of {self._path.name}")
        with self._lock:
            frame = None
            if index not in self._gaps:
                self._random = self._random or self._decoder()
                frame = self._random.read(index)
            if frame is None:
                self._gaps.add(index)
                raise VideoError(f"frame {index} of {self._path.name} cannot be decoded; choose another frame")
            return self._to_frame(index, frame, self._scaler)

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        """See `VideoSource.frames`: decoding begins at the key packet before ``start``."""
        return self._stream(range(len(self))[start:stop:step])

    def seconds(self, index: int) -> float:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is outside 0..{len(self) - 1} of {self._path.name}")
        return float(self._index.seconds[index])

    def restart(self, index: int) -> int:
        """The frame at which decoding begins when frame ``index`` is asked for: a key frame at or before it."""
        return min(index, max(0, int(self._index.position[self._index.begin[index]])))

    def close(self) -> None:
        with self._lock:
            if self._random is not None:
                self._random.close()
                self._random = None

    @cached_property
    def _scaler(self) -> VideoReformatter:
        return VideoReformatter()

    def _decoder(self) -> VideoDecoder:
        return VideoDecoder(self._path, self._index, self._threads)

    def _first_frame(self) -> VideoFrame:
        with closing(self._decoder()) as decoder:
            for position in range(len(self)):
                frame = decoder.read(position)
                if frame is not None:
                    return frame
                self._gaps.add(position)
        raise VideoError(f"cannot read {self._path}: none of its {len(self)} frames can be decoded")

    def _stream(self, positions: range) -> Iterator[Frame]:
        scaler = VideoReformatter()  # not safe for several threads: one per iteration
        with closing(self._decoder()) as decoder:
            for position in positions:
                frame = decoder.read(position)
                self._damaged |= decoder.damaged
                if frame is None:
                    self._gaps.add(position)
                else:
                    yield self._to_frame(position, frame, scaler)

    def _to_frame(self, index: int, frame: VideoFrame, scaler: VideoReformatter) -> Frame:
        height, width = self._coded
        same = (frame.height, frame.width) == self._coded
        self._resized |= not same
        rgb = scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation="POINT" if same else "BICUBIC",  # POINT: what the fast path for 8-bit 4:2:0 does as well
            **_SCALER,
        )
        image = _upright(np.asarray(rgb.to_ndarray(), np.uint8), self._matrix)
        return Frame(index, self.seconds(index), np.require(image, np.uint8, ["C", "W"]))


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """(H, W) of a decoded frame when it stands upright."""
    return (frame.width, frame.height) if _is_transposed(_display_matrix(frame)) else (frame.height, frame.width)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Signs of (a, b, c, d): a pixel at (x, y) of the coded picture belongs at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # 3x3 fixed point, as the QuickTime format has it
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 0, _sign(b), _sign(c), 0
    return _sign(a), 0, 0, _sign(d)


def _sign(value: int) -> int:
    return -1 if value < 0 else 1


def _is_transposed(matrix: tuple[int, int, int, int]) -> bool:
    return matrix[0] == 0


def _upright(image: npt.NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) Coded picture turned in quarters and mirrored as the matrix says; a view."""
    a, b, c, d = matrix
    if _is_transposed(matrix):
        image = image.swapaxes(0, 1)
    return image[:: d + b, :: a + c]
