"""``vos bench interactive`` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import write_tiny_checkpoint

from cli.bench import MarkChoice
from cli.main import run
from seem_core.training.strokes import MarkKind

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a folder ``s`` of one picture, on which is one object, and a list ``l.txt`` of it."""
    monkeypatch.chdir(tmp_path)
    image, mask = np.full((50, 70, 3), 60, np.uint8), np.zeros((50, 70), np.uint8)
    image[10:40, 20:45], mask[10:40, 20:45] = (200, 30, 30), 1
    for name, pixels in (("images", image), ("masks", mask)):
        (tmp_path / "s" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "s" / name / "cat.png")
    Path("l.txt").write_text("s/cat 1\n")
    return tmp_path


def bench(*arguments: str) -> int:
    return run(["bench", "interactive", *arguments])


@pytest.mark.parametrize("data", ["s", "l.txt"])
def test_the_table(folder: Path, capsys: Captured, data: str) -> None:
    assert bench(data, "--prompt", "box", "--model", "oracle", "--rounds", "7") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == [
        *("model", "prompt", "objects", "1-IoU", "NoC50", "NoC80", "NoC85", "NoC90"),
        *("NoF50", "NoF80", "NoF85", "NoF90", "s/round"),
    ]
    assert lines[1].split()[:-1] == ["oracle", "box", "1", "1.000", *["1.00"] * 4, *["0"] * 4]
    assert lines[3] == "5-NoC50 1.00  5-NoC80 1.00  5-NoC85 1.00  5-NoC90 1.00"
    assert lines[5].endswith("  ".join(["1.000"] * 5))
    assert lines[6].endswith("  1.000  1.000")
    assert "1/1 objects" in said.err


def test_json(folder: Path, capsys: Captured) -> None:
    assert bench("s", "--model", "empty", "--rounds", "3", "--json", "-q") == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert said.err == ""
    assert result["NoC"] == {"50": 3.0, "80": 3.0, "85": 3.0, "90": 3.0}
    assert result["IoU"] == {"cat 1": [0.0, 0.0, 0.0]}
    assert (result["prompt"], result["1-IoU"], result["objects"]) == ("point", 0.0, 1)
    assert bench("s", "--model", "empty", "--rounds", "10", "--json", "-q") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["5-NoC85"], result["10-NoC85"], "20-NoC85" in result) == (5.0, 10.0, False)


def test_a_seem_file_whose_weights_are_not_trained(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_checkpoint(Path("tiny.safetensors"), monkeypatch)
    assert bench("l.txt", "--model", "tiny.safetensors", "--rounds", "2", "--device", "cpu", "-q") == 0
    assert "not trained" in capsys.readouterr().err


def test_a_plot(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench("s", "--rounds", "2", "--plot", "curve.png", "-q") == 3
    assert "plots need matplotlib" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    pytest.importorskip("matplotlib")
    assert bench("s", "--rounds", "2", "--plot", "curve.png", "-q") == 0
    with Image.open("curve.png") as curve:
        assert curve.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 3, "no folder or list file nowhere"),
        (["s/images"], 3, "lacks a folder images or masks"),
        (["s", "--model", "nothing.safetensors"], 4, "nothing.safetensors"),
        (["s", "--prompt", "wave"], 2, "wave"),
        (["s", "--rounds", "0"], 2, "rounds"),
        (["s", "--plot", "no/curve.png", "--model", "empty"], 3, "no/curve.png"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    folder: Path, capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    assert bench(*arguments, "-q") == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_kinds_are_those_of_the_simulated_user() -> None:
    assert {choice.value for choice in MarkChoice} == {kind.value for kind in MarkKind}
