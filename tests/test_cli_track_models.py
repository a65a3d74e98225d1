"""``vos track`` with trackers that need a model: a tiny random SEEM from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import write_clip, write_mask
from tiny_checkpoint import write_tiny_checkpoint

from cli.main import run
from vos.output import read_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made current, with clip.mp4 (12 frames, 24 per second), clip.png and tiny.safetensors."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    write_mask(tmp_path / "clip.png")
    write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch)
    return tmp_path


def masks(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "masks").glob("*.png"))


ARGUMENTS = ("track", "clip.mp4", "-o", "out", "--save", "masks", "-q")
MODEL = ("--model", "tiny.safetensors")


@pytest.mark.parametrize("tracker", ["reference", "prompt-memory"])
def test_every_frame_has_a_mask(clip: Path, capsys: Captured, tracker: str) -> None:
    assert run([*ARGUMENTS, "-m", "clip.png", "--tracker", tracker, *MODEL]) == 0
    assert masks(clip / "out") == [f"{i:05}" for i in range(12)]
    record = read_run(clip / "out")
    assert record.options["tracker"] == tracker
    assert record.options["model"] == "tiny.safetensors"
    assert any("tiny is not trained" in warning for warning in record.warnings)
    assert "tiny is not trained" in capsys.readouterr().err


@pytest.mark.parametrize("tracker", ["reference", "prompt-memory"])
def test_objects_are_saved_and_known_in_the_next_video(clip: Path, tracker: str) -> None:
    options = ["--tracker", tracker, *MODEL, "--end", "3"]
    assert run([*ARGUMENTS, "-b", "0,16,16,32#7", *options, "--save-memory", "seven"]) == 0
    assert run([*ARGUMENTS, "--overwrite", *options, "--memory", "seven"]) == 0
    assert read_run(clip / "out").ids == (7,)


def test_published_is_five_frames_per_second(clip: Path) -> None:
    assert run([*ARGUMENTS, "-m", "clip.png", "--tracker", "reference", *MODEL, "--published"]) == 0
    assert masks(clip / "out") == ["00000", "00005", "00010"]
    record = read_run(clip / "out")
    assert record.tracked == (0, 12, 5)
    assert record.options["published"] is True


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--tracker", "reference"], 3, "tracker reference needs a SEEM model; give --model"),
        (["--tracker", "prompt-memory"], 3, "tracker prompt-memory needs a SEEM model"),
        (["--tracker", "reference", "--model", "nonesuch"], 4, "there is no model 'nonesuch'"),
        (["--tracker", "flow", *MODEL], 3, "tracker flow has no use for a model"),
        (["--tracker", "prompt-memory", *MODEL, "--decoder", "on"], 3, "cannot switch its decoder on"),
        (["--published"], 3, "published is a way of tracker reference, not of lite"),
        (["--tracker", "reference", *MODEL, "--published", "--stride", "3"], 3, "5 frames per second, stride 3"),
    ],
)
def test_what_does_not_fit_together_is_named(
    clip: Path, capsys: Captured, options: list[str], code: int, words: str
) -> None:
    assert run([*ARGUMENTS, "-m", "clip.png", *options]) == code
    assert words in capsys.readouterr().err
    assert not (clip / "out").exists()
