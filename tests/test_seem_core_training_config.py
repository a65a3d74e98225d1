"""Configurations from JSON: every mistake is named before anything starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from seem_core.errors import CheckpointError, InputError
from seem_core.training.loop import Stage
from seem_core.training.packing import CLIPS, PICTURES, Packing, read_sources
from seem_core.training.run import parse_run, read_run
from seem_core.training.run_settings import choose_stages, count_workers, use_device
from seem_core.training.train_reader import ReaderRun
from seem_core.training.train_seem import SeemRun, train_seem

ROOT = Path(__file__).resolve().parent.parent
READER = {"task": "reader", "folder": "run", "data": [{"path": "a.pack"}], "steps": 3}
SEEM = {**READER, "task": "seem", "model": "seem-focal-t-v1"}


def test_fields_become_types() -> None:
    content = {
        **READER,
        "stages": [{"until": 1, "size": 64, "clips": 2, "frames": 3}],
        "training": {"clips": {"real": 0.5}, "memory": 3},
        "packing": {"exclude": ["a"]},
        "out": "w.safetensors",
    }
    run = parse_run(content)
    assert isinstance(run, ReaderRun)
    assert run.stages == (Stage(1.0, 64, 2, 3),)
    assert run.training.clips.real == 0.5
    assert run.training.memory == 3
    assert run.out == Path("w.safetensors")
    assert run.packing is not None
    assert run.packing.exclude == ("a",)
    seem = parse_run({**SEEM, "training": {"losses": "code", "pictures": {"kinds": ["box"]}, "video": {"every": 3}}})
    assert isinstance(seem, SeemRun)
    assert seem.training.pictures.kinds == ("box",)
    assert seem.training.video is not None
    assert seem.rate == 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, r"unknown field 'stepz'; did you mean 'steps'"),
        ({"task": "nothing"}, r'"task" is one of reader, refiner, seem'),
        ({"training": {"clips": {"reel": 1}}}, r"training: clips has an unknown field 'reel'; did you mean 'real'"),
        ({"data": [{"kind": "folder", "pth": "x"}]}, r"data\[0\] has an unknown field 'pth'"),
        ({"data": [{"kind": "folder"}]}, r"data\[0\] lacks the field 'path'"),
        ({"data": [{"kind": "folders", "path": "x"}]}, r"kind is one of auto, pack"),
        ({"data": []}, r"no data to train on"),
        ({"steps": 2.5}, r"steps must be a whole number, not 2\.5"),
        ({"steps": True}, r"steps must be a whole number, not true"),
        ({"minutes": 2}, r"give one of minutes, steps and within"),
        ({"stages": [{"until": 1, "size": 64}]}, r"stages\[0\] lacks the field 'clips'"),
        ({"precision": "float16"}, r"precision is one of float32, bfloat16"),
        ({"workers": -1}, r"workers"),
        ({"packing": {"thinnig": 1}}, r"packing has an unknown field 'thinnig'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_run({**READER, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"losses": "mine"}}, "losses is one of paper, code"),
        ({"training": {"pictures": {"scale": [2, 1]}}}, "scale is two numbers"),
        ({"training": {"pictures": {"scale": [1]}}}, "scale has 2 entries, not 1"),
        ({"training": {"pictures": {"kinds": ["pen"]}}}, r"kinds\[0\] is one of point"),
        ({"training": {"video": {"frames": 1}}}, "frames >= 2"),
    ],
)
def test_mistakes_of_seem_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_run({**SEEM, **change})


def test_files_and_what_takes_their_place(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(READER))
    run = read_run(path, {"minutes": 1.0, "seed": 4, "device": None})
    assert (run.minutes, run.steps, run.seed) == (1.0, None, 4)
    path.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        read_run(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path / "none.json")


def test_defaults_of_a_device(tmp_path: Path) -> None:
    run = parse_run({**READER, "folder": str(tmp_path), "device": "cpu"})
    device = use_device(run)
    assert count_workers(run, device) == 0
    assert choose_stages(run, [Stage(1.0, 64, 2)]) == (Stage(1.0, 64, 2),)


def test_a_model_that_is_not_there_is_named_first(tmp_path: Path) -> None:
    run = parse_run({**SEEM, "folder": str(tmp_path), "model": str(tmp_path / "none.safetensors")})
    assert isinstance(run, SeemRun)
    with pytest.raises(CheckpointError, match="is not there"):
        train_seem(run)


def test_the_documented_configurations_can_be_read() -> None:
    pages = [ROOT / "docs/training.md", ROOT / "docs/gpu.md", ROOT / "weights/README.md"]
    found = [match for page in pages for match in re.findall(r'\{"task".*?\n?.*?\}(?=\n|\')', page.read_text())]
    assert len(found) >= 3
    for text in found:
        parse_run(json.loads(text), text)


def test_packing_changes_what_suits_the_task(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**SEEM, "data": [{"path": "x"}], "packing": {"still_side": 800}}))
    specs, options = read_sources(path)
    assert [spec.path for spec in specs] == [Path("x")]
    assert (options.still_side, options.still_quality) == (800, PICTURES.still_quality)
    path.write_text(json.dumps({"data": [{"path": "x"}]}))
    assert read_sources(path)[1] == CLIPS
    with pytest.raises(InputError, match="thinning at least 1"):
        Packing(thinning=0).on(CLIPS)
    path.write_text(json.dumps({"images": [], "annotations": []}))
    assert read_sources(path)[0][0].kind == "coco"
    path.write_text("[]")
    with pytest.raises(InputError, match='no list "data"'):
        read_sources(path)
