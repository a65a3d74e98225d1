"""The engine of one machine: real worker processes that do as they should, die, hang, grow, or lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clips import write_clip, write_mask
from worker_jobs import job, play

from seem_core.errors import LimitError
from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.local_engine import LocalEngine
from vos.output import read_run
from vos.pipeline import TrackOptions

ROOT = Path(__file__).resolve().parent.parent
LONG = 60.0  # seconds that a loaded machine may take


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalEngine]:
    """One worker that plays; a test must leave it free."""
    engine = LocalEngine(1, networks=False, run=play)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: LocalEngine) -> LocalEngine:
    wait_for(shared, lambda: shared.free == 1)
    return shared


def wait_for(engine: LocalEngine, reached: Callable[[], bool]) -> list[Event]:
    """Events until ``reached``."""
    found: list[Event] = []
    deadline = time.monotonic() + LONG
    while not reached():
        assert time.monotonic() < deadline, found
        found += engine.events(0.2)
    return found


def run_all(engine: LocalEngine, *jobs: VideoJob) -> tuple[dict[str, VideoOutcome], list[Event]]:
    """The outcomes of jobs, given to workers as they get free."""
    waiting, ends, heard = list(jobs), {}, []
    deadline = time.monotonic() + LONG
    while len(ends) < len(jobs):
        assert time.monotonic() < deadline, heard
        while waiting and engine.free:
            engine.submit(waiting.pop(0))
        new = engine.events(0.2)
        heard += new
        for event in new:
            if isinstance(event, Ended):
                assert event.name not in ends
                ends[event.name] = event.outcome
    return ends, heard


def test_a_worker_lives_for_many_videos_and_tells_what_it_does(engine: LocalEngine) -> None:
    ends, heard = run_all(engine, job("a"), job("b"))
    assert [end.outcome for end in ends.values()] == ["done", "done"]
    assert len({end.message for end in ends.values()}) == 1  # its process id
    first = [event for event in heard if event.name == "a"]
    assert isinstance(first[0], Started)
    assert first[1:3] == [Advanced("a", 1, 3), Advanced("a", 3, 3)]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("killed", "SIGKILL"),
        pytest.param(
            "fault", "SIGSEGV; Fatal Python error", marks=pytest.mark.skipif(os.name == "nt", reason="no signals")
        ),
        ("exit", "exit code 7; the library gave up"),
    ],
)
def test_a_worker_that_dies_costs_its_video_and_is_replaced(engine: LocalEngine, kind: str, words: str) -> None:
    ends, _ = run_all(engine, job(kind), job("after"))
    assert (ends[kind].outcome, ends[kind].cause, ends[kind].worth_another_try) == ("failed", "crash", True)
    assert words in ends[kind].message
    assert ends["after"].outcome == "done"


def test_what_a_job_prints_is_no_message(engine: LocalEngine) -> None:
    ends, _ = run_all(engine, job("noise"), job("after"))
    assert [end.outcome for end in ends.values()] == ["done", "done"]


def test_a_video_that_hangs_can_be_ended(engine: LocalEngine) -> None:
    engine.submit(job("hang"))
    wait_for(engine, lambda: engine.free == 0)
    engine.events(0.5)
    engine.abandon("somebody else", VideoOutcome("somebody else", "failed"))
    engine.abandon("hang", VideoOutcome("hang", "failed", cause="stall", message="stood still"))
    engine.abandon("hang", VideoOutcome("hang", "failed", cause="bug", message="too late"))
    found = wait_for(engine, lambda: engine.free == 1)
    ends = [event.outcome for event in found if isinstance(event, Ended)]
    assert [(end.cause, end.message) for end in ends] == [("stall", "stood still")]
    assert run_all(engine, job("after"))[0]["after"].outcome == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched on Linux")
def test_a_video_that_takes_too_much_memory_is_ended() -> None:
    engine = LocalEngine(1, networks=False, run=play, max_memory=600 << 20)
    try:
        ends, _ = run_all(engine, job("greedy"), job("after"))
    finally:
        engine.close()
    assert (ends["greedy"].cause, ends["greedy"].worth_another_try) == ("limit", False)
    assert "of memory, where one video may take 629 MB" in ends["greedy"].message
    assert ends["after"].outcome == "done"


def test_stop_lets_every_worker_finish_its_frame_and_begins_nothing() -> None:
    engine = LocalEngine(2, networks=False, run=play)
    try:
        wait_for(engine, lambda: engine.free == 2)
        engine.submit(job("wait1"))
        engine.submit(job("wait2"))
        engine.stop()
        assert engine.free == 0
        found: list[Event] = []
        deadline = time.monotonic() + LONG
        while sum(isinstance(event, Ended) for event in found) < 2 and time.monotonic() < deadline:
            found += engine.events(0.2)
        assert [e.outcome.outcome for e in found if isinstance(e, Ended)] == ["interrupted", "interrupted"]
        assert engine.free == 0
        with pytest.raises(ValueError, match="no worker is free"):
            engine.submit(job("late"))
    finally:
        engine.close()
        engine.close()
    assert engine.events(0.0) == []


def test_a_signal_to_a_worker_alone_interrupts_its_video(engine: LocalEngine) -> None:
    pid = int(run_all(engine, job("a"))[0]["a"].message)
    engine.submit(job("wait"))
    found = list(engine.events(5.0))
    os.kill(pid, signal.SIGTERM)
    found += wait_for(engine, lambda: engine.free == 1)
    assert [e.outcome.outcome for e in found if isinstance(e, Ended)] == ["interrupted"]
    assert run_all(engine, job("b"))[0]["b"].message != str(pid)


def test_workers_that_cannot_start_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vos.batch.worker_process.BOOTSTRAP", "raise SystemExit('no such library')")
    engine = LocalEngine(1, run=play)
    try:
        with pytest.raises(LimitError, match=r"cannot be started .*no such library"):
            wait_for(engine, lambda: False)
    finally:
        engine.close()


DRIVER = """
    import sys, time
    from worker_jobs import job, play
    from vos.batch.local_engine import LocalEngine

    engine = LocalEngine(1, networks=False, run=play)
    while not engine.free:
        engine.events(0.2)
    engine.submit(job("hang"))
    print(engine._workers[0].pid, flush=True)
    while True:
        engine.events(1.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends children of a process on Linux alone")
def test_workers_end_with_their_parent_even_while_they_compute(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-c", textwrap.dedent(DRIVER)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        driver.kill()
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_real_videos_are_tracked_in_workers(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "mask.png")
    options = TrackOptions(tracker="copy")
    jobs = [
        VideoJob(name, write_clip(tmp_path / f"{name}.mp4", 6), tmp_path / "out" / name, (), (str(mask),), options)
        for name in ("one", "two")
    ]
    jobs.append(VideoJob("none", tmp_path / "none.mp4", tmp_path / "out" / "none", (), (str(mask),), options))
    engine = LocalEngine(1, networks=False)
    try:
        ends, heard = run_all(engine, *jobs)
    finally:
        engine.close()
    assert {name: end.outcome for name, end in ends.items()} == {"one": "done", "two": "done", "none": "failed"}
    assert "none.mp4" in ends["none"].message
    assert [read_run(tmp_path / "out" / name).state for name in ("one", "two")] == ["done", "done"]
    assert max(e.done for e in heard if isinstance(e, Advanced) and e.name == "one") == 6
