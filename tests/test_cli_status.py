"""``vos status`` and ``vos retry``: one page at 80 columns, JSON, watching on a terminal and into a file."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import World, done, failed, job

from cli import status as cli_status
from cli.main import INTERRUPTED, run
from vos.batch.job import VideoOutcome
from vos.batch.ledger import LEDGER_FILE, Ledger
from vos.batch.machine import Machine

LONG = "a name that goes on\nand on and on until it is cut " + os.fsdecode(b"\xff")


class Batch:
    """A batch of this process with some of everything; the watching tests move it on while somebody looks."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        here = Machine.here()
        self.began = here.monotonic()
        self.clock = World(now=self.began)
        self.ledger = Ledger.open(
            self.out, find_run=lambda job: None, machine=replace(here, monotonic=lambda: self.clock.now)
        )
        self.ledger.enter([job(folder, name) for name in ("good", "bad", "worse", "first", "second", LONG)])
        for name in ("good", "bad", "worse"):
            self.ledger.claim(name)
        self.ledger.end("good", done("good"))
        message = f"{folder}/bad.mp4 cannot be read as a video (moov atom not found); give a file that is whole, " * 3
        self.ledger.end("bad", replace(failed("bad"), message=message))
        for _ in range(2):
            self.ledger.claim("worse")
            self.ledger.end("worse", replace(failed("worse", "crash"), message="its worker died"), tries=2)

    def begin(self, name: str = "first") -> None:
        self.ledger.claim(name)
        self.ledger.begin(name, "worker 1 (pid 4711)")
        for frame, moment in ((10, -5.0), (60, 0.0)):
            self.clock.now = self.began + moment
            self.ledger.advance(name, frame, 150)
            self.ledger.beat(now=True)

    def end_all(self, outcome: Callable[[str], VideoOutcome] = done) -> None:
        for row in self.ledger.rows():
            if row.state == "waiting":
                self.ledger.claim(row.name)
            if row.state in ("waiting", "running"):
                self.ledger.end(row.name, outcome(row.name))


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def test_a_page_tells_what_is_done_runs_and_failed(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.begin()
    assert run(["status", str(batch.out)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    text = re.sub(r"\s+", " ", said.out)
    assert "6 videos: 1 done, 2 failed, 1 running, 2 waiting" in text
    assert re.search(r"running worker frames frames/s left first worker\.\.\.4711\) 60/150 10\.0 9 s", text)
    assert "bad: " in text
    assert "moov atom not found" in text
    assert "worse (tried 2 times): its worker died" in text
    assert "nobody works on it" not in text


def test_at_80_columns_nothing_is_wider(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.begin(LONG)
    assert run(["status", str(batch.out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^a name that go.*\.\.\..* cut \\xff  worker", said, re.MULTILINE)
    assert not [line for line in said.splitlines() if len(line) > 80]


def test_a_batch_that_nobody_works_on_says_so(batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    ledger = world.driver(batch.out, 77)  # no such process on this boot
    batch.ledger.close()
    ledger.enter([job(tmp_path, "first")])
    ledger.claim()
    run(["status", str(batch.out)])
    said = capsys.readouterr().out
    assert "1 interrupted, 2 waiting" in said
    assert "nobody works on it; the vos batch that made it goes on with what is left" in said
    assert re.search(r"first +\(gone\)", said)


def test_videos_that_wait_again_say_why(batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch.ledger.enter([job(tmp_path, "bad", overwrite=True)])
    run(["status", str(batch.out)])
    assert "waiting again\n  bad: it is to be overwritten\n" in capsys.readouterr().out


def test_many_videos_are_counted_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with World().driver(tmp_path / "out", 1) as ledger:
        names = [f"v{i}" for i in range(cli_status.LISTED + 5)]
        ledger.enter([job(tmp_path, name) for name in names])
        for name in names:
            ledger.claim(name)
            ledger.end(name, failed(name))
    run(["status", str(tmp_path / "out")])
    assert "... and 5 more" in capsys.readouterr().out


def test_json_has_every_field_and_any_name(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    batch.begin()
    assert run(["status", str(batch.out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"done": 1, "failed": 2, "running": 1, "waiting": 2}
    assert told["drivers"] == 1
    rows = {row["name"]: row for row in told["videos"]}
    assert rows[LONG]["state"] == "waiting"
    assert (rows["bad"]["exit_code"], rows["bad"]["cause"], rows["worse"]["tries"]) == (3, "input", 2)
    assert (rows["first"]["frame"], rows["first"]["total"], rows["first"]["rate"]) == (60, 150, 10)
    assert rows["first"]["seconds_left"] == 9


def test_without_a_batch_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "retry"):
        assert run([command, str(tmp_path)]) == 3
        assert "holds no batch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Steps:
    """Stands in for the wish to stop: what would be waiting between two looks moves the batch on instead."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def wait(self, seconds: float) -> bool:
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left open."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *given: monkeypatch.setattr(cli_status, "stop_on_signal", lambda: Steps(*given))


def test_watching_into_a_file_writes_a_line_per_change(
    batch: Batch, steps: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    steps(batch.begin, lambda: None, lambda: batch.ledger.beat(now=True), batch.end_all)
    assert run(["status", str(batch.out), "--watch"]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "6 videos: 1 done, 2 failed, 3 waiting",
        "6 videos: 1 done, 2 failed, 1 running, 2 waiting",
        "6 videos: 4 done, 2 failed",
    ]
    assert lines[3:5] == ["", "failed"]
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_watching_ends_well_where_all_are_done(
    tmp_path: Path, steps: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with World().driver(tmp_path / "out", 1) as ledger:
        ledger.enter([job(tmp_path, "a")])
        ledger.claim()
        steps(lambda: ledger.end("a", done("a")))
        assert run(["status", str(tmp_path / "out"), "-w"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 video: 1 done"


def test_watching_stops_on_a_signal(batch: Batch, steps: Callable[..., None]) -> None:
    steps()
    assert run(["status", str(batch.out), "--watch"]) == INTERRUPTED


def test_watching_as_json_writes_an_object_a_line(
    batch: Batch, steps: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_but_time() -> None:
        batch.clock.now += 3

    steps(batch.begin, nothing_but_time, batch.end_all)
    assert run(["status", str(batch.out), "--watch", "--json"]) == 6
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [page["counts"]["done"] for page in told] == [1, 1, 4]


class Screen(io.StringIO):
    """A terminal that knows two commands: so many lines up, and clear from here on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = ["$ vos status"]
        self.row = 1

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Z]|\n|[^\x1b\n]+", text):
            if up := re.fullmatch(r"\x1b\[(\d+)F", part):
                self.row -= int(up[1])
            elif part == "\x1b[J":
                del self.lines[self.row :]
            elif part == "\n":
                self.row += 1
            else:
                assert "\x1b" not in part
                self.lines += [""] * (self.row + 1 - len(self.lines))
                self.lines[self.row] += part
        return len(text)


def test_watching_on_a_terminal_draws_one_page_over_the_last(
    batch: Batch, steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    seen: list[list[str]] = []
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "30")

    def look(then: Callable[[], object] = lambda: None) -> Callable[[], object]:
        return lambda: (seen.append(list(screen.lines)), then())

    steps(look(batch.begin), look(batch.end_all))
    assert run(["status", str(batch.out), "--watch"]) == 6
    for page, counts in zip([*seen, screen.lines], ("3 waiting", "1 running, 2 waiting", "4 done"), strict=True):
        assert page[0] == "$ vos status"
        assert sum("videos: " in line for line in page) == 1
        assert counts in page[1]
        assert all(len(line) <= 80 for line in page)
    assert any("first" in line for line in seen[1])
    assert not any("first" in line for line in screen.lines)


def test_a_low_terminal_is_not_overrun(
    batch: Batch, steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    heights: list[int] = []
    steps(lambda: heights.append(len(screen.lines) - 1))
    run(["status", str(batch.out), "--watch"])
    assert heights[0] <= 4


def test_retry_says_what_waits_again(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["retry", str(batch.out), "bad"]) == 0
    assert capsys.readouterr().out == "1 video waits again for the vos batch that runs now: bad\n"
    batch.ledger.close()
    assert run(["retry", str(batch.out)]) == 0
    assert capsys.readouterr().out == "1 video waits again for the vos batch that is started next: worse\n"
    assert run(["retry", str(batch.out)]) == 0
    assert capsys.readouterr().out == "no video failed, nothing waits again\n"
    assert run(["retry", str(batch.out), "good"]) == 3
    assert "video 'good' has not failed, it is done" in capsys.readouterr().err


def test_a_ledger_that_vanishes_while_it_is_watched_is_a_sentence(
    batch: Batch, steps: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    steps((batch.out / LEDGER_FILE).unlink)
    assert run(["status", str(batch.out), "--watch"]) == 3
    assert "holds no batch" in capsys.readouterr().err
