"""``vos train``: one JSON file, exit codes, and no video library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from official_files import use_tiny_presets

from cli.main import run
from seem_core.checkpoint import load_seem
from seem_core.reader import ReaderConfig
from seem_core.reader_weights import load_reader, save_reader

SMALL = ReaderConfig(key=16, local_key=8, window=2, value=16, local_value=8, decoder=(16, 16, 8, 8))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures and first weights."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for i in range(3):
        image = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (128, 96))
        labels = np.zeros((96, 128), np.uint8)
        cv2.circle(labels, (60, 50), 24, 1, -1)
        cv2.imwrite(str(tmp_path / f"mine/images/{i}.jpg"), image)
        cv2.imwrite(str(tmp_path / f"mine/masks/{i}.png"), labels)
    torch.manual_seed(0)
    save_reader(SMALL.build().state_dict(), SMALL, tmp_path / "first.safetensors", facts={})
    return tmp_path


def config(place: Path, **changes: Any) -> str:
    content = {
        "task": "reader", "folder": str(place / "run"), "data": [{"path": str(place / "mine")}], "steps": 2,
        "stages": [{"until": 1, "size": 64, "clips": 1, "frames": 2}], "init": str(place / "first.safetensors"),
        "device": "cpu", "precision": "float32", "log_steps": 1,
    }  # fmt: skip
    path = place / "run.json"
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))
    return str(path)


def test_a_folder_is_packed_and_trained_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", config(place), "--json", "-q"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"weights": str(place / "run/reader.safetensors"), "folder": str(place / "run"), "stopped": False}
    assert load_reader(facts["weights"]).config == SMALL
    assert (place / "run/data.pack").is_file()
    assert (place / "run/log.csv").read_text().count("\n") == 3
    packed = (place / "run/data.pack").stat().st_mtime_ns
    assert run(["train", config(place), "--steps", "3", "-q"]) == 0
    assert (place / "run/data.pack").stat().st_mtime_ns == packed  # nothing changed, nothing is packed again
    assert (place / "run/log.csv").read_text().count("\n") == 4


def test_a_resumed_run_notices_other_data(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", config(place), "-q"]) == 0
    cv2.imwrite(str(place / "mine/masks/0.png"), np.ones((96, 128), np.uint8))
    assert run(["train", config(place), "--steps", "3", "-q"]) == 3
    assert "started with other data" in capsys.readouterr().err
    assert not (place / "run/data.pack.new").exists()


def test_mistakes_have_exit_codes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(code: int, sentence: str, *words: str, **changes: Any) -> None:
        assert run(["train", config(place, **changes), "-q", *words]) == code
        assert sentence in capsys.readouterr().err

    fails(3, "unknown field 'step'", step=3)
    fails(3, "give one of minutes, steps and within", steps=None)
    fails(4, "first.safetensors.gone", init=str(place / "first.safetensors.gone"))
    fails(3, "no device", "--device", "warp")
    cv2.imwrite(str(place / "mine/masks/1.png"), np.ones((9, 9), np.uint8))
    fails(3, "1.png is (9, 9)")
    (place / "mine/images/0.jpg").write_bytes(b"no picture")
    fails(3, "0.jpg is no picture")
    assert not (place / "run/log.csv").exists()
    assert run(["train", str(place / "none.json")]) == 3


def test_check_trains_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", config(place), "--check", "--minutes", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["minutes"], shown["steps"]) == (5.0, None)
    assert not (place / "run").exists()


def test_pack_and_init(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "mine.pack"
    words = ["train", "pack", str(place / "mine"), str(out), "--still-side", "48", "-q"]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 3
    assert run(words) == 3
    assert "is there already" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0
    assert run(["train", config(place, data=[{"path": str(out)}]), "-q"]) == 0
    assert run(["train", "init", str(place / "lite.safetensors")]) == 0
    assert load_reader(place / "lite.safetensors").config == ReaderConfig()
    assert run(["train", "init", str(place / "x.safetensors"), "--model", "nothing"]) == 3


@pytest.mark.parametrize("command", [["-m", "cli", "train"], ["-m", "seem_core.training"]])
def test_no_video_library_is_needed(place: Path, command: list[str]) -> None:
    """Both ways to start a run, where importing a decoder fails; the second one without typer."""
    blocked = ["av", "decord", *(["typer"] if "seem_core.training" in command else [])]
    (place / "hide").mkdir()
    (place / "hide/sitecustomize.py").write_text(f"import sys\nfor n in {blocked!r}: sys.modules[n] = None\n")
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(place / "hide"), root)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, config(place, steps=1)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (place / "run/reader.safetensors").is_file()


def test_first_weights_of_a_seem_can_be_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_presets(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    first = place / "tiny.safetensors"
    assert run(["train", "init", str(first), "--model", "tiny-v1", "--seed", "3"]) == 0
    assert load_seem(first).metadata.trained == "none"
    training = {"setting": "all-but-text", "points": 100, "pictures": {"rounds": 1}, "video": {"every": 2, "frames": 2}}
    stages = [{"until": 1, "size": 64, "clips": 1}]
    changes = {"task": "seem", "model": str(first), "init": None, "training": training, "stages": stages}
    assert run(["train", config(place, **changes), "-q"]) == 0
    trained = load_seem(place / "run/tiny-v1.safetensors")
    assert trained.metadata.trained == "full"
    assert not torch.equal(trained.model.decoder.query_content, load_seem(first).model.decoder.query_content)
