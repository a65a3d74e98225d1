"""Small video files with known frames, written by PyAV: each picture shows its own number in black and white blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from vos.frames import Frame

COUNT = 60  # frames of a usual clip
GOPS = {"g": "12", "bf": "3", "x264-params": "scenecut=0"}  # closed groups of 12 pictures with B-frames
BITS = 12  # numbers 0..4095, in two rows of six blocks


def numbered(number: int, height: int = 48, width: int = 96) -> npt.NDArray[np.uint8]:
    """(height, width, 3) A picture whose blocks are the bits of ``number``, on a grey that changes with it."""
    image = np.full((height, width, 3), 64 + number % 128, np.uint8)
    for bit in range(BITS):
        image[_block(bit, height, width)] = 230 if number >> bit & 1 else 20
    return image


def number_of(image: npt.NDArray[np.uint8]) -> int:
    """The number that a decoded picture shows."""
    bits = (image[_block(bit, *image.shape[:2])].mean() > 125 for bit in range(BITS))
    return sum(bool(value) << bit for bit, value in enumerate(bits))


def _block(bit: int, height: int, width: int) -> tuple[slice, slice]:
    row, column = divmod(bit, BITS // 2)
    h, w = height // 2, width // (BITS // 2)
    return slice(row * h + 2, (row + 1) * h - 2), slice(column * w + 2, (column + 1) * w - 2)


def write_numbered(
    path: Path,
    images: Iterable[npt.NDArray[np.uint8]],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    rate: int = 25,
    muxer: Mapping[str, str] | None = None,
) -> Path:
    """Encode images at ``rate`` frames per second, or at ``ticks`` milliseconds."""
    with av.open(str(path), "w", options=dict(muxer or {})) as container:
        stream = None
        for number, image in enumerate(images):
            if stream is None:
                stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=dict(options or {})))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = Fraction(1, rate) if ticks is None else Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = Fraction(1, rate) if ticks is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return path


def rewrite_packets(path: Path, out: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """Copy the packets of a video to another container; ``change`` gets place and bytes of each."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for place, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            changed = av.Packet(change(place, bytes(packet)))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.duration, changed.is_keyframe, changed.stream = packet.duration, packet.is_keyframe, copy
            target.mux(changed)
    return out


def has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def assert_same(a: Frame, b: Frame) -> None:
    assert (a.index, a.seconds, a.name) == (b.index, b.seconds, b.name)
    np.testing.assert_array_equal(a.image, b.image)
