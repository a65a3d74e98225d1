"""``vos track`` when things go wrong under it: signals, kill, no room, nowhere to write. Each as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clips import write_clip, write_mask

from cli.console import stop_on_signal
from vos.output import read_frames, read_run

ROOT = Path(__file__).resolve().parent.parent.parent
FRAMES = 1200
RUN = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_mask(folder / "clip.png")
    return write_clip(folder / "clip.mp4", FRAMES)


def start(clip: Path, out: Path, *more: str, code: str = RUN) -> subprocess.Popen[str]:
    """``vos track`` with the copy tracker, in a process of its own."""
    mask = str(clip.with_suffix(".png"))
    arguments = ["track", str(clip), "-m", mask, "-o", str(out), "--tracker", "copy", "--save", "masks", *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_until_under_way(process: subprocess.Popen[str]) -> None:
    """Returns when a tenth of the frames is done, which the process says; most are still to come."""
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"tracking: {FRAMES // 10}/{FRAMES}")


def check_whole(out: Path) -> int:
    """Every line has its mask and every mask its line, and no temporary file is left; returns their number."""
    names = {record.mask for record in read_frames(out)}
    assert names == {f"masks/{path.name}" for path in (out / "masks").iterdir()}
    for name in names:
        data = (out / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert data.endswith(b"IEND\xaeB`\x82")
    assert {path.name for path in out.iterdir()} <= {"masks", "frames.jsonl", "run.json", ".state"}
    if read_run(out).state == "done":
        assert not (out / ".state").exists()
    return len(names)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_frame_and_keeps_what_is_done(clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(clip, tmp_path / "out")
    wait_until_under_way(process)
    process.send_signal(number)
    code, out, err = end(process)
    assert code == 130
    assert "Traceback" not in err
    assert "vos: interrupted; " in err
    assert out == f"{tmp_path / 'out' / 'masks'}\n"
    run = read_run(tmp_path / "out")
    assert run.state == "interrupted"
    assert FRAMES // 10 <= run.frames_done == check_whole(tmp_path / "out") < FRAMES


def test_after_a_kill_everything_under_a_name_is_whole_and_a_new_run_takes_over(clip: Path, tmp_path: Path) -> None:
    process = start(clip, tmp_path / "out")
    wait_until_under_way(process)
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    assert read_run(tmp_path / "out").state == "running"
    for path in (tmp_path / "out" / "masks").glob("[0-9]*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    code, _, err = end(start(clip, tmp_path / "out", "--end", "5", "-q"))
    assert (code, err) == (0, "")
    assert check_whole(tmp_path / "out") == 5


@pytest.mark.parametrize("limit", [500, 6000])
def test_no_room_is_5_and_leaves_nothing_half_written(clip: Path, tmp_path: Path, limit: int) -> None:
    """A file-size limit: 500 bytes stop the first run.json, 6000 let frames.jsonl begin."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {RUN}"
    exit_code, out, err = end(start(clip, tmp_path / "out", "-q", code=code))
    assert (exit_code, out) == (5, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("vos: error: no room to write ")
    if limit == 500:
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    else:
        assert 5 < check_whole(tmp_path / "out") < 100
        assert read_run(tmp_path / "out").state == "interrupted"


def test_no_room_for_the_pictures_keeps_the_masks(clip: Path, tmp_path: Path) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); {RUN}"
    more = ("-q", "--end", "20", "--save", "overlay,contact")
    exit_code, out, err = end(start(clip, tmp_path / "out", *more, code=code))
    assert (exit_code, out) == (5, "")
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("vos: ")]
    assert said[-2].startswith("vos: error: no room to write ")
    assert said[-1].startswith("vos: note: the masks are whole")
    assert check_whole(tmp_path / "out") == 20
    assert read_run(tmp_path / "out").state == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folders, whoever asks")
def test_a_place_that_cannot_be_written_is_one_sentence(clip: Path) -> None:
    code, out, err = end(start(clip, Path("/proc/vos-results"), "-q"))
    assert (code, out) == (3, "")
    assert err.startswith("vos: error: cannot write /proc/vos-results")
    assert err.count("\n") == 1


def test_a_second_signal_interrupts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
