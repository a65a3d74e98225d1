"""``vos track`` with a model: which trackers take one, what run.json says of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clips import write_clip, write_mask
from tiny_checkpoint import write_tiny_checkpoint

from cli.main import run
from trackers.fused import FusedTracker
from vos.benchmarks.sequence_tracking import Named
from vos.output import read_run

Captured = pytest.CaptureFixture[str]
TRACK = ("track", "clip.mp4", "-m", "clip.png", "--save", "masks", "--end", "4", "-o", "out", "-q")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made current, with clip.mp4, clip.png and tiny.safetensors: random weights, and two classes."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    write_mask(tmp_path / "clip.png")
    write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch, classes=("ball", "box", "background"))
    return tmp_path


def test_fused_without_a_model_says_that_it_propagates(folder: Path, capsys: Captured) -> None:
    assert run([*TRACK, "--tracker", "fused"]) == 0
    sentence = "fused follows objects by propagation alone: it was given no model"
    assert sentence in capsys.readouterr().err
    assert sentence in read_run(folder / "out").warnings


def test_an_untrained_decoder_is_not_used_unless_it_is_asked_for(folder: Path, capsys: Captured) -> None:
    fused = [*TRACK, "--tracker", "fused", "--model", "tiny.safetensors"]
    assert run(fused) == 0
    record = read_run(folder / "out")
    assert any("not trained (trained: none)" in text for text in record.warnings)
    assert record.class_names == {}
    assert record.options["model"] == "tiny.safetensors"
    assert record.options["decoder"] == "auto"
    weights = [item for item in record.inputs if item.role == "weights"]
    assert [Path(item.path).name for item in weights] == ["tiny.safetensors"]
    assert run([*fused, "--decoder", "on", "--overwrite", "--json"]) == 0
    record = read_run(folder / "out")
    assert any("knows nothing" in text for text in record.warnings)
    said = capsys.readouterr()
    summary = json.loads(said.out[said.out.index("{") :])
    name = summary["objects"][0]["class_name"]
    assert name in ("ball", "box", None)
    assert record.class_names == ({} if name is None else {1: name})


@pytest.mark.parametrize("tracker", ["reference", "prompt-memory"])
def test_trackers_that_are_a_model_alone(folder: Path, capsys: Captured, tracker: str) -> None:
    assert run([*TRACK, "--tracker", tracker]) == 3
    assert f"tracker {tracker} needs a SEEM model" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert run([*TRACK, "--tracker", tracker, "--model", "tiny.safetensors"]) == 0
    assert len(list((folder / "out" / "masks").glob("*.png"))) == 4


def test_what_cannot_be_is_refused_before_the_first_frame(folder: Path, capsys: Captured) -> None:
    assert run([*TRACK, "--tracker", "copy", "--model", "tiny.safetensors"]) == 3
    assert "copy has no use for a model" in capsys.readouterr().err
    assert run([*TRACK, "--tracker", "fused", "--decoder", "on"]) == 3
    assert "decoder on needs a SEEM model" in capsys.readouterr().err
    assert run([*TRACK, "--tracker", "propagate", "--decoder", "off"]) == 3
    assert "cannot switch its decoder off" in capsys.readouterr().err
    assert run([*TRACK, "--tracker", "fused", "--model", "nonesuch.safetensors"]) == 4
    assert "nonesuch.safetensors is not there" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_benchmark_builds_fused_with_the_model(folder: Path) -> None:
    tracker = Named("tiny.safetensors", "on")("fused", "cpu")
    assert isinstance(tracker, FusedTracker)
    assert "knows nothing" in tracker.notes[0]
    assert tracker.memory_model.endswith("with views of tiny")
