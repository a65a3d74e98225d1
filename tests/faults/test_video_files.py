"""Damaged, truncated and mistaken video files: gaps in the right places, or one sentence."""

from __future__ import annotations

import io
import os
import struct
import wave
from contextlib import closing
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from numbered_clips import COUNT, GOPS, assert_same, has_encoder, number_of, numbered, rewrite_packets, write_numbered
from PIL import Image
from support import require

from seem_core.errors import VideoError
from vos import video_decoder
from vos.container import reading
from vos.video import open_video
from vos.video_index import build_index


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
    require(has_encoder("libmp3lame"), "this FFmpeg has no encoder libmp3lame")
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
