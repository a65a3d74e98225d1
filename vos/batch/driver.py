"""The driver of a batch: takes videos from the ledger, gives them to an engine, and writes down what becomes of them.

`run_batch` is the only one in its process that writes the ledger, and knows nothing of how an engine works. It ends
when every video of its plan is done or failed, whoever ran it; on the wish of its caller; or before the disk is full.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from vos.batch.disk_watch import DiskWatch
from vos.batch.engine import Advanced, Ended, Engine, Started
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.ledger_rows import State

if TYPE_CHECKING:
    from vos.batch.ledger import Ledger
    from vos.batch.ledger_rows import LedgerRow

TURN = 0.25  # seconds that a turn waits for news of its videos
IDLE_TURN = 1.0  # ... where all that is left runs elsewhere
STANDSTILL = 5.0  # a turn that takes longer: this process was stopped, and its workers may have been too
START_UP = 5  # times --stall until the first frame: models load, inputs are hashed, a long way is decoded

NOT_MADE = "was not made"  # the ledger's words where masks are whole and a picture is missing


@dataclass(frozen=True)
class Limits:
    """What a batch may do.

    tries     runs of one video that may end by a crash or stall
    stall     seconds without a frame after which a video is given up, `START_UP` times that before the first one; None
              waits for ever
    max_disk  bytes that the folders of its results may take together
    reserve   bytes that stay free on their file system; None is a fiftieth of it, a gigabyte at most
    """

    tries: int = 2
    stall: float | None = 120.0
    max_disk: int | None = None
    reserve: int | None = None


@dataclass(frozen=True)
class Noticed:
    """A video that was finished or failed before is not left as it is; ``message`` says why."""

    name: str
    message: str


@dataclass(frozen=True)
class Finished:
    """A run of a video ended. ``state`` is what the ledger makes of it: a video that waits is run again."""

    name: str
    outcome: VideoOutcome
    state: State


@dataclass(frozen=True)
class Stopping:
    """Nothing new is begun, and the frames in work are finished. ``disk`` where the room for results is the reason."""

    why: str
    disk: bool = False


@dataclass(frozen=True)
class Turned:
    """Once in a while, also where nothing happens: how many videos run here, and how many are not settled yet."""

    running: int
    unsettled: int


BatchEvent: TypeAlias = Noticed | Started | Advanced | Finished | Stopping | Turned


def run_batch(
    jobs: Sequence[VideoJob],
    ledger: Ledger,
    engine: Engine,
    *,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[BatchEvent]:
    """Run jobs until every one of them is done or failed, here or by another driver on the same ledger.

    After ``stop`` is set the frames in work are finished, and what is not done waits. A video of which the worker
    died or that stood still is tried again, up to ``limits.tries`` times; one whose input is wrong is not. The caller
    closes engine and ledger, in this order.

    Raises what the ledger raises, and LimitError where the engine cannot work at all.
    """
    driver = _Driver(jobs, ledger, engine, limits or Limits(), stop or threading.Event(), clock)
    yield from driver.enter()
    while not driver.finished:
        yield from driver.turn()


class _Driver:
    """What is known between two turns."""

    def __init__(
        self, jobs: Sequence[VideoJob], ledger: Ledger, engine: Engine, limits: Limits, stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._jobs = {job.name: job for job in jobs}
        self._ledger, self._engine, self._limits, self._stop = ledger, engine, limits, stop
        self._disk = DiskWatch([job.out for job in jobs], limits.max_disk, limits.reserve, clock)
        self._watch = _StallWatch(limits.stall, clock)
        self._running: set[str] = set()
        self._stopping = False
        self.finished = False

    def enter(self) -> Iterator[BatchEvent]:
        """Bring the plan into the ledger; says what is not as it was left."""
        for found in self._ledger.enter(list(self._jobs.values())):
            if found.why:
                yield Noticed(found.name, found.why)
        unsettled = self._ledger.unsettled()
        self.finished = not unsettled
        yield Turned(0, unsettled)

    def turn(self) -> Iterator[BatchEvent]:
        """Begin what can begin, hear what happened, end what hangs."""
        if not self._stopping and self._stop.is_set():
            yield self._end(Stopping("interrupted"))
        elif not self._stopping and (why := self._disk.why_full(self._running)):
            yield self._end(Stopping(why, disk=True))
        if not self._stopping:
            self._begin()
        for event in self._engine.events(TURN if self._running else IDLE_TURN):
            yield from self._hear(event)
        self._watch.tick()
        for name, seconds in self._watch.silent():
            what = f"stood still: no frame for {seconds:.0f} seconds"
            self._engine.abandon(name, VideoOutcome(name, "failed", cause="stall", message=what))
        for name in self._ledger.beat():
            if name in self._running:
                what = "taken over by another driver, after this one was silent for long"
                self._engine.abandon(name, VideoOutcome(name, "interrupted", message=what))
        unsettled = self._ledger.unsettled()
        self.finished = not self._running and (self._stopping or not unsettled)
        yield Turned(len(self._running), unsettled)

    def _end(self, why: Stopping) -> Stopping:
        self._stopping = True
        self._engine.stop()
        return why

    def _begin(self) -> None:
        while self._engine.free > 0 and (row := self._ledger.claim()) is not None:
            try:
                self._engine.submit(_prepared(self._jobs[row.name], row))
            except BaseException:
                self._ledger.give_back(row.name)
                raise
            self._running.add(row.name)
            self._watch.begin(row.name)

    def _hear(self, event: Started | Advanced | Ended) -> Iterator[BatchEvent]:
        name = event.name
        if isinstance(event, Started):
            self._ledger.begin(name, event.worker)
            self._watch.begin(name)
            yield event
        elif isinstance(event, Advanced):
            self._watch.advance(name, begun=event.done > 0)
            if event.done:  # else files are moved, which is a sign of life
                self._ledger.advance(name, event.done, event.total)
                yield event
        else:
            yield from self._close(name, event.outcome)

    def _close(self, name: str, outcome: VideoOutcome) -> Iterator[BatchEvent]:
        """A video ended. A full disk is not its fault: it waits, and nothing else is begun."""
        full = outcome.cause == "disk"
        if full:
            outcome = replace(outcome, outcome="interrupted")
        self._running.discard(name)
        self._watch.end(name)
        self._disk.measure(self._jobs[name].out)
        yield Finished(name, outcome, self._ledger.end(name, outcome, tries=self._limits.tries))
        if full and not self._stopping:
            yield self._end(Stopping(outcome.message, disk=True))


def _prepared(job: VideoJob, row: LedgerRow) -> VideoJob:
    """Begun work goes on, also where pictures alone are missing; results that do not hold any more are replaced."""
    replaced = bool(row.again) and not row.again.endswith(NOT_MADE)
    return replace(job, overwrite=replaced or job.overwrite, resume=True)


class _StallWatch:
    """Since when each video has been silent."""

    def __init__(self, stall: float | None, clock: Callable[[], float]) -> None:
        self._stall, self._clock = stall, clock
        self._since: dict[str, float] = {}
        self._begun: set[str] = set()  # videos that have shown a frame
        self._ticked = clock()

    def begin(self, name: str) -> None:
        self._since[name] = self._clock()
        self._begun.discard(name)

    def advance(self, name: str, *, begun: bool) -> None:
        self._since[name] = self._clock()
        if begun:
            self._begun.add(name)

    def end(self, name: str) -> None:
        self._since.pop(name, None)
        self._begun.discard(name)

    def tick(self) -> None:
        """Once a turn. Where it took long, this process was stopped, perhaps with its workers: that does not count."""
        now = self._clock()
        if now - self._ticked > STANDSTILL:
            self._since = {name: min(now, since + now - self._ticked) for name, since in self._since.items()}
        self._ticked = now

    def silent(self) -> list[tuple[str, float]]:
        """Videos that have stood still for too long, and for how many seconds."""
        if self._stall is None:
            return []
        now = self._clock()
        past = [(name, now - since) for name, since in self._since.items()]
        return [(n, s) for n, s in past if s > (self._stall if n in self._begun else START_UP * self._stall)]
