"""Reading a video from its end: every frame once, in order, and never more of them in memory than allowed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Clip
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_clips import COUNT, GOPS, number_of, numbered, write_numbered
from PIL import Image

from seem_core.errors import VideoError
from vos.backwards import backwards, frames_within
from vos.frames import Frame
from vos.video import PyavVideo, open_video

ONE_GROUP = {"g": "600", "bf": "2", "x264-params": "scenecut=0"}
ONE = 48 * 96 * 3  # bytes of a numbered picture


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 numbered frames in closed groups of 12."""
    path = tmp_path_factory.mktemp("clips") / "groups.mp4"
    return write_numbered(path, (numbered(i) for i in range(COUNT)), options=GOPS)


@pytest.fixture(scope="module")
def one_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 numbered frames behind a single key frame."""
    path = tmp_path_factory.mktemp("clips") / "one.mp4"
    return write_numbered(path, (numbered(i) for i in range(COUNT)), options=ONE_GROUP)


@pytest.mark.parametrize("most", [1, 5, 12, 13, 30, 1000])
@pytest.mark.parametrize("frames", [range(60), range(7, 53), range(3, 60, 4), range(59, 60), range(0)])
def test_frames_come_last_first(groups: Path, one_group: Path, most: int, frames: range) -> None:
    for path in (groups, one_group):
        with PyavVideo(path) as video:
            found = [(f.index, number_of(f.image)) for f in backwards(video, frames, max_bytes=most * ONE)]
        assert found == [(i, i) for i in reversed(frames)]


class _Counting(Clip):
    """Notes what is read and how many pictures are alive."""

    def __init__(self, frames: int, keys: tuple[int, ...]) -> None:
        super().__init__(frames)
        self.keys = keys
        self.read: list[int] = []
        self.alive: weakref.WeakSet[Frame] = weakref.WeakSet()
        self.most = 0

    def restart(self, index: int) -> int:
        return max(key for key in self.keys if key <= index)

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        for frame in super().frames(start, stop, step):
            self.read.append(frame.index)
            self.alive.add(frame)
            self.most = max(self.most, len(self.alive))
            yield frame


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_stretches_hold_the_bound_and_begin_at_key_frames(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 60))
    keys = (0, *sorted(data.draw(st.sets(st.integers(0, length - 1), max_size=8))))
    room, step = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 4))
    clip = _Counting(length, keys)
    frames = range(data.draw(st.integers(0, length - 1)), length, step)
    indices = []
    for frame in backwards(clip, frames, max_bytes=room * 3 * HEIGHT * WIDTH):
        indices.append(frame.index)
        del frame
    assert indices == list(reversed(frames))
    assert sorted(clip.read) == list(frames)
    assert clip.most <= room
    begins = [b for a, b in zip([length, *clip.read], clip.read, strict=False) if b < a]
    for begin, following in zip(begins[1:], begins, strict=False):
        reachable = [f for f in frames if following - room * step <= f < following]
        at_keys = [f for f in reachable if clip.restart(f) > f - step]
        assert begin == min(at_keys, default=reachable[0]) or begin == frames[0]


def test_frames_that_cannot_be_decoded_are_left_out() -> None:
    clip = Clip(20, missing=(0, 7, 8, 19))
    found = [f.index for f in backwards(clip, range(20), max_bytes=1)]
    assert found == [i for i in reversed(range(20)) if i not in clip.missing]
    assert set(clip.gaps) == set(clip.missing)


def test_a_folder_of_images_goes_backward_too(tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    found = [(f.name, int(f.image[0, 0, 0])) for f in backwards(open_video(tmp_path), range(5), max_bytes=400)]
    assert found == [("4", 40), ("3", 30), ("2", 20), ("1", 10), ("0", 0)]


@pytest.mark.parametrize("name", ["video_90.mov", "h264_10bits.mp4", "corrupted.mp4", "newtonscradle.gif"])
def test_real_files_give_the_same_frames_both_ways(data_root: Path, name: str) -> None:
    """Rotated, 10 bit, cut off, and a GIF."""
    with PyavVideo(data_root / "videos" / name) as video:
        ahead = {f.index: hash(f.image.tobytes()) for f in video.frames(0, 40)}
        bound = 9 * video.info.height * video.info.width * 3
        back = [(f.index, hash(f.image.tobytes())) for f in backwards(video, range(len(video))[:40], max_bytes=bound)]
    assert [i for i, _ in back] == sorted(ahead, reverse=True)
    assert dict(back) == ahead


def test_decord_goes_backward_too(groups: Path) -> None:
    pytest.importorskip("decord", reason="the extra decord is not installed")
    video = open_video(groups, reader="decord")
    found = [(f.index, number_of(f.image)) for f in backwards(video, range(5, 60, 3), max_bytes=7 * ONE)]
    assert found == [(i, i) for i in reversed(range(5, 60, 3))]


def test_a_reader_says_where_decoding_begins(groups: Path, one_group: Path) -> None:
    with PyavVideo(groups) as video:
        assert [video.restart(i) for i in (0, 11, 12, 59)] == [0, 0, 12, 48]
    with PyavVideo(one_group) as video:
        assert [video.restart(i) for i in (0, 30, 59)] == [0, 0, 0]


def test_the_bound_is_at_least_one_picture() -> None:
    info = Clip(3).info
    assert frames_within(info, 1) == 1
    assert frames_within(info, 10 * HEIGHT * WIDTH * 3) == 10


def test_what_cannot_be_done_is_said_in_one_sentence() -> None:
    clip = Clip(3)
    clip.seekable = False  # type: ignore[attr-defined]
    with pytest.raises(VideoError, match=r"tracking backward reads frames again, and clip\.mp4 can be read only once"):
        next(backwards(clip, range(3)))
    with pytest.raises(ValueError, match="must ascend"):
        next(backwards(Clip(3), range(2, -1, -1)))
