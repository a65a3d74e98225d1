"""Predictions that cannot be scored: each is named, with exit code 3, and never becomes a score."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seem_core.errors import DatasetError, LimitError, MaskError
from vos.benchmarks import measure
from vos.benchmarks.scoring import score_predictions
from vos.masks import write_labels

FRAME = "p/bear/00002.png"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 5:15] = 1
    for folder in ("gt", "p"):
        (tmp_path / folder / "bear").mkdir(parents=True)
        for i in range(5):
            write_labels(tmp_path / folder / f"bear/{i:05d}.png", labels)
    return tmp_path


def remove(path: Path) -> None:
    path.unlink()


def resize(path: Path) -> None:
    write_labels(path, np.ones((24, 31), np.uint8))


def colour(path: Path) -> None:
    Image.new("RGB", (32, 24), (128, 0, 0)).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def text(path: Path) -> None:
    path.write_text("no picture")


def jpeg(path: Path) -> None:
    Image.new("L", (32, 24)).save(path, "JPEG")


def rename_sequence(path: Path) -> None:
    path.parent.rename(path.parent.with_name("zebra"))


FAULTS = [
    (remove, DatasetError, "lacks 1 of 3 predicted frames"),
    (resize, MaskError, "is 31x24, the ground truth is 32x24"),
    (colour, MaskError, "RGB"),
    (truncate, MaskError, "cannot be read"),
    (text, MaskError, "cannot be read"),
    (jpeg, MaskError, "JPEG"),
    (rename_sequence, DatasetError, "zebra"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), FAULTS)
@pytest.mark.parametrize("protocol", ["strict", "davis2017", "davis2016"])
def test_a_fault_is_named_and_nothing_is_scored(
    small: Path, spoil: Callable[[Path], None], error: type[Exception], words: str, protocol: str
) -> None:
    spoil(small / FRAME)
    with pytest.raises(error, match=words) as caught:
        score_predictions(small / "p", small / "gt", protocol=protocol)  # type: ignore[arg-type]
    if spoil is not rename_sequence:
        assert "00002" in str(caught.value)
        assert "bear" in str(caught.value)


@pytest.mark.parametrize("spoil", [remove, colour])
def test_exit_code_3_one_sentence_no_result(small: Path, spoil: Callable[[Path], None]) -> None:
    spoil(small / FRAME)
    command = [sys.executable, "-m", "cli", "score", str(small / "p"), str(small / "gt"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "00002" in done.stderr


def test_empty_and_missing_folders(small: Path) -> None:
    (small / "none").mkdir()
    for predictions, truth, words in (
        ("none", "gt", "holds no folder of PNG masks"),
        ("absent", "gt", "not a folder"),
        ("p", "none", "holds no masks"),
    ):
        with pytest.raises(DatasetError, match=words):
            score_predictions(small / predictions, small / truth)


def test_a_fault_in_another_process_is_the_same_error(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_ALONE", 0)
    monkeypatch.setattr(measure, "_CHUNK", 2)
    colour(small / FRAME)
    with pytest.raises(MaskError, match="frame 00002 of sequence 'bear'"):
        score_predictions(small / "p", small / "gt", jobs=2)


def die(tasks: object) -> list[measure.FrameMeasures]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_killed_worker_is_a_limit(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_ALONE", 0)
    monkeypatch.setattr(measure, "_CHUNK", 2)
    monkeypatch.setattr(measure, "_measure_chunk", die)
    with pytest.raises(LimitError, match="--jobs"):
        score_predictions(small / "p", small / "gt", jobs=2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_davis_leaves_whole_masks_and_no_process(tmp_path: Path, data_root: Path) -> None:
    """Ctrl-C in the middle of a run: exit 130, no traceback, every file under its name is whole."""
    (tmp_path / "one.txt").write_text("car-turn\n")
    command = [sys.executable, "-m", "cli", "davis", str(data_root / "davis"), "--set", str(tmp_path / "one.txt")]
    command += ["-t", "flow", "--device", "cpu", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "out/flow/car-turn"
    assert process.stderr is not None
    assert process.stderr.readline().startswith("flow: 8/80 frames")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out
    assert "Traceback" not in err
    assert not list(folder.glob(".*"))
    assert 8 <= len(list(folder.glob("*.png"))) < 80
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    assert not (tmp_path / "out/scores.json").exists()
