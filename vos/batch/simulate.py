"""How long a batch takes on many workers, and what holds it up: `simulate` plays one through, event by event.

    workers   start, claim a video, bring its files, prepare, compute from state to state, bring the results, again
    driver    one queue: claims, ends and, every second, a heartbeat and the news of all running videos
    store     one bandwidth that all transfers share equally, each with no more than a worker's own link

A worker dies at random while it has a video. The video waits again once that is noticed, goes on from its last state
(with a store: the last one that came there whole), and has failed after so many tries. What is simulated is the way of
`vos.batch`; the figures that go in are measured ones (docs/scale.md says where from). The same seed gives the same
batch. Idle workers and workers that start do not die, and the driver does not.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from vos.batch.scenario import ACTIVITIES, Scenario, Simulated
from vos.batch.simulation import Events, Queue, Shared, Then, Transfer

BEAT: Final = 1.0  # seconds between two heartbeats of the driver


def simulate(scenario: Scenario) -> Simulated:
    """Play a batch through."""
    batch = _Batch(scenario)
    end = batch.run()
    busy = [min(1.0, part.busy / end) if end else 0.0 for part in (batch.driver, batch.store)]
    spent = {name: batch.spent[name] for name in ACTIVITIES}
    return Simulated(scenario, end, batch.done, batch.failed, batch.crashes, spent, *busy)


@dataclass
class _Video:
    """kept: frames that need not be computed again; tries: runs that ended by a crash."""

    number: int
    kept: float = 0.0
    tries: int = 0


@dataclass(eq=False)
class _Run:
    """A worker's run of a video.

    done    frames; sent: of them in the last state that outlives the worker
    moving  what is under way in front of the worker's eyes, and ``sending`` a state behind its back
    waits   what goes on when the state is there
    began_computing, states   without a store: since when, and how many states there are to be
    """

    video: _Video
    began: float
    done: float
    sent: float
    moving: Transfer | None = None
    sending: Transfer | None = None
    waits: Then | None = None
    alive: bool = True
    began_computing: float | None = None
    states: int = 0
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class _Batch:
    """Everything that changes while a batch is played."""

    def __init__(self, scenario: Scenario) -> None:
        self._case = scenario
        self._chance = random.Random(scenario.seed)
        self._events = Events()
        self.driver = Queue(self._events)
        self.store = Shared(self._events, scenario.store.share if scenario.store else 1.0)
        self._waiting = list(range(scenario.videos))  # a heap: the first of the plan is claimed first
        self._videos = [_Video(number) for number in self._waiting]
        self._idle: list[float] = []  # since when, one for each idle worker
        self._starting: defaultdict[float, int] = defaultdict(int)  # since when -> how many workers
        self._running = self.done = self.failed = self.crashes = 0
        self.spent: defaultdict[str, float] = defaultdict(float)

    def run(self) -> float:
        """Until every video is done or has failed; returns that moment."""
        if not self._case.videos:
            return 0.0
        for _ in range(self._case.workers):
            self._start()
        self._beat()
        while self.done + self.failed < self._case.videos:
            self._events.step()
        now = self._events.now
        self.spent["idle"] += sum(now - since for since in self._idle)
        self.spent["start"] += sum((now - since) * workers for since, workers in self._starting.items())
        return now

    def _beat(self) -> None:
        due = self._events.now + BEAT
        work = self._case.driver.turn(self._running, BEAT)
        self.driver.do(work, lambda: self._events.at(due, self._beat))

    def _start(self) -> None:
        since = self._events.now
        self._starting[since] += 1

        def started() -> None:
            self._starting[since] -= 1
            self.spent["start"] += self._events.now - since
            self._next()

        self._events.at(since + self._case.start, started)

    def _next(self) -> None:
        """A worker is free."""
        if not self._waiting:
            self._idle.append(self._events.now)
            return
        video = self._videos[heapq.heappop(self._waiting)]
        run = _Run(video, self._events.now, video.kept, video.kept)
        self._running += 1
        self.driver.do(self._case.driver.claim, lambda: self._bring(run))

    def _bring(self, run: _Run) -> None:
        run.spent["ledger"] += self._events.now - run.began
        if self._case.failures:
            moment = self._events.now + self._chance.expovariate(self._case.failures / 3600)
            self._events.at(moment, lambda: self._crash(run) if run.alive else None)
        store = self._case.store
        if store is None:
            self._prepare(run)
        else:
            self._move(run, store.seconds(store.video, 1), lambda: self._prepare(run))

    def _prepare(self, run: _Run) -> None:
        run.spent["prepare"] += self._case.prepare
        whole = self._compute if self._case.store is not None else self._compute_all
        self._after(run, self._case.prepare, lambda: whole(run))

    def _compute_all(self, run: _Run) -> None:
        """Where states are the worker's own affair, nothing happens before the last frame, or a crash."""
        each, every = self._case.track + self._case.decode, self._case.every
        frames = self._case.frames - run.done
        states = max(0, math.ceil(frames * each / every) - 1) if every else 0
        run.began_computing, run.states = self._events.now, states

        def computed() -> None:
            run.done = self._case.frames
            run.spent["track"] += frames * self._case.track
            run.spent["decode"] += frames * self._case.decode
            run.spent["states"] += states * self._case.state
            self._finish(run)

        self._after(run, frames * each + states * self._case.state, computed)

    def _saved_alone(self, run: _Run) -> float:
        """Frames until the last state that a worker saved before it died."""
        if run.began_computing is None or not run.states:
            return run.sent
        passed = self._events.now - run.began_computing
        states = min(run.states, int(passed / (self._case.every + self._case.state)))
        return run.sent + states * self._case.every / (self._case.track + self._case.decode)

    def _compute(self, run: _Run) -> None:
        """Until the next state, or the last frame."""
        each = self._case.track + self._case.decode
        left = (self._case.frames - run.done) * each
        step = min(left, self._case.every or math.inf)
        last = step == left

        def computed() -> None:
            run.done = self._case.frames if last else run.done + step / each
            run.spent["track"] += step / each * self._case.track
            run.spent["decode"] += step / each * self._case.decode
            if last:
                self._finish(run)
            else:
                run.spent["states"] += self._case.state
                self._after(run, self._case.state, lambda: self._save(run))

        self._after(run, step, computed)

    def _save(self, run: _Run) -> None:
        """A state is on the worker's disk, and is brought to the store unless the one before is still on its way."""
        store = self._case.store
        if store is not None and run.sending is None:
            reached, frames = run.done, run.done - run.sent

            def sent() -> None:
                run.sent, run.sending = reached, None
                if run.waits is not None:
                    run.waits()

            run.sending = self.store.begin(
                store.seconds(store.state + frames * store.mask, 1 + frames * store.puts), sent
            )
        self._compute(run)

    def _finish(self, run: _Run) -> None:
        """Bring what is not in the store yet, and say so to the driver."""
        store = self._case.store
        if store is None:
            self._tell(run)
        elif run.sending is not None:
            since = self._events.now

            def go_on() -> None:
                run.spent["transfer"] += self._events.now - since
                self._finish(run)

            run.waits = go_on
        else:
            frames = run.done - run.sent
            self._move(run, store.seconds(frames * store.mask, 1 + frames * store.puts), lambda: self._tell(run))

    def _tell(self, run: _Run) -> None:
        run.alive = False  # what happens to the worker now costs the video nothing
        since = self._events.now

        def told() -> None:
            run.spent["ledger"] += self._events.now - since
            for name, seconds in run.spent.items():
                self.spent[name] += seconds
            self._running -= 1
            self.done += 1
            self._next()

        self.driver.do(self._case.driver.end, told)

    def _crash(self, run: _Run) -> None:
        """The worker is gone; another one starts in its place."""
        run.alive = False
        for transfer in (run.moving, run.sending):
            if transfer is not None:
                self.store.call_off(transfer)
        self.crashes += 1
        self._running -= 1
        video, whole = run.video, self._events.now - run.began
        run.sent = self._saved_alone(run)
        self._count(run.sent - video.kept)
        self.spent["lost"] += whole - (run.sent - video.kept) * (self._case.track + self._case.decode)
        video.kept = run.sent
        video.tries += 1
        self._events.at(self._events.now + self._case.noticed, lambda: self.driver.do(0.0, lambda: self._again(video)))
        self._start()

    def _again(self, video: _Video) -> None:
        if video.tries >= self._case.tries:
            self._count(-video.kept)
            self.spent["lost"] += video.kept * (self._case.track + self._case.decode)
            self.failed += 1
            return
        heapq.heappush(self._waiting, video.number)
        if self._idle:
            self.spent["idle"] += self._events.now - self._idle.pop()
            self._next()

    def _count(self, frames: float) -> None:
        """Frames that are worth something after their worker died (or, below 0, no longer)."""
        self.spent["track"] += frames * self._case.track
        self.spent["decode"] += frames * self._case.decode

    def _after(self, run: _Run, seconds: float, then: Then) -> None:
        self._events.at(self._events.now + seconds, lambda: then() if run.alive else None)

    def _move(self, run: _Run, seconds: float, then: Then) -> None:
        since = self._events.now

        def moved() -> None:
            run.moving = None
            run.spent["transfer"] += self._events.now - since
            then()

        run.moving = self.store.begin(seconds, moved)
