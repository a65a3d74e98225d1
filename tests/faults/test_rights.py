"""Folders that the user may not enter or read: one sentence and exit code 3, whichever argument leads there."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip, write_mask
from rights import let_through, without_rights

from cli.main import run
from vos.masks import write_labels

LATE = ("cli.render", "cli.batch", "cli.score", "cli.davis", "vos.benchmarks.davis", "vos.render")
LATE += ("vos.batch.driver", "vos.batch.ledger", "vos.batch.local_engine", "vos.batch.plan", "vos.batch.storage")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Current folder: clip.mp4, clip.png, dataset gt, predictions p, results out, and all of it in ``locked``, shut."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", 3)
    write_mask(tmp_path / "clip.png")
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 5:15] = 1
    for folder in ("gt/bear", "p/bear"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(4):
            write_labels(tmp_path / folder / f"{i:05d}.png", labels)
    assert run(["track", "clip.mp4", "-m", "clip.png", "--tracker", "copy", "--save", "masks", "-o", "out", "-q"]) == 0
    things = list(tmp_path.iterdir())
    (tmp_path / "locked").mkdir()
    for thing in things:
        copy = tmp_path / "locked" / thing.name
        shutil.copytree(thing, copy) if thing.is_dir() else shutil.copy(thing, copy)
    let_through(tmp_path)
    for module in LATE:  # Python itself may lie where only its owner may go
        importlib.import_module(module)
    tmp_path.chmod(0o777)
    (tmp_path / "locked").chmod(0)
    yield tmp_path
    (tmp_path / "locked").chmod(0o755)


TRACK = ("--tracker", "copy", "--save", "masks", "-q")


@pytest.mark.parametrize(
    "arguments",
    [
        ("track", "locked/clip.mp4", "-m", "clip.png", "-o", "new", *TRACK),
        ("track", "clip.mp4", "-m", "locked/clip.png", "-o", "new", *TRACK),
        ("track", "clip.mp4", "-m", "clip.png", "-o", "locked/new", *TRACK),
        ("track", "clip.mp4", "-m", "clip.png", "-o", "locked", *TRACK),
        ("track", "locked", "-m", "clip.png", "-o", "new", *TRACK),
        ("render", "locked/out", "-q"),
        ("render", "out", "--video", "locked/clip.mp4", "-q"),
        ("batch", "locked", "-o", "new", *TRACK),
        ("batch", ".", "-o", "locked/new", *TRACK),
        ("score", "locked/p", "gt", "-q"),
        ("score", "p", "locked/gt", "-q"),
        ("score", "locked", "gt", "-q"),
        ("score", "p", "locked", "-q"),
        ("score", "p", "gt", "--set", "locked/list.txt", "-q"),
        ("davis", "locked", "-o", "new", "-q"),
    ],
)
def test_one_sentence(place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    with without_rights():
        assert not os.access("locked/clip.mp4", os.R_OK, effective_ids=True)
        code = run(arguments)
    said = capsys.readouterr()
    assert (code, said.out) == (3, ""), said.err
    lines = [line for line in said.err.splitlines() if "is passed over" not in line]  # a batch names what it leaves out
    assert [line.startswith("vos: error: ") for line in lines] == [True]
    assert "locked" in said.err
    assert "ermission denied" in said.err
