"""A batch to be simulated, as figures (`Scenario`), and how it went (`Simulated`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seem_core.errors import InputError

ACTIVITIES: Final = ("track", "decode", "states", "prepare", "transfer", "ledger", "start", "lost", "idle")


@dataclass(frozen=True)
class Driver:
    """Seconds that the driver takes: for a claim, for an end, for a heartbeat, for each running video in a heartbeat,
    and for one piece of news. Each running video has news every ``news_every`` seconds, all together ``most_news`` in a
    second."""

    claim: float = 0.0
    end: float = 0.0
    beat: float = 0.0
    beat_row: float = 0.0
    news: float = 0.0
    news_every: float = 0.3
    most_news: float = math.inf

    def turn(self, running: int, seconds: float) -> float:
        """Its time for a heartbeat and the news of so many seconds."""
        told = min(running / self.news_every, self.most_news) * seconds
        return self.beat + self.beat_row * running + self.news * told


@dataclass(frozen=True)
class Store:
    """Where videos come from and results go.

    bandwidth  bytes per second of the store, link: of one worker; requests: per second
    video      bytes of one video; mask: of one frame's results, which take ``puts`` requests; state: of a saved state
    """

    bandwidth: float
    link: float = math.inf
    requests: float = math.inf
    video: float = 0.0
    mask: float = 0.0
    puts: float = 1.0
    state: float = 0.0

    @property
    def share(self) -> float:
        """Of the store's capacity that one transfer can take."""
        return min(1.0, self.link / self.bandwidth)

    def seconds(self, size: float, requests: float) -> float:
        """Of the whole store for so many bytes and requests."""
        return size / self.bandwidth + requests / self.requests


@dataclass(frozen=True)
class Scenario:
    """A batch of equal videos.

    frames    of each video; track and decode: seconds for each (decode: reading it and writing its mask)
    start     seconds until a worker can begin; prepare: until the first frame of a video
    every     seconds of computing between two saved states (0: none), each of which takes ``state`` seconds
    failures  of a worker per hour with a video; noticed: seconds until the driver hears; tries: until a video failed
    cores     of each worker
    """

    workers: int
    videos: int
    frames: int
    track: float
    decode: float = 0.0
    start: float = 0.0
    prepare: float = 0.0
    every: float = 0.0
    state: float = 0.0
    failures: float = 0.0
    noticed: float = 0.0
    tries: int = 2
    cores: int = 1
    driver: Driver = Driver()
    store: Store | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.videos < 0 or self.frames < 1 or self.tries < 1 or self.cores < 1:
            raise InputError("a batch needs at least one worker, core, frame and try, and no less than 0 videos")
        times = (self.track, self.decode, self.start, self.prepare, self.every, self.state, self.failures, self.noticed)
        if not all(0 <= value < math.inf for value in times) or not self.track + self.decode > 0:
            raise InputError("times and rates of a batch are numbers from 0 on, and a frame takes some time")


@dataclass(frozen=True)
class Simulated:
    """How a simulated batch went.

    makespan   seconds from the start of the workers until the last video is done or has failed
    done, failed   videos; crashes: of workers
    spent      activity -> seconds of all workers: ``track`` and ``decode`` of frames that count, saving ``states``,
               ``prepare``, ``transfer`` to and from the store, waiting for the ``ledger``, ``start``, work ``lost``
               with a crash, ``idle``; together workers x makespan
    driver, store   shares of the makespan in which they were busy, 0..1
    """

    scenario: Scenario
    makespan: float
    done: int
    failed: int
    crashes: int
    spent: Mapping[str, float]
    driver: float
    store: float

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that went into frames that count, 0..1."""
        whole = self.scenario.workers * self.makespan
        return (self.spent["track"] + self.spent["decode"]) / whole if whole else 0.0

    @property
    def core_hours(self) -> float:
        """Of all workers until the end, idle or not; the driver's core is not counted."""
        return self.scenario.workers * self.scenario.cores * self.makespan / 3600

    @property
    def bottleneck(self) -> str:
        """The activity that took most of the workers' time."""
        return max(ACTIVITIES, key=lambda name: self.spent[name])
