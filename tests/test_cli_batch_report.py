"""``vos batch --report`` and ``--truth``: the page from the command line, with real masks, sheets and scores."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import square, write_clip, write_mask

from cli.main import run
from vos.label_files import write_labels


def test_a_batch_leaves_a_page_with_sheets_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, truth = tmp_path / "clips", tmp_path / "truth"
    for folder in (clips, truth / "dog"):
        folder.mkdir(parents=True)
    for name in ("dog", "cat"):
        write_clip(clips / f"{name}.mp4", 4)
        write_mask(clips / f"{name}.png")
    (clips / "bad.mp4").write_bytes(b"<script>not a video</script>")
    write_mask(clips / "bad.png")
    for frame in range(4):
        write_labels(truth / "dog" / f"{frame:05d}.png", square(frame).astype("uint8"))
    command = ["batch", str(clips), "-o", str(tmp_path / "out"), "--tracker", "copy", "--workers", "1", "--quiet"]
    assert run([*command, "--save", "contact", "--truth", str(truth)]) == 6
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("<tr id=") == 3
    assert "mean of 1 video with ground truth" in page
    assert "bad.mp4: it is not a video" in page


def test_truth_is_looked_at_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "a.mp4", 2)
    write_mask(tmp_path / "a.png")
    for out, truth in ((str(tmp_path / "out"), "missing"), ("s3://bucket/out", str(tmp_path))):
        assert run(["batch", str(tmp_path), "-o", out, "--tracker", "copy", "--truth", truth]) == 3
    assert "missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
