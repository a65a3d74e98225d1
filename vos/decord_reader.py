"""A second reader behind the same contract: decord (an extra), for intact video files."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seem_core.errors import MissingExtraError, VideoError
from vos.frames import Frame, VideoInfo
from vos.video import PyavVideo

__all__ = ["DecordVideo"]

_ADVICE = "use the default reader, pyav, for this file"


class DecordVideo:
    """A video file whose frames decord decodes. See `VideoSource` for the contract.

    What there is to decode (sizes, count, times, rotation) is learnt by `PyavVideo`, so that both readers agree on the
    index of a frame; decord turns frames upright itself. There are no gaps: a frame that decord cannot decode is a
    VideoError that names the default reader, and so is a file of which decord counts other frames.

    Raises MissingExtraError if decord is not installed. Every iteration has its own reader, random access one more.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._decord = _import_decord()
        with PyavVideo(self._path) as video:
            self._video = video
        if video.gaps:
            raise VideoError(f"decord cannot read {self._path}: it is damaged; {_ADVICE}")
        self._lock = threading.Lock()
        self._random: Any = self._open()

    def __enter__(self) -> DecordVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self.info
        return f"DecordVideo({str(self._path)!r}, {info.codec}, {info.width}x{info.height}, {info.frames} frames)"

    @property
    def info(self) -> VideoInfo:
        return self._video.info

    @property
    def gaps(self) -> tuple[int, ...]:
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._video.warnings

    def __len__(self) -> int:
        return len(self._video)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __getitem__(self, index: int) -> Frame:
        index = operator.index(index)
        self.seconds(index)  # raises IndexError
        with self._lock:
            self._random = self._random or self._open()
            return self._read(self._random, index)

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        """See `VideoSource.frames`; decord skips to ``start`` by itself."""
        return self._stream(range(len(self))[start:stop:step])

    def seconds(self, index: int) -> float:
        return self._video.seconds(index)

    def restart(self, index: int) -> int:
        """See `PyavVideo.restart`."""
        return self._video.restart(index)

    def close(self) -> None:
        with self._lock:
            self._random = None

    def _stream(self, positions: range) -> Iterator[Frame]:
        reader = self._open()
        for position in positions:
            yield self._read(reader, position)

    def _open(self) -> Any:
        decord = self._decord
        try:
            reader = decord.VideoReader(str(self._path.absolute()), ctx=decord.cpu(0), num_threads=1)
        except (decord.DECORDError, RuntimeError, OSError) as error:
            raise VideoError(f"decord cannot open {self._path}; {_ADVICE}") from error
        if len(reader) != len(self):
            counts = f"it counts {len(reader)} frames, there are {len(self)}"
            raise VideoError(f"decord cannot read {self._path} reliably: {counts}; {_ADVICE}")
        return reader

    def _read(self, reader: Any, index: int) -> Frame:
        try:
            image = reader[index].asnumpy()
        except (self._decord.DECORDError, RuntimeError, StopIteration) as error:
            raise VideoError(f"decord cannot decode frame {index} of {self._path}; {_ADVICE}") from error
        if image.shape[:2] != (self.info.height, self.info.width):
            size = f"{image.shape[1]}x{image.shape[0]} instead of {self.info.width}x{self.info.height}"
            raise VideoError(f"decord gives frame {index} of {self._path} as {size}; {_ADVICE}")
        return Frame(index, self.seconds(index), np.require(image, np.uint8, ["C", "W"]))


def _import_decord() -> Any:
    """Decord, quiet. torch goes first where it is installed: the other order can crash when both load their OpenMP."""
    with suppress(ImportError):
        import torch  # noqa: F401
    try:
        import decord
    except ImportError as error:
        raise MissingExtraError('decord is not installed; install it with pip install "seem-vos[decord]"') from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord
