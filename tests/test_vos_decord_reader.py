"""decord as a second reader: the same frames as ours, or a sentence that names the default reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numbered_clips import numbered, write_numbered
from real_videos import FILES, READABLE, Expected
from support import require

from seem_core.errors import MissingExtraError, VideoError
from vos.frames import Frame, VideoSource
from vos.video import open_video


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
