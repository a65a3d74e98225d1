"""Videos in: awkward real files with their outcome written down, generated clips with known truth, files refused."""

from __future__ import annotations

import gc
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import wave
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.stream import AudioStream
from numbered_clips import number_of, numbered, write_numbered
from PIL import Image
from support import require

from seem_core.errors import MissingExtraError, VideoError
from vos import video_decoder
from vos.container import reading
from vos.frames import Frame, VideoSource
from vos.prefetch import prefetch
from vos.video import PyavVideo, open_video, ranges
from vos.video_index import _vp8_is_shown, _vp9_is_shown, build_index

COUNT = 60
GOPS = {"g": "12", "bf": "3", "x264-params": "scenecut=0"}
OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}


@dataclass(frozen=True)
class Expected:
    """What a file of the data set gives; colours are the mean RGB of the first and the last frame."""

    frames: int
    declared: int | None
    size: tuple[int, int]  # height, width
    rate: Fraction
    codec: str
    first: tuple[float, float, float]
    last: tuple[float, float, float]
    rotation: int = 0
    audio: bool = False
    gaps: tuple[int, ...] = ()
    decord: str | None = None  # why decord does not read it; None: it does


def fps(numerator: int, denominator: int = 1) -> Fraction:
    return Fraction(numerator, denominator)


CANNOT_OPEN, CANNOT_DECODE = "decord cannot open", "decord cannot decode"

# Colours were seen in both readers, or, where decord does not read the file, in OpenCV's.
FILES: dict[str, Expected | str] = {
    "01_dog.mp4": Expected(
        289, 289, (720, 1280), fps(30000, 1001), "h264", (144.7, 143.4, 124.4), (144.7, 143.6, 124.4), audio=True
    ),
    "AudioVideoInterleave.avi": "its video stream holds no frame",  # a stub: header and cut index
    "av1_video.mkv": Expected(
        125, None, (360, 640), fps(25), "av1", (120.0, 129.1, 127.7), (120.5, 128.4, 124.4), decord=CANNOT_OPEN
    ),
    "bikes.mp4": Expected(250, 250, (272, 640), fps(25), "h264", (141.7, 133.3, 129.4), (80.4, 80.0, 74.6)),
    "corrupted.mp4": Expected(  # one packet is broken; what depends on it comes out with blemishes
        50,
        50,
        (720, 1280),
        fps(10),
        "h264",
        (122.2, 128.7, 128.6),
        (122.9, 129.7, 127.5),
        gaps=(30,),
        decord=CANNOT_DECODE,
    ),
    "h264_10bits.mp4": Expected(30, 30, (200, 200), fps(30), "h264", (114.6, 117.1, 124.8), (117.0, 117.9, 124.1)),
    "newtonscradle.gif": Expected(  # the header says 50 fps; frames last 2 or 5 hundredths of a second
        36, 36, (150, 200), fps(175, 4), "gif", (194.5, 194.5, 194.5), (194.5, 194.5, 194.5), decord=CANNOT_OPEN
    ),
    "no_duration.webm": Expected(
        74,
        None,
        (720, 1280),
        fps(15000, 1001),
        "vp9",
        (1.1, 4.9, 3.2),
        (1.5, 5.9, 4.0),
        audio=True,
        decord=CANNOT_OPEN,
    ),
    "realshort.mp4": Expected(
        36, 36, (240, 320), fps(45000, 1499), "h264", (154.2, 157.7, 154.1), (138.6, 152.5, 150.4), audio=True
    ),
    "video_90.mov": Expected(3, 3, (568, 320), fps(30), "h264", (104.4, 93.8, 85.8), (104.7, 94.1, 86.0), rotation=90),
    "video_with_failing_audio.mp4": Expected(
        280, 280, (360, 640), fps(25), "h264", (180.4, 190.9, 198.3), (1.8, 1.8, 1.8), audio=True
    ),
}
READABLE = [name for name, outcome in FILES.items() if isinstance(outcome, Expected)]


def assert_same(a: Frame, b: Frame) -> None:
    assert (a.index, a.seconds, a.name) == (b.index, b.seconds, b.name)
    np.testing.assert_array_equal(a.image, b.image)


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
    require(_has_encoder(case.codec), f"this FFmpeg has no encoder {case.codec}")
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


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


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


@pytest.mark.parametrize(("codec", "bit"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
def test_hidden_reference_frames_are_not_counted(tmp_path: Path, codec: str, bit: int) -> None:
    """The key frames at 12 and 36 lose their show_frame bit: decoded, used by the frames after them, not shown."""
    require(_has_encoder(codec), f"this FFmpeg has no encoder {codec}")
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


@pytest.mark.parametrize("threads", [1, 2])
def test_broken_packets_leave_gaps_and_masks_do_not_slip(tmp_path: Path, threads: int) -> None:
    """Lossless intra frames with a checksum: a broken one is refused, the others do not depend on it."""
    path = write_numbered(
        tmp_path / "a.mov", (numbered(number) for number in range(COUNT)), codec="png", pix_fmt="rgb24"
    )
    bad = (0, 7, 8, 9, 31, COUNT - 1)

    def spoil(place: int, data: bytes) -> bytes:
        return b"\x00" * len(data) if place in bad else data

    source = open_video(rewrite_packets(path, tmp_path / "bad.mov", spoil), threads=threads)
    good = [number for number in range(COUNT) if number not in bad]
    assert [frame.index for frame in source] == good
    assert [number_of(frame.image) for frame in source] == good
    assert source.gaps == bad
    assert source.info.frames == COUNT
    assert source.warnings == ("6 of 60 frames of bad.mov cannot be decoded: 0, 7-9, 31, 59",)
    with pytest.raises(VideoError, match="frame 8 of"):
        source[8]
    assert number_of(source[10].image) == 10

    with closing(video_decoder.VideoDecoder(source.info.path, build_index(source.info.path))) as decoder:
        assert decoder.read(7) is None
        assert len(decoder._ready) <= 4  # it does not wait for a lost frame to the end of the file


@pytest.mark.parametrize("broken", [13, 20, 24])
def test_damage_within_a_group_of_pictures_stays_there(tmp_path: Path, broken: int) -> None:
    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(COUNT)), options=GOPS)

    def spoil(place: int, data: bytes) -> bytes:
        return data[:5] + bytes(255 - byte for byte in data[5:]) if place == broken else data

    source = open_video(rewrite_packets(path, tmp_path / "bad.mkv", spoil))
    frames = {frame.index: frame for frame in source}
    assert frames.keys() == set(range(COUNT)) - set(source.gaps)
    group = range(12 * (broken // 12), 12 * (broken // 12) + 12)
    assert all(gap in group for gap in source.gaps)
    assert all(number_of(frame.image) == index for index, frame in frames.items() if index not in group)
    again = open_video(source.info.path)  # knows of no gap yet
    for index in (50, 13, 30, 22, 35, 26, 5):
        if index in frames:
            assert_same(again[index], frames[index])


def test_file_that_ends_early(tmp_path: Path) -> None:
    images = [np.random.default_rng(number).integers(0, 256, (48, 96, 3), np.uint8) // 4 for number in range(COUNT)]
    images = [numbered(number) // 2 + image for number, image in enumerate(images)]
    path = write_numbered(tmp_path / "a.mp4", images, options=GOPS, muxer={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_video(path)
    frames = list(source)
    assert source.info.frames_declared == COUNT
    assert 20 < len(frames) < 40
    assert len(frames) + len(source.gaps) == len(source) == source.info.frames < COUNT
    assert source.warnings[0] == f"a.mp4 ends early: its header promises 60 frames, {len(source)} are there"

    path = write_numbered(tmp_path / "a.mkv", images, options=GOPS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_video(path)
    frames = list(source)
    assert 20 < len(frames) < 40
    assert len(frames) + len(source.gaps) == len(source)


def test_stream_that_changes_its_size(tmp_path: Path) -> None:
    one = write_numbered(tmp_path / "1.h264", (numbered(number) for number in range(10)))
    two = write_numbered(tmp_path / "2.h264", (numbered(number, 96, 192) for number in range(10, 20)))
    both = tmp_path / "both.h264"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    source = open_video(both)
    assert shown(iter(source)) == list(range(20))
    assert all(frame.image.shape == (48, 96, 3) for frame in source)
    assert source.warnings == ("both.h264 changes its picture size; all frames are scaled to 96x48",)


def test_a_file_that_grows_between_two_readings_is_refused(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mkv", (numbered(number) for number in range(COUNT)), options=GOPS)
    source = open_video(path)
    write_numbered(path, (numbered(number) for number in range(COUNT)), options=GOPS, rate=30)
    with pytest.raises(VideoError, match="changed while it was read"):
        list(source)


def write_audio(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return path


def write_music_with_cover(path: Path) -> Path:
    """An MP3 file with a picture in an ID3v2.3 tag, which FFmpeg presents as a video stream of one frame."""
    sound, cover = io.BytesIO(), io.BytesIO()
    with av.open(sound, "w", format="mp3") as container:
        stream = cast(AudioStream, container.add_stream("libmp3lame", rate=8000, layout="mono"))
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16p", layout="mono")
            frame.rate, frame.pts = 8000, number * 1152
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    Image.new("RGB", (32, 32), (200, 0, 0)).save(cover, "PNG")
    body = b"\0image/png\0\x03\0" + cover.getvalue()
    picture = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(picture) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + size + picture + sound.getvalue())
    return path


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    require(_has_encoder("libmp3lame"), "this FFmpeg has no encoder libmp3lame")
    with pytest.raises(VideoError, match="audio only"):
        open_video(write_music_with_cover(tmp_path / "music.mp3"))


def test_refused_files(tmp_path: Path) -> None:
    def refused(path: Path, reason: str) -> None:
        with pytest.raises(VideoError, match=reason) as caught:
            open_video(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)

    refused(tmp_path / "missing.mp4", "there is no such file")
    for name in ("text.mp4", "text.txt"):
        (tmp_path / name).write_text("This is not a video.\n" * 100)
        refused(tmp_path / name, "not a video")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "the file is empty")
    refused(write_audio(tmp_path / "sound.wav"), "audio only")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        refused(tmp_path / "pipe.mp4", "not a regular file")

    path = write_numbered(tmp_path / "a.mp4", (numbered(number) for number in range(5)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])  # the index at its end is gone
    refused(path, "not a video, or its header is damaged")

    path = write_numbered(tmp_path / "a.mov", (numbered(number) for number in range(5)), codec="png", pix_fmt="rgb24")
    refused(rewrite_packets(path, tmp_path / "zero.mov", lambda _, data: bytes(len(data))), "none of its 5 frames")


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", [numbered(0)])
    with pytest.raises(VideoError, match="rate"):
        open_video(path, rate=10)
    with pytest.raises(VideoError, match="no reader 'vlc'"):
        open_video(path, reader="vlc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        open_video(path, threads=0)
    source = open_video(path)
    with pytest.raises(IndexError):
        source[1]
    with pytest.raises(IndexError):
        source[-1]
    with pytest.raises(ValueError, match="zero"):
        source.frames(0, None, 0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (av.error.FileNotFoundError(2, "x"), "no such file"),
        (av.error.PermissionError(13, "x"), "permission denied"),
        (PermissionError(13, "x"), "permission denied"),
        (av.error.InvalidDataError(1, "x"), "not a video"),
        (av.error.DecoderNotFoundError(1, "x"), "no decoder"),
        (av.error.FFmpegError(1, "x"), "FFmpeg cannot read it"),
        (OSError(5, "x"), "operating system"),
    ],
)
def test_foreign_errors_become_one_sentence(error: Exception, text: str) -> None:
    with pytest.raises(VideoError, match=text) as caught, reading(Path("a.mp4")):
        raise error
    assert caught.value.__cause__ is error


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
                    alive.append(sum(isinstance(thing, Frame) for thing in gc.get_objects()))
    finally:
        tracemalloc.stop()
    assert max(alive) <= 4 + 2
    assert sizes[1] - sizes[0] < 20_000  # bytes; a frame is 13,824, and there are 1,490 of them between


# decord


def need_decord() -> None:
    try:
        import decord  # noqa: F401
    except ImportError:
        require(False, "decord is not installed")


@pytest.mark.parametrize("name", READABLE)
def test_decord_gives_the_same_frames(data_root: Path, name: str) -> None:
    need_decord()
    expected = FILES[name]
    assert isinstance(expected, Expected)
    path = data_root / "videos" / name
    if expected.decord is not None:
        with pytest.raises(VideoError, match=f"{expected.decord}.*default reader"):
            list(open_video(path, reader="decord"))
        return
    ours, theirs = open_video(path), open_video(path, reader="decord")
    assert isinstance(theirs, VideoSource)
    assert theirs.info == ours.info
    step = max(1, expected.frames // 20)
    for a, b in zip(ours.frames(0, None, step), theirs.frames(0, None, step), strict=True):
        assert (a.index, a.seconds) == (b.index, b.seconds)
        assert difference(a, b) <= 2
    for index in (min(expected.frames - 1, 60), 0, min(expected.frames // 2, 40)):
        assert difference(ours[index], theirs[index]) <= 2
    with pytest.raises(IndexError):
        theirs[len(theirs)]


def difference(a: Frame, b: Frame) -> float:
    """Mean absolute difference in levels of 0..255."""
    return float(np.abs(a.image.astype(np.int16) - b.image).mean())


def test_decord_keeps_its_noise_to_itself(data_root: Path) -> None:
    need_decord()
    code = (
        "import sys; from vos.video import open_video\n"
        "try: list(open_video(sys.argv[1], reader='decord'))\n"
        "except ValueError as error: print(type(error).__name__)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(data_root / "videos" / "corrupted.mp4")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "VideoError", "")


def test_decord_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    path = write_numbered(tmp_path / "a.mp4", [numbered(0)])
    with pytest.raises(MissingExtraError, match=r"pip install \"seem-vos\[decord\]\""):
        open_video(path, reader="decord")


def test_opening_a_video_does_not_load_decord_or_torch(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", [numbered(0)])
    code = "import sys; from vos.video import open_video; open_video(sys.argv[1]); print('decord' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"
