"""Videos in: awkward real files with their outcome written down, and generated clips with known truth."""

from __future__ import annotations

import gc
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from numbered_clips import COUNT, GOPS, assert_same, has_encoder, number_of, numbered, rewrite_packets, write_numbered
from real_videos import FILES, READABLE, Expected
from support import require

from seem_core.errors import VideoError
from vos import video_decoder
from vos.frames import Frame, VideoSource
from vos.prefetch import prefetch
from vos.video import PyavVideo, open_video
from vos.video_index import _vp8_is_shown, _vp9_is_shown
from vos.wording import ranges

OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}


def test_the_table_names_every_file(data_root: Path) -> None:
    assert {path.name for path in (data_root / "videos").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", READABLE)
def test_real_file(data_root: Path, name: str) -> None:
    expected = FILES[name]
    assert isinstance(expected, Expected)
    source = open_video(data_root / "videos" / name)
    assert isinstance(source, VideoSource)
    info = source.info
    assert (info.frames, info.frames_declared, len(source)) == (expected.frames, expected.declared, expected.frames)
    assert (info.height, info.width) == expected.size
    assert (info.rate, info.codec) == (expected.rate, expected.codec)
    assert (info.rotation, info.has_audio) == (expected.rotation, expected.audio)

    wanted = {0, 1, expected.frames // 3, expected.frames // 2, expected.frames - 1} - set(expected.gaps)
    kept: dict[int, Frame] = {}
    seen, times = [], []
    for frame in source:
        assert frame.image.shape == (*expected.size, 3)
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable
        seen.append(frame.index)
        times.append(frame.seconds)
        if frame.index in wanted:
            kept[frame.index] = frame
    assert seen == [index for index in range(expected.frames) if index not in expected.gaps]
    assert times[0] == 0
    assert all(earlier < later for earlier, later in pairwise(times))
    assert times[-1] == pytest.approx((expected.frames - 1) / float(expected.rate), abs=0.1)
    np.testing.assert_allclose(kept[0].image.mean((0, 1)), expected.first, atol=0.5)
    np.testing.assert_allclose(kept[expected.frames - 1].image.mean((0, 1)), expected.last, atol=0.5)
    assert source.gaps == expected.gaps
    assert len(source.warnings) == bool(expected.gaps)

    for index in sorted(wanted, key=lambda index: index * 7919 % 101):
        assert_same(source[index], kept[index])
    for index in expected.gaps:
        with pytest.raises(VideoError, match=f"frame {index} of {name}"):
            source[index]
    source.close()


@pytest.mark.parametrize("name", [name for name, outcome in FILES.items() if isinstance(outcome, str)])
def test_real_file_without_a_frame(data_root: Path, name: str) -> None:
    with pytest.raises(VideoError, match=str(FILES[name])):
        open_video(data_root / "videos" / name)


@pytest.mark.parametrize("name", ["bikes.mp4", "corrupted.mp4", "av1_video.mkv"])
def test_strides_equal_the_iterated_frames(data_root: Path, name: str) -> None:
    source = open_video(data_root / "videos" / name)
    every = {frame.index: frame for frame in source.frames(3, None, 11)}
    some = {frame.index: frame for frame in source if frame.index in every}
    assert every.keys() == some.keys() == set(range(3, len(source), 11)) - set(source.gaps)
    for index, frame in every.items():
        assert_same(frame, some[index])


def shown(frames: Iterator[Frame]) -> list[int]:
    numbers = []
    for frame in frames:
        numbers.append(number_of(frame.image))
        assert numbers[-1] == frame.index
    return numbers


@dataclass(frozen=True)
class Clip:
    name: str
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (48, 96)
    options: tuple[tuple[str, str], ...] = ()
    seeks: bool = True  # whether random access gets along without decoding from the start of the file
    rate: int = 25


def clip(name: str, *, options: dict[str, str] | None = None, **fields: object) -> Clip:
    return Clip(name, options=tuple((options or {}).items()), **fields)  # type: ignore[arg-type]


MPEG = {"bf": "2", "g": "12"}
CLIPS = [
    clip("b-frames.mp4", options=GOPS),
    clip("b-frames.mkv", options=GOPS),
    clip("b-frames.ts", options=GOPS),
    clip("b-frames.avi", options=GOPS, seeks=False),  # no presentation times in the container
    clip("b-frames.h264", options=GOPS, seeks=False),  # no times at all
    clip("open-gop.mp4", options=OPEN_GOPS),
    clip("open-gop.mkv", options=OPEN_GOPS),
    clip("intra-refresh.mkv", options={"x264-params": "intra-refresh=1:keyint=12"}, seeks=False),
    clip("mpeg4.avi", codec="mpeg4", options=MPEG, seeks=False),
    clip("mpeg2.mpg", codec="mpeg2video", options=MPEG, seeks=False),
    clip("mpeg2.ts", codec="mpeg2video", options=MPEG),
    clip("mjpeg.avi", codec="mjpeg", pix_fmt="yuvj420p"),
    clip("odd.webm", codec="libvpx", size=(49, 97), options={"g": "12"}),
    clip("odd-lossless.mkv", codec="ffv1", size=(49, 97), options={"g": "12"}),
    clip("odd-444.mp4", pix_fmt="yuv444p", size=(49, 97), options=GOPS),
    clip("ten-bit.mkv", pix_fmt="yuv420p10le", options=GOPS),
    clip("same-times.mkv", codec="ffv1", options={"g": "1"}, rate=2500),  # stamps are milliseconds
    clip("picture.gif", codec="gif", pix_fmt="rgb8", seeks=False),
]


@pytest.mark.parametrize("case", CLIPS, ids=lambda case: case.name)
def test_generated_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Clip) -> None:
    require(has_encoder(case.codec), f"this FFmpeg has no encoder {case.codec}")
    path = write_numbered(
        tmp_path / case.name,
        (numbered(number, *case.size) for number in range(COUNT)),
        codec=case.codec,
        pix_fmt=case.pix_fmt,
        options=dict(case.options),
        rate=case.rate,
    )
    source = open_video(path)
    assert (source.info.height, source.info.width) == case.size
    assert float(source.info.rate) == pytest.approx(case.rate, rel=0.02)
    frames = list(source)
    assert shown(iter(frames)) == list(range(COUNT))
    assert source.gaps == source.warnings == ()
    assert shown(source.frames(17, 50, 4)) == list(range(17, 50, 4))

    starts: list[int] = []
    rewind = video_decoder.VideoDecoder._restart
    monkeypatch.setattr(
        video_decoder.VideoDecoder, "_restart", lambda self: (starts.append(self._floor), rewind(self))[1]
    )
    for index in (30, 59, 24, 23, 25, 58, 36, 22, 41):
        assert_same(source[index], frames[index])
    if case.seeks:
        assert starts == []
    source.close()


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    ticks = [number * 40 + (number % 3) * 13 + (500 if number > 30 else 0) for number in range(COUNT)]
    path = write_numbered(tmp_path / "a.mkv", (numbered(number) for number in range(COUNT)), options=GOPS, ticks=ticks)
    source = open_video(path)
    assert shown(iter(source)) == list(range(COUNT))
    assert [source.seconds(index) for index in range(COUNT)] == pytest.approx([tick / 1000 for tick in ticks])
    assert source[31].seconds == source.seconds(31)
    with pytest.raises(IndexError):
        source.seconds(COUNT)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_codec_threads_change_nothing(tmp_path: Path, threads: int) -> None:
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(COUNT)), options=GOPS)
    source = open_video(path, threads=threads)
    assert shown(iter(source)) == list(range(COUNT))
    assert [number_of(source[index].image) for index in (50, 3, 24)] == [50, 3, 24]


def test_several_iterations_at_once(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(COUNT)), options=GOPS)
    source = open_video(path)
    with prefetch(source.frames(20), depth=2) as ahead:
        for one, two in zip(source, ahead, strict=False):
            assert number_of(one.image) == one.index
            assert number_of(two.image) == two.index == one.index + 20
            assert number_of(source[59 - one.index].image) == 59 - one.index


# A display matrix of ISO/IEC 14496-12, 6.2.2, and what it does to a picture (rows, columns).
MATRICES: dict[str, tuple[tuple[int, int, int, int], int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]]] = {
    "0": ((1, 0, 0, 1), 0, lambda image: image),
    "90": ((0, 1, -1, 0), 90, lambda image: np.rot90(image, -1)),
    "180": ((-1, 0, 0, -1), 180, lambda image: np.rot90(image, 2)),
    "270": ((0, -1, 1, 0), 270, lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), 0, lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), 180, lambda image: image[::-1]),
    "90 and mirrored": ((0, 1, 1, 0), 90, lambda image: np.rot90(image, -1)[:, ::-1]),
    "270 and mirrored": ((0, -1, -1, 0), 270, lambda image: np.rot90(image, 1)[:, ::-1]),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_display_matrix_is_applied(tmp_path: Path, turn: str) -> None:
    (a, b, c, d), degrees, apply = MATRICES[turn]
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in (5, 300, 77)), options=GOPS)
    plain = [frame.image for frame in open_video(path)]
    data = bytearray(path.read_bytes())
    one = 1 << 16
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)

    source = open_video(path)
    assert source.info.rotation == degrees
    for frame, image in zip(source, plain, strict=True):
        np.testing.assert_array_equal(frame.image, apply(image))
        assert frame.image.shape == (source.info.height, source.info.width, 3)
        assert_same(source[frame.index], frame)


def test_frames_cut_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    """media_time of the edit list (ISO/IEC 14496-12, 8.6.6) moved ten frames on: the first ten are not shown."""
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(COUNT)), options=GOPS)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16
    (start,) = struct.unpack(">i", data[at : at + 4])
    with av.open(str(path)) as container:
        per_frame = round(Fraction(1, 25) / container.streams.video[0].time_base)
    data[at : at + 4] = struct.pack(">i", start + 10 * per_frame)
    path.write_bytes(data)
    source = open_video(path)
    assert len(source) == COUNT - 10
    assert [number_of(frame.image) - frame.index for frame in source] == [10] * (COUNT - 10)
    assert source.seconds(0) == 0
    assert source.gaps == ()
    assert number_of(source[30].image) == 40


@pytest.mark.parametrize(("codec", "bit"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
def test_hidden_reference_frames_are_not_counted(tmp_path: Path, codec: str, bit: int) -> None:
    """The key frames at 12 and 36 lose their show_frame bit: decoded, used by the frames after them, not shown."""
    require(has_encoder(codec), f"this FFmpeg has no encoder {codec}")
    path = write_numbered(
        tmp_path / "a.webm",
        (numbered(number) for number in range(COUNT)),
        codec=codec,
        options={"g": "12", "keyint_min": "12", "lag-in-frames": "0", "cpu-used": "8", "deadline": "realtime"},
    )

    def hide(place: int, data: bytes) -> bytes:
        return bytes([data[0] & ~bit]) + data[1:] if place in (12, 36) else data

    source = open_video(rewrite_packets(path, tmp_path / "hidden.mkv", hide))
    visible = [number for number in range(COUNT) if number not in (12, 36)]
    assert len(source) == COUNT - 2
    assert [number_of(frame.image) for frame in source] == visible
    assert [number_of(source[index].image) for index in (40, 12, 11)] == [visible[index] for index in (40, 12, 11)]
    assert source.gaps == ()


def test_headers_that_say_whether_a_frame_is_shown() -> None:
    assert _vp8_is_shown(memoryview(b"\x10\x00"))
    assert not _vp8_is_shown(memoryview(b"\x00\x00"))
    assert _vp9_is_shown(memoryview(bytes([0b10001000, 0])))  # show_existing_frame
    assert _vp9_is_shown(memoryview(bytes([0b10000110, 0])))  # inter frame, shown
    assert not _vp9_is_shown(memoryview(bytes([0b10000100, 0])))
    assert _vp9_is_shown(memoryview(bytes([0b10000100, 0, 0b11000000])))  # superframe: its last frame is shown
    assert _vp9_is_shown(memoryview(bytes([0b10110001, 0])))  # profile 3 has a reserved bit before
    assert not _vp9_is_shown(memoryview(bytes([0b10110000, 0])))


def test_stream_that_changes_its_size(tmp_path: Path) -> None:
    one = write_numbered(tmp_path / "1.h264", (numbered(number) for number in range(10)))
    two = write_numbered(tmp_path / "2.h264", (numbered(number, 96, 192) for number in range(10, 20)))
    both = tmp_path / "both.h264"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    source = open_video(both)
    assert shown(iter(source)) == list(range(20))
    assert all(frame.image.shape == (48, 96, 3) for frame in source)
    assert source.warnings == ("both.h264 changes its picture size; all frames are scaled to 96x48",)


def test_gap_lists_are_short() -> None:
    assert ranges((3,)) == "3"
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert ranges(tuple(range(0, 100, 2))) == "0, 2, 4, 6, 8, 10, 12, 14, ..."


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """2,000 frames: only those in the queue, in the making and in our hands are alive; nothing else piles up."""
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(2000)), options=GOPS)
    source = PyavVideo(path)
    sizes: list[int] = []
    alive: list[int] = []
    tracemalloc.start()
    try:
        with prefetch(source, depth=4) as frames:
            for frame in frames:
                assert number_of(frame.image) == frame.index
                if frame.index in (500, 1990):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                    alive.append(sum(type(thing) is Frame for thing in gc.get_objects()))
    finally:
        tracemalloc.stop()
    assert max(alive) <= 4 + 2
    assert sizes[1] - sizes[0] < 20_000  # bytes; a frame is 13,824, and there are 1,490 of them between
