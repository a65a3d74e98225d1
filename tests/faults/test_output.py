"""Writing results where there is no room, no permission, or no time left: no half-written file under a final name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from results import frame_result, run_record
from rights import let_through, without_rights

from seem_core.errors import DiskFullError, OutputError
from vos import label_files
from vos.masks import read_labels
from vos.output import ResultFolder, read_frames, read_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits, signals and rights of POSIX")

SUPPORT = Path(__file__).resolve().parent.parent / "support"


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process with the helpers of tests/support."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_whole(out: Path) -> int:
    """Every file under a final name can be read, every line has its mask; the number of frames."""
    for mask in (out / "masks").glob("*.png"):
        read_labels(mask)
    records = list(read_frames(out))
    for record in records:
        assert read_labels(out / record.mask).shape == (48, 64)
    json.loads((out / "run.json").read_text())
    return len(records)


def test_file_size_limit_in_the_middle_of_frames_jsonl(tmp_path: Path) -> None:
    """A limit stands for a disk that fills up: the kernel takes a part of the line and refuses the rest."""
    process = child(
        """
        import resource, signal, sys
        from results import frame_result, run_record
        from seem_core.errors import DiskFullError
        from vos.output import ResultFolder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            with ResultFolder.create(sys.argv[1]) as folder:
                folder.begin(run_record(frames=60))
                for i in range(50):
                    folder.add(frame_result(i))
        except DiskFullError as error:
            print(error)
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "no room to write" in out
    assert "frames.jsonl" in out
    text = (tmp_path / "frames.jsonl").read_text()
    assert text.endswith("\n")
    assert 5 < assert_whole(tmp_path) < 50
    assert len(list((tmp_path / "masks").iterdir())) == len(text.splitlines())
    run = read_run(tmp_path)
    assert run.state == "interrupted"
    assert "no room" in (run.error or "")


def test_a_mask_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ResultFolder.create(tmp_path)
    folder.begin(run_record())
    folder.add(frame_result(0))
    real = label_files._write_new

    def half(path: Path, data: bytes) -> None:
        real(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(label_files, "_write_new", half)
    with pytest.raises(DiskFullError, match=r"00001\.png"):
        folder.add(frame_result(1))
    monkeypatch.undo()
    folder.close()
    assert assert_whole(tmp_path) == 1
    assert [p.name for p in (tmp_path / "masks").iterdir()] == ["00000.png"]


def test_when_even_the_state_cannot_be_recorded_the_first_error_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    def fill() -> None:
        with ResultFolder.create(tmp_path) as folder:
            folder.begin(run_record())
            monkeypatch.setattr(label_files, "_write_new", full)
            folder.add(frame_result(0))

    with pytest.raises(DiskFullError, match=r"00000\.png"):
        fill()
    monkeypatch.undo()
    assert "could not be recorded" in caplog.text
    assert read_run(tmp_path).state == "running"
    assert assert_whole(tmp_path) == 0


def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    let_through(tmp_path.parent)
    try:
        with without_rights(), pytest.raises(OutputError, match="check that the folder is there and writable"):
            ResultFolder.create(tmp_path / "out")
        with without_rights(), pytest.raises(OutputError, match="check that the folder is there and writable"):
            ResultFolder.create(tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


def test_a_mask_folder_that_became_read_only(tmp_path: Path) -> None:
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record())
        folder.add(frame_result(0))
        masks = tmp_path / "masks"
        masks.chmod(0o555)
        try:
            with without_rights(), pytest.raises(OutputError, match="cannot write"):
                folder.add(frame_result(1))
        finally:
            masks.chmod(0o755)
    assert assert_whole(tmp_path) == 1


@pytest.mark.parametrize("round_", range(3))
def test_killed_in_the_middle(tmp_path: Path, round_: int) -> None:
    process = child(
        """
        import sys
        from results import frame_result, run_record
        from vos.output import ResultFolder
        folder = ResultFolder.create(sys.argv[1])
        folder.begin(run_record(frames=10**6))
        for i in range(10**6):
            folder.add(frame_result(i % 50) if i < 50 else frame_result(i % 50, name=f"{i:05d}"))
            print(i, flush=True)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    for _ in range(3 + 4 * round_):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert read_run(tmp_path).state == "running"
    assert assert_whole(tmp_path) >= 3 + 4 * round_

    with ResultFolder.create(tmp_path) as folder:  # the lock died with its owner
        folder.begin(run_record())
        folder.add(frame_result(0))
        folder.finish()
    assert assert_whole(tmp_path) == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("limit", [40, 3000, 16000])
def test_no_room_for_the_overlay(tmp_path: Path, limit: int) -> None:
    """The limit stops FFmpeg in the header, among the pictures, or while it moves the index to the front."""
    process = child(
        """
        import resource, signal, sys
        import numpy as np
        from pathlib import Path
        from PIL import Image
        from results import write_results
        from seem_core.errors import DiskFullError
        from vos.render import render
        from vos.video import open_video
        images, out = Path(sys.argv[1]) / "images", Path(sys.argv[1]) / "out"
        images.mkdir()
        noise = np.random.default_rng(0)
        for i in range(12):
            Image.fromarray(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(images / f"{i}.png")
        with open_video(images) as source:
            write_results(out, source)
        render(out)
        whole = (out / "overlay.mp4").read_bytes()
        print(len(whole))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
        try:
            render(out, alpha=0.1)
        except DiskFullError as error:
            print(error)
        assert (out / "overlay.mp4").read_bytes() == whole
        assert not list(out.glob(".*")), list(out.glob(".*"))
        """,
        tmp_path,
        limit,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "no room to write" in out, out
