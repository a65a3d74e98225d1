"""Scores of a batch: by the name of the results, over frames that have truth; what cannot be scored says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from clips import square
from PIL import Image

from seem_core.errors import DatasetError
from vos.batch.report import ReportRow, write_report
from vos.batch.report_scores import with_scores
from vos.label_files import write_labels


def masks(folder: Path, shift: int = 0, frames: int = 4) -> Path:
    folder.mkdir(parents=True)
    for frame in range(frames):
        write_labels(folder / f"{frame:05d}.png", square(frame + shift).astype("uint8"))
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> list[ReportRow]:
    """Masks that are right, masks that are late, masks of which one is missing, and a video without truth."""
    for name, shift, frames in (("right", 0, 4), ("late", 4, 4), ("short", 0, 2), ("other", 0, 4)):
        masks(tmp_path / "out" / name / "masks", shift, frames)
        (tmp_path / "out" / name / "run.json").write_text("{}")
        if name != "other":
            masks(tmp_path / "truth" / name)
    return [ReportRow(n, "done", 4, 1.0, folder=tmp_path / "out" / n) for n in ("right", "late", "short", "other")]


def test_finished_videos_with_truth_are_scored(rows: list[ReportRow], tmp_path: Path) -> None:
    right, late, short, other = with_scores(rows, tmp_path / "truth")
    assert right.scores is not None
    assert late.scores is not None
    assert (right.scores.J, right.scores.F) == (1, 1)
    assert 0.2 < late.scores.J < 0.6  # a quarter to a half of the square
    assert short.scores is None
    assert short.warnings[0].startswith("no score: sequence 'short' lacks 1 of")
    assert other == rows[3]
    assert "1.000" in write_report(tmp_path / "r.html", [right, late]).read_text(encoding="utf-8")


def test_what_is_not_done_is_not_scored(rows: list[ReportRow], tmp_path: Path) -> None:
    failed = [replace(rows[0], outcome="failed"), replace(rows[0], folder=None)]
    assert list(with_scores(failed, tmp_path / "truth")) == failed


def test_truth_that_is_none_is_refused(rows: list[ReportRow], tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError):
        with_scores(rows, tmp_path / "missing")
