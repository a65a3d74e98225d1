"""A batch in which something is killed again and again ends as one that nobody disturbed: `benchmarks/kills.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from batch_runs import run_batch_to_end
from clips import write_clip, write_mask
from support import require

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "kills.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def disturb(*arguments: str, limit: float) -> dict[str, Any]:
    """What the script reports; it ends by itself, and ``limit`` seconds are for the case that it does not."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=limit,
    )  # fmt: skip
    assert done.stdout.startswith("{"), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["differences"] == []
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("kills", "clips"), [(4, 3), pytest.param(20, 12, marks=pytest.mark.long)], ids=["few", "twenty"]
)
def test_kills_of_workers_and_the_driver_change_nothing(kills: int, clips: int) -> None:
    found = disturb("--kills", str(kills), "--clips", str(clips), "--frames", "50", "--seconds", "110", limit=400)
    assert sum(found["kills"].values()) == kills or found["cut"]  # a machine with much else to do has time for fewer
    assert found["kills"]["worker"] > 0
    assert found["starts"] == 1 + found["kills"].get("driver", 0)
    assert found["resumed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_nodes_of_a_cluster_change_nothing() -> None:
    """Three only: a node takes long to start. The script does as many as it is told."""
    require(importlib.util.find_spec("ray") is not None, "Ray is not installed; pip install 'seem-vos[ray]'")
    found = disturb(
        "--engine", "ray", "--kills", "3", "--clips", "4", "--frames", "50", "--seconds", "200", limit=580
    )  # fmt: skip
    assert sum(found["kills"].values()) == 3 or found["cut"]
    assert found["cut"] or found["kills"]["node"] == 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("kills_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_difference_is_found(script: ModuleType, tmp_path: Path) -> None:
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    write_clip(tmp_path / "a.mp4", 5)
    write_mask(tmp_path / "a.png")
    assert run_batch_to_end(str(tmp_path / "a.mp4"), "-o", str(quiet), "--tracker", "copy", "--save", "masks")[0] == 0
    shutil.copytree(quiet, out)
    assert script.compare(quiet, out, ["a"]) == []
    assert list(script.half_written(out)) == []

    mask, frames, run = out / "a/masks/00003.png", out / "a/frames.jsonl", out / "a/run.json"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:-5])
    assert list(script.half_written(out)) == ["a/masks/00003.png has a line and is not whole"]
    assert script.compare(quiet, out, ["a"]) == ["a/masks/00003.png differs"]
    mask.unlink()
    assert script.compare(quiet, out, ["a"]) == ["a/masks/00003.png is missing"]
    mask.write_bytes(whole)

    lines = frames.read_bytes()
    frames.write_bytes(lines[: lines.rindex(b"\n", 0, -1) + 1])
    assert list(script.half_written(out)) == ["a is done with 4 of 5 lines"]
    frames.write_bytes(lines)
    (out / "a" / ".state").mkdir()
    (out / "a" / "run.json.tmp").touch()
    assert script.compare(quiet, out, ["a"]) == ["a/.state is left over", "a/run.json.tmp is left over"]
    (out / "a" / ".state").rmdir()
    (out / "a" / "run.json.tmp").unlink()

    run.write_text(run.read_text().replace('"state": "done"', '"state": "interrupted"'))
    assert script.compare(quiet, out, ["a", "b"]) == ["a/run.json differs", "the ledger says None of b"]
    run.write_bytes((quiet / "a" / "run.json").read_bytes())
    run.write_text(run.read_text().replace('"seconds": ', '"seconds": 1'))
    assert script.compare(quiet, out, []) == ["the ledger knows a"]
