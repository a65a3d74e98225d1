"""Pictures into an MP4 file at the times they were shown: `VideoWriter` (H.264 where FFmpeg has an encoder for it)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from seem_core.errors import OutputError, VosError
from vos.writing import writing

_BT709 = 1  # ISO/IEC 23091-2: primaries, transfer and matrix of BT.709 all have this number

# Encoder -> ticks per second and options, best first. 360,000 ticks hit every usual frame rate and time base exactly;
# MPEG-4 Part 2 allows 65,535 at most.
_ENCODERS: dict[str, tuple[int, dict[str, str]]] = {
    "libx264": (360_000, {"preset": "veryfast", "crf": "20"}),
    "libopenh264": (360_000, {}),
    "mpeg4": (60_000, {}),
}
_BITS_PER_PIXEL = 0.15  # for encoders that are told a rate instead of a quality


class VideoWriter:
    """Writes (H, W, 3) RGB pictures with their times. Close it, or use it in a ``with``; then the file is whole.

    Odd heights and widths are padded by one row or column, because colour is stored for 2x2 pixels. ``rate`` is a hint
    for the encoder and the duration of the last picture; what counts is each picture's time.

    Raises OutputError where no encoder is there or the place cannot be written, DiskFullError without room.
    """

    def __init__(self, path: Path, height: int, width: int, rate: Fraction) -> None:
        self.path = path
        self.encoder = pick_encoder()
        self._pad = (height % 2, width % 2)
        self._ticks, options = _ENCODERS[self.encoder]
        self._duration = max(1, round(self._ticks / rate))
        self._last = -1
        self._failed = False  # FFmpeg must not be given another packet after it could not write one
        self._scaler = VideoReformatter()
        with encoding(path):
            self._container = av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"})
            self._stream = self._add_stream(height + height % 2, width + width % 2, rate, options)

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.encoder == "libx264":
            return ()
        return (f"this build of FFmpeg lacks libx264; the video was made with {self.encoder}, larger and less sharp",)

    def write(self, image: npt.NDArray[np.uint8], seconds: float) -> None:
        """Add a picture shown from ``seconds`` on; a time not after the one before is moved behind it."""
        if self._pad != (0, 0):
            image = np.pad(image, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = self._scaler.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._last = max(self._last + 1, round(seconds * self._ticks))
        frame.pts, frame.time_base = self._last, Fraction(1, self._ticks)
        self._encode(frame)

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        try:
            if self._last >= 0 and not self._failed:
                self._encode(None)
        finally:
            with encoding(self.path):
                self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except VosError:
            if error is None:
                raise

    def _add_stream(self, height: int, width: int, rate: Fraction, options: dict[str, str]) -> VideoStream:
        stream = self._container.add_stream(self.encoder, rate=rate, options=options)
        assert isinstance(stream, VideoStream)  # the type checker's: the name of a video encoder was given
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, self._ticks)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # limited
        if not options:
            context.bit_rate = round(height * width * min(60, float(rate)) * _BITS_PER_PIXEL)
        return stream

    def _encode(self, frame: VideoFrame | None) -> None:
        self._failed = True
        with encoding(self.path):
            for packet in self._stream.encode(frame):
                packet.duration = self._duration  # only the last one's counts: the others last until the next
                self._container.mux(packet)
        self._failed = False


def pick_encoder() -> str:
    """The best encoder that this build of FFmpeg has. Raises OutputError if it has none."""
    for name in _ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        return name
    raise OutputError(f"this build of FFmpeg has none of the encoders {', '.join(_ENCODERS)}; install PyAV's own wheel")


def encoding(path: Path) -> AbstractContextManager[None]:
    """`vos.writing.writing` for what FFmpeg writes."""
    return writing(path, (av.error.FFmpegError,))
