"""The driver of a batch with an engine that does as the test says, on a real ledger and a clock of the test's own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip, write_mask

from vos.batch.disk_watch import DiskWatch, size_of
from vos.batch.driver import START_UP, BatchEvent, Finished, Limits, Noticed, Stopping, Turned, run_batch
from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome, run_video
from vos.batch.ledger import Ledger
from vos.batch.sizes import amount, parse_amount
from vos.pipeline import TrackOptions


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeEngine:
    """Plays ``script(job, attempt)``: a list of lists, the events of one turn each, for every run of a video."""

    script: Callable[[VideoJob, int], Sequence[Sequence[Event]]]
    clock: Clock
    places: int = 1
    seconds_per_turn: float = 1.0
    taken: list[VideoJob] = field(default_factory=list)
    plays: dict[str, deque[Sequence[Event]]] = field(default_factory=dict)
    forced: list[Event] = field(default_factory=list)
    stopped: bool = False

    @property
    def free(self) -> int:
        return 0 if self.stopped else self.places - len(self.plays)

    def submit(self, job: VideoJob) -> None:
        assert self.free
        attempt = sum(item.name == job.name for item in self.taken)
        self.taken.append(job)
        self.plays[job.name] = deque(self.script(job, attempt))

    def events(self, timeout: float) -> list[Event]:
        self.clock.now += self.seconds_per_turn
        found, self.forced = self.forced, []
        for name, turns in list(self.plays.items()):
            if self.stopped:
                turns = deque([[Ended(name, VideoOutcome(name, "interrupted", 1))]])
            found += turns.popleft() if turns else []
            if any(isinstance(event, Ended) and event.name == name for event in found):
                del self.plays[name]
        return found

    def abandon(self, name: str, why: VideoOutcome) -> None:
        if self.plays.pop(name, None) is not None:
            self.forced.append(Ended(name, why))

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.plays.clear()


def good(job: VideoJob, attempt: int = 0) -> list[list[Event]]:
    """Three frames, and really done: the ledger looks at the folder."""
    first: list[Event] = [Started(job.name, "w"), Advanced(job.name, 1, 3)]
    return [first, [Advanced(job.name, 3, 3), Ended(job.name, run_video(job))]]


def ends(job: VideoJob, **outcome: Any) -> list[list[Event]]:
    """A run that ends after a frame."""
    first: list[Event] = [Started(job.name, "w"), Advanced(job.name, 1, 3)]
    return [first, [Ended(job.name, VideoOutcome(job.name, "failed", 1, **outcome))]]


@pytest.fixture
def jobs(tmp_path: Path) -> list[VideoJob]:
    mask = str(write_mask(tmp_path / "mask.png"))
    video = write_clip(tmp_path / "clip.mp4", 3)
    options = TrackOptions(tracker="copy")
    return [
        VideoJob(name, video, tmp_path / "out" / name, (), (mask,), options, frozenset({"masks"}))
        for name in ("a", "b", "c")
    ]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "out") as ledger:
        yield ledger


def drive(
    jobs: Sequence[VideoJob], ledger: Ledger, engine: FakeEngine, limits: Limits | None = None
) -> list[BatchEvent]:
    """Everything that the driver tells, with a bound on its turns."""
    found = []
    for event in run_batch(jobs, ledger, engine, limits=limits or Limits(reserve=0), clock=engine.clock):
        found.append(event)
        assert len(found) < 1000
    return found


def finished(events: Sequence[BatchEvent]) -> list[tuple[str, str, str]]:
    return [(e.name, e.outcome.cause or e.outcome.outcome, e.state) for e in events if isinstance(e, Finished)]


def states(ledger: Ledger) -> dict[str, str]:
    return {row.name: row.state for row in ledger.rows()}


def test_every_video_is_done_once_in_order(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(good, Clock())
    events = drive(jobs, ledger, engine)
    assert finished(events) == [(name, "done", "done") for name in "abc"]
    assert [e.worker for e in events if isinstance(e, Started)] == ["w"] * 3
    assert [(e.done, e.total) for e in events if isinstance(e, Advanced)] == [(1, 3), (3, 3)] * 3
    assert events[-1] == Turned(0, 0)
    assert states(ledger) == dict.fromkeys("abc", "done")
    again = FakeEngine(good, Clock())
    assert finished(drive(jobs, ledger, again)) == []
    assert again.taken == []


def test_as_many_videos_run_as_the_engine_has_room_for(jobs: list[VideoJob], ledger: Ledger) -> None:
    events = drive(jobs, ledger, FakeEngine(good, Clock(), places=2))
    assert max(e.running for e in events if isinstance(e, Turned)) == 2
    assert len(finished(events)) == 3


@pytest.mark.parametrize("cause", ["crash", "stall"])
def test_a_video_that_costs_its_worker_is_tried_again_and_then_has_failed(
    jobs: list[VideoJob], ledger: Ledger, cause: str
) -> None:
    engine = FakeEngine(lambda job, n: ends(job, cause=cause) if job.name == "b" else good(job), Clock())
    events = drive(jobs, ledger, engine, Limits(tries=3, reserve=0))
    assert [end for end in finished(events) if end[0] == "b"] == [("b", cause, "waiting")] * 2 + [
        ("b", cause, "failed")
    ]
    assert states(ledger) == {"a": "done", "b": "failed", "c": "done"}
    assert all(job.resume for job in engine.taken)


def test_a_crash_that_does_not_repeat_is_forgotten(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(lambda job, n: good(job) if n else ends(job, cause="crash"), Clock())
    events = drive(jobs, ledger, engine)
    assert states(ledger) == dict.fromkeys("abc", "done")
    assert len(finished(events)) == 6


@pytest.mark.parametrize("cause", ["input", "limit", "bug"])
def test_what_would_fail_again_is_not_tried_again(jobs: list[VideoJob], ledger: Ledger, cause: str) -> None:
    engine = FakeEngine(lambda job, n: ends(job, cause=cause, message="so"), Clock())
    events = drive(jobs, ledger, engine)
    assert finished(events) == [(name, cause, "failed") for name in "abc"]
    assert [row.message for row in ledger.rows()] == ["so"] * 3


def test_a_video_that_stands_still_is_given_up(jobs: list[VideoJob], ledger: Ledger) -> None:
    def script(job: VideoJob, attempt: int) -> list[list[Event]]:
        return [[Started(job.name, "w")], [Advanced(job.name, 1, 3)]] if job.name == "a" else good(job)

    engine = FakeEngine(script, Clock())
    events = drive(jobs, ledger, engine, Limits(tries=1, stall=10, reserve=0))
    assert finished(events)[0] == ("a", "stall", "failed")
    row = ledger.row("a")
    assert row is not None
    assert row.message == "stood still: no frame for 11 seconds"


def test_before_the_first_frame_a_video_may_take_longer(jobs: list[VideoJob], ledger: Ledger) -> None:
    def script(job: VideoJob, attempt: int) -> list[list[Event]]:
        waits = 3 if job.name == "a" else 100  # turns of 15 seconds, of 10 that are allowed between frames
        return [[Started(job.name, "w")], *([[]] * waits), *good(job)[1:]]

    engine = FakeEngine(script, Clock(), seconds_per_turn=4.0)
    events = drive(jobs[:2], ledger, engine, Limits(tries=1, stall=3, reserve=0))
    assert finished(events) == [("a", "done", "done"), ("b", "stall", "failed")]
    row = ledger.row("b")
    assert row is not None
    assert int(row.message.split()[-2]) >= 3 * START_UP


def test_time_in_which_this_process_stood_still_does_not_count(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(lambda job, n: [good(job)[0], *([[]] * 3), good(job)[1]], Clock(), seconds_per_turn=1000.0)
    assert finished(drive(jobs[:1], ledger, engine, Limits(stall=10, reserve=0))) == [("a", "done", "done")]


def test_without_a_stall_limit_nothing_is_given_up(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(lambda job, n: [good(job)[0], *([[]] * 50), good(job)[1]], Clock(), seconds_per_turn=4.0)
    assert finished(drive(jobs[:1], ledger, engine, Limits(stall=None, reserve=0))) == [("a", "done", "done")]


def test_a_wish_to_stop_leaves_everything_waiting(jobs: list[VideoJob], ledger: Ledger) -> None:
    stop, engine = threading.Event(), FakeEngine(lambda job, n: [[Started(job.name, "w")], []], Clock())
    found: list[BatchEvent] = []
    for event in run_batch(jobs, ledger, engine, limits=Limits(reserve=0), stop=stop, clock=engine.clock):
        found.append(event)
        if isinstance(event, Started):
            stop.set()
    assert [e for e in found if isinstance(e, Stopping)] == [Stopping("interrupted")]
    assert finished(found) == [("a", "interrupted", "waiting")]
    assert states(ledger) == dict.fromkeys("abc", "waiting")
    assert [job.name for job in engine.taken] == ["a"]


def test_a_full_disk_stops_the_batch_and_costs_no_video(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(lambda job, n: ends(job, cause="disk", message="no room"), Clock())
    events = drive(jobs, ledger, engine)
    assert [e for e in events if isinstance(e, Stopping)] == [Stopping("no room", disk=True)]
    assert states(ledger) == dict.fromkeys("abc", "waiting")
    assert drive(jobs, ledger, FakeEngine(good, Clock()))
    assert states(ledger) == dict.fromkeys("abc", "done")


def test_a_batch_stops_before_the_disk_is_full(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(good, Clock())
    events = drive(jobs, ledger, engine, Limits(reserve=1 << 60))
    stopping = next(e for e in events if isinstance(e, Stopping))
    assert stopping.disk
    assert "stay free" in stopping.why
    assert engine.taken == []


def test_a_batch_stops_where_its_results_take_what_they_may(jobs: list[VideoJob], ledger: Ledger) -> None:
    engine = FakeEngine(good, Clock(), seconds_per_turn=4.0)
    events = drive(jobs, ledger, engine, Limits(reserve=0, max_disk=1000))
    assert [job.name for job in engine.taken] == ["a"]
    assert states(ledger)["c"] == "waiting"
    assert next(e.why for e in events if isinstance(e, Stopping)).startswith("the results take")


def test_changed_options_make_a_video_anew_and_say_so(jobs: list[VideoJob], ledger: Ledger) -> None:
    drive(jobs, ledger, FakeEngine(good, Clock()))
    changed = [VideoJob(**{**vars(job), "options": TrackOptions(tracker="copy", end=2)}) for job in jobs[:1]]
    engine = FakeEngine(good, Clock())
    events = drive([*changed, *jobs[1:]], ledger, engine)
    assert [job.name for job in engine.taken] == ["a"]
    assert {e.name for e in events if isinstance(e, Noticed)} == {"a"}
    assert finished(events) == [("a", "done", "done")]


def test_what_another_driver_runs_is_waited_for_and_not_touched(
    jobs: list[VideoJob], ledger: Ledger, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path / "out") as other:
        other.enter(jobs)
        assert other.claim("b") is not None
        engine, found = FakeEngine(good, Clock()), []
        for event in run_batch(jobs, ledger, engine, limits=Limits(reserve=0), clock=engine.clock):
            found.append(event)
            if event == Turned(0, 1):  # all that is left runs there
                other.end("b", run_video(jobs[1]))
    assert [job.name for job in engine.taken] == ["a", "c"]
    assert found[-1] == Turned(0, 0)
    assert states(ledger) == dict.fromkeys("abc", "done")


def test_the_watch_counts_what_lies_in_the_folders(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("a", "b"):
        (tmp_path / name / "masks").mkdir(parents=True)
        (tmp_path / name / "masks" / "0.png").write_bytes(b"x" * 400)
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    watch = DiskWatch([tmp_path / "a", tmp_path / "b"], 1000, 0, clock)
    assert 800 <= size_of(tmp_path / "a") + size_of(tmp_path / "b") < 1000
    assert watch.why_full(["a"]) is None
    (tmp_path / "a" / "masks" / "1.png").write_bytes(b"x" * 400)
    assert watch.why_full(["a"]) is None  # it looks every few seconds
    clock.now += 20
    assert "--max-disk" in (watch.why_full(["a"]) or "")


@pytest.mark.parametrize(
    ("text", "size", "words"),
    [
        ("6G", 6_000_000_000, "6.0 GB"), ("1.5 gb", 1_500_000_000, "1.5 GB"), ("512MiB", 512 << 20, "537 MB"),
        ("640", 640, "640 B"), ("10k", 10_000, "10 kB"), ("999999999", 999_999_999, "1.0 GB"),
        ("2TB", 2 * 10**12, "2.0 TB"),
    ],
)  # fmt: skip
def test_amounts_are_read_and_written(text: str, size: int, words: str) -> None:
    assert parse_amount(text) == size
    assert amount(size) == words


@pytest.mark.parametrize("text", ["", "0", "-1", "6X", "1.G", "nan", "0.0001k"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of memory or disk"):
        parse_amount(text)
