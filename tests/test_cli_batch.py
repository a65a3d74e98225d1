"""``vos batch`` as a user types it: what is tracked, what is printed where, and the exit codes. Workers are real."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from clips import write_clip, write_mask

import vos
from cli import batch_progress
from cli.batch_progress import BatchProgress, Tally, duration
from cli.batch_summary import SummaryLine, summary
from cli.main import run
from cli.tables import elided
from vos.batch.driver import Finished, Stopping, Turned
from vos.batch.engine import Advanced, Started
from vos.batch.job import VideoOutcome
from vos.output import read_run
from vos.pipeline import TrackOptions

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parent.parent
COPY = ("--tracker", "copy", "--save", "masks", "--workers", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good videos, one with a bad mask, one that is no video, one without a mask."""
    place = tmp_path / "clips"
    place.mkdir()
    for name in ("a2", "a10", "badmask", "nomask"):
        write_clip(place / f"{name}.mp4", 4)
    (place / "novideo.mp4").write_text("not a video\n")
    for name in ("a2", "a10", "novideo"):
        write_mask(place / f"{name}.png")
    (place / "badmask.png").write_text("not a mask\n")
    return place


def rows(text: str) -> list[list[str]]:
    """The lines of the table, without messages and totals."""
    return [line.split() for line in text.split("\n\n")[0].splitlines() if not line.startswith(" ")]


def test_a_batch_does_what_it_can_says_the_rest_and_is_not_done_again(folder: Path, capsys: Captured) -> None:
    out = folder.parent / "out"
    assert run(["batch", str(folder), "-o", str(out), "-q", "--report", *COPY]) == 6
    said = capsys.readouterr()
    lines = rows(said.out)
    assert [line[0] for line in lines] == ["video", "a2.mp4", "a10.mp4", "badmask.mp4", "novideo.mp4", "nomask.mp4"]
    assert [line[1] for line in lines[1:]] == ["done", "done", "failed", "failed", "no"]
    assert said.out.splitlines()[-3:] == [
        "5 videos: 2 done, 2 failed, 1 no prompt",
        said.out.splitlines()[-2],
        str(out / "report.html"),
    ]
    assert max(map(len, said.out.splitlines()[:-1])) <= 80
    assert "nomask.mp4 has no prompt beside it" in said.err
    assert "vos: badmask failed: " in said.err
    assert "Traceback" not in said.err
    assert len(list((out / "a10" / "masks").glob("*.png"))) == 4
    assert "badmask" in (out / "report.html").read_text()

    record = (out / "a2" / "run.json").read_bytes()
    assert run(["batch", str(folder), "-o", str(out), "-q", "--json", *COPY]) == 6
    result = json.loads(capsys.readouterr().out)
    assert [item["outcome"] for item in result["videos"]] == ["already done"] * 2 + ["failed"] * 2 + ["no prompt"]
    assert [item["cause"] for item in result["videos"]][2:4] == ["input", "input"]
    assert (out / "a2" / "run.json").read_bytes() == record

    write_mask(folder / "badmask.png")  # what was mended is tried again by itself
    assert run(["batch", str(folder), "-o", str(out), *COPY]) == 6
    said = capsys.readouterr()
    assert [line[1] for line in rows(said.out)[1:]] == ["already", "already", "done", "failed", "no"]
    assert "vos retry" in said.err


def test_prompts_beside_a_video_and_for_every_video(folder: Path, capsys: Captured) -> None:
    for name in ("badmask.mp4", "badmask.png", "novideo.mp4", "novideo.png"):
        (folder / name).unlink()
    box = {"version": 1, "objects": [{"id": 3, "prompts": [{"frame": 2, "box": [4, 16, 20, 32]}]}]}
    for name in ("nomask", "a2"):
        (folder / f"{name}.json").write_text(json.dumps(box))
    (folder / "a10.json").write_text('{"title": "a video about something"}')
    assert run(["batch", str(folder), "-o", str(folder / "out"), "-q", *COPY]) == 0
    assert [read_run(folder / "out" / name).ids for name in ("a2", "a10", "nomask")] == [(1, 3), (1,), (3,)]
    for name in ("nomask.json", "a2.json", "a10.json", "a2.png"):
        (folder / name).unlink()
    options = TrackOptions(save_memory=str(folder / "m"))
    vos.track_to_folder(folder / "a10.mp4", folder.parent / "first", mask=folder / "a10.png", options=options)
    (folder / "a10.png").unlink()
    shared = ["--memory", str(folder / "m"), "--save", "masks", "-w", "1", "-q"]
    assert run(["batch", str(folder), "-o", str(folder / "two"), *shared]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "3 videos: 3 done"


def test_a_folder_without_videos_or_with_two_of_one_name_is_refused(folder: Path, capsys: Captured) -> None:
    (folder / "empty").mkdir()
    assert run(["batch", str(folder / "empty"), "-o", str(folder / "out"), *COPY]) == 3
    assert "holds no video file" in capsys.readouterr().err
    (folder / "a2.mov").write_bytes((folder / "a2.mp4").read_bytes())
    assert run(["batch", str(folder), "-o", str(folder / "out"), *COPY]) == 3
    assert "would both write to" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--max-disk", "lots"), 3, "'lots' is no amount"),
        (("--max-memory", "0"), 3, "'0' is no amount"),
        (("--tries", "0"), 2, "--tries"),
        (("--workers", "0"), 2, "--workers"),
        (("--engine", "cloud"), 2, "--engine"),
    ],
)
def test_wrong_options_are_one_sentence(
    folder: Path, capsys: Captured, more: tuple[str, ...], code: int, words: str
) -> None:
    assert run(["batch", str(folder), "-o", str(folder / "out"), "-q", *more]) == code
    assert words in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_plan_is_printed_and_nothing_done(folder: Path, capsys: Captured) -> None:
    assert run(["batch", str(folder), "-o", str(folder.parent / "out"), "-n", *COPY]) == 0
    said = capsys.readouterr()
    assert "5 videos" not in said.err
    for name in ("a2", "a10", "badmask", "novideo", "nomask"):
        assert name in said.out
    assert not (folder.parent / "out").exists()


def test_where_the_results_take_what_they_may_the_batch_stops(folder: Path, capsys: Captured) -> None:
    for name in ("badmask", "novideo"):
        (folder / f"{name}.mp4").unlink()
    out = folder.parent / "out"
    (out / "a2").mkdir(parents=True)
    (out / "a2" / "notes.txt").write_text("x" * 2000)
    assert run(["batch", str(folder), "-o", str(out), "--max-disk", "1k", *COPY]) == 5
    said = capsys.readouterr()
    assert "vos: stopping: the results take 2.0 kB, all of the 1.0 kB that they may" in said.err
    assert said.out.splitlines()[-1] == "3 videos: 2 waiting, 1 no prompt"
    assert "the same command goes on" in said.err


def test_a_log_in_json_has_one_object_per_event(folder: Path, capsys: Captured) -> None:
    assert run(["batch", str(folder), "-o", str(folder.parent / "out"), "--log-format", "json", *COPY]) == 6
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"warning", "progress", "started", "finished", "ended"} <= {event["event"] for event in events}
    done = next(event for event in events if event["event"] == "finished" and event["video"] == "a2")
    assert (done["outcome"], done["state"], done["frames"]) == ("done", "done", 4)
    assert events[-1]["counts"] == {"done": 2, "failed": 2, "no prompt": 1}
    assert events[-1]["code"] == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_rest_waiting_and_the_same_command_goes_on(
    tmp_path: Path, capsys: Captured, number: signal.Signals
) -> None:
    """Also where the signal goes to the workers, as Ctrl-C on a terminal does."""
    (tmp_path / "clips").mkdir()
    write_mask(tmp_path / "clips" / "one.png")
    write_mask(tmp_path / "clips" / "two.png")
    write_clip(tmp_path / "clips" / "one.mp4", 1500)
    write_clip(tmp_path / "clips" / "two.mp4", 4)
    arguments = ["batch", str(tmp_path / "clips"), "-o", str(tmp_path / "out"), "--log-format", "json", *COPY]
    code = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    assert process.stderr is not None
    while '"started"' not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, number)
    printed, _ = process.communicate()
    watchdog.cancel()
    assert process.returncode == 130, printed
    assert "2 videos: 2 waiting" in printed
    assert run([*arguments, "-q"]) == 0
    assert "2 videos: 2 done" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "one" / "masks").iterdir())) == 1500


# ---- what is shown


class Ticks:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_tally_counts_what_this_run_does() -> None:
    clock = Ticks()
    tally = Tally(4, clock)
    assert (tally.line(), tally.rate, tally.seconds_left) == ("0/4 videos", None, None)
    tally.advance("a", 51, 100)  # it goes on after 50 frames of an earlier run
    clock.now = 10.0
    tally.advance("a", 100, 100)
    assert tally.frames == 50
    assert tally.rate == 5.0
    tally.end("a", "done")
    tally.settled = 1
    tally.advance("b", 1, 100)
    tally.advance("b", 1, 100)
    assert tally.now == (("b", 1, 100),)
    assert tally.seconds_left == pytest.approx((99 + 2 * 100) / 5.1)
    assert tally.line() == "1/4 videos, 51 frames, 5.1 frames/s, about 59 s left"
    tally.end("b", "failed")
    tally.settled = 4
    assert tally.line() == "4/4 videos (1 failed), 51 frames, 5.1 frames/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (11100, "3 h 5 min"), (187200, "2 d 4 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def hear_all(progress: BatchProgress) -> None:
    """A video that is done, one whose worker dies, and the wish to stop."""
    with progress:
        progress.hear(Turned(0, 2))
        progress.hear(Started("a", "w"))
        progress.hear(Advanced("a", 1, 3))
        progress.hear(Turned(1, 2))
        progress.hear(Finished("a", VideoOutcome("a", "done", 3, 2.0, warnings=("one gap",)), "done"))
        logging.getLogger("vos.test").warning("said by the %s", "log")
        progress.hear(Finished("b", VideoOutcome("b", "failed", 0, 1.0, "crash", "died\x1b[2J"), "waiting"))
        progress.hear(Stopping("interrupted"))


def test_progress_in_a_file_is_plain_lines(capsys: Captured) -> None:
    hear_all(BatchProgress(2))
    said = capsys.readouterr().err.splitlines()
    assert said.pop(2).endswith("said by the log")
    assert said == [
        "vos: warning: a: one gap",
        "a: done, 3 frames in 2 s (1.5 frames/s)",
        "vos: b failed: died\\x1b[2J; it will be tried again",
        "vos: stopping: interrupted; the frames in work are finished",
    ]
    hear_all(BatchProgress(2, quiet=True))
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_progress_on_a_terminal_is_one_line_as_wide_as_it(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(batch_progress, "SECONDS_BETWEEN_DRAWINGS", 0.0)
    monkeypatch.setenv("COLUMNS", "40")
    hear_all(BatchProgress(2))
    screen: list[str] = []
    for line in capsys.readouterr().err.split("\n"):
        shown = ""
        for drawn in line.split("\r"):
            assert len(drawn) <= 80 if drawn.startswith("vos") else True
            shown = drawn + shown[len(drawn) :]
        screen.append(shown.rstrip())
    assert screen[0] == "vos: warning: a: one gap"
    assert screen[-1] == ""  # nothing is left of the line


def line(name: str, outcome: str, **more: object) -> SummaryLine:
    return SummaryLine(Path(f"{name}.mp4"), Path("out") / name, outcome, **more)  # type: ignore[arg-type]


def test_the_summary_of_many_videos_lists_what_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line(f"clip{n}", "done", frames=100, seconds=10.0) for n in range(1000)]
    lines.insert(500, line("x" * 200 + "\n", "failed", cause="input", message="/long/path" * 100))
    text = list(summary(lines, 100.0, 100_000))
    assert len(text) == 9
    assert max(map(len, text)) <= 80
    assert text[-2:] == ["1001 videos: 1000 done, 1 failed", "100,000 frames in 1 min 40 s, 1000.0 frames/s"]
    assert list(summary(lines[:1] * 50, 1.0, 0)) == ["50 videos: 50 done"]


def test_the_summary_of_a_few_videos_also_says_what_was_odd_about_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gap = "1 of 50 frames of b.mp4 cannot be decoded: 30"
    lines = [line("a", "done", frames=3, seconds=1.0), line("b", "done", frames=49, seconds=10.0, warnings=(gap,))]
    text = list(summary(lines, 0.5, 52))
    assert text[2:] == [
        "b.mp4  done         49       4.9",
        f"    {gap}",
        "",
        "2 videos: 2 done; 1 with warnings",
        "52 frames in 0 s",
    ]


def test_names_lose_their_middle() -> None:
    assert elided("short", 10) == "short"
    assert elided("abcdefghijklmnop", 10) == "abcd...nop"
