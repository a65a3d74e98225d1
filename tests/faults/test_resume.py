"""``vos track --resume`` after kill -9 at random moments, again and again, ends as a run that nobody disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from clips import picture, write_mask
from numbered_clips import write_numbered
from PIL import Image

from vos.output import read_run

ROOT = Path(__file__).resolve().parent.parent.parent
FRAMES = 240
KILLS = 5
# Saving as often as possible: what it costs does not make it rare.
RUN = "import sys, cli.main, vos.checkpoints as c; c.SHARE = 1e9; sys.exit(cli.main.run(sys.argv[1:]))"


def start(video: Path, out: Path, tracker: str, *more: str, code: str = RUN) -> subprocess.Popen[str]:
    """``vos track`` in a process of its own, with one thread."""
    arguments = ["track", str(video), "-m", str(video.parent / "mask.png"), "-o", str(out), "--tracker", tracker]
    arguments += ["--save", "masks", "--threads", "1", "-q", *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=240)
    return process.returncode, err


def kill_at(process: subprocess.Popen[str], out: Path, size: int) -> bool:
    """Kill the process when frames.jsonl has ``size`` bytes; whether it was still alive."""
    look, frames = threading.Event(), out / "frames.jsonl"
    for _ in range(24_000):
        if process.poll() is not None or (frames.exists() and frames.stat().st_size >= size):
            break
        look.wait(0.01)
    process.kill()
    return end(process)[0] != 0


def everything(out: Path) -> dict[str, Any]:
    """All that must not depend on what happened on the way."""
    run = json.loads((out / "run.json").read_text())
    for name in ("started", "finished", "seconds"):
        del run[name]
    masks = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "masks").iterdir()}
    return {
        "run": run,
        "masks": masks,
        "frames": (out / "frames.jsonl").read_bytes(),
        "files": {path.name for path in out.iterdir()},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with groups of 12 pictures, and the same as a folder of pictures."""
    folder = tmp_path_factory.mktemp("clip")
    write_mask(folder / "mask.png")
    write_numbered(
        folder / "clip.mp4", (picture(n) for n in range(FRAMES)), options={"g": "12", "x264-params": "scenecut=0"}
    )
    (folder / "pictures").mkdir()
    for n in range(30):
        Image.fromarray(picture(n)).save(folder / "pictures" / f"shot {n}.png")
    return folder


@pytest.mark.parametrize(("tracker", "name", "end_at"), [("flow", "clip.mp4", FRAMES), ("lite", "pictures", 30)])
def test_kills_at_random_moments_change_nothing(
    place: Path, tmp_path: Path, tracker: str, name: str, end_at: int
) -> None:
    video, whole, out = place / name, tmp_path / "whole", tmp_path / "out"
    more = ("--end", str(end_at))
    assert end(start(video, whole, tracker, *more)) == (0, "")
    size = (whole / "frames.jsonl").stat().st_size
    chance = random.Random(8)
    kills = KILLS if tracker == "flow" else KILLS - 2
    moments = sorted(chance.randrange(size // 20, size - size // 20) for _ in range(kills))
    alive, states = 0, 0
    for moment in moments:
        process = start(video, out, tracker, *more, "--resume", "--checkpoint-seconds", "1e-6")
        if kill_at(process, out, moment):
            alive += 1
            assert read_run(out).state == "running"
            states += bool(list((out / ".state").glob("*.safetensors")))
    assert alive >= kills - 1
    assert states  # there was something to go on from
    code, err = end(start(video, out, tracker, *more, "--resume"))
    assert (code, err) == (0, "")
    assert everything(out) == everything(whole)


def test_no_room_for_a_state_is_a_warning(place: Path, tmp_path: Path) -> None:
    """A file-size limit between that of a mask and that of a state."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    more = ("--end", "30", "--checkpoint-seconds", "1e-6")
    code, err = end(start(place / "clip.mp4", tmp_path / "out", "flow", *more, code=limit + RUN))
    assert code == 0
    assert err.count("vos: warning: no more states are saved") == 1
    assert err.count("\n") == 1
    assert read_run(tmp_path / "out").state == "done"


def test_another_video_is_one_sentence(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert kill_at(start(place / "clip.mp4", out, "copy"), out, 2000)
    code, err = end(start(place / "clip.mp4", out, "copy", "--resume", "--stride", "2"))
    assert code == 3
    assert err == f"vos: error: {out} holds a run with other frames, stride; choose another folder or say --overwrite\n"
