"""Where the videos of a batch are tracked: the `Engine` protocol, and what an engine tells the driver.

The driver alone decides and writes the ledger; an engine runs the jobs that it is given and reports. Nobody waits for
anybody without a bound: `events` returns after its time at the latest, `submit` at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vos.batch.job import VideoJob, VideoOutcome


@dataclass(frozen=True)
class Started:
    """A worker began with a video."""

    name: str
    worker: str


@dataclass(frozen=True)
class Advanced:
    """``done`` of ``total`` frames of a video are written (in direction both, every pass counts)."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Ended:
    """A video is done, failed or interrupted; also where its worker died, which the outcome then says."""

    name: str
    outcome: VideoOutcome


Event: TypeAlias = Started | Advanced | Ended


class Engine(Protocol):
    """Runs jobs, several at a time. Every job that was submitted ends with exactly one `Ended`."""

    @property
    def free(self) -> int:
        """How many further jobs can begin now (or wait just before they begin); 0 is back-pressure."""
        ...

    def submit(self, job: VideoJob) -> None:
        """Begin a job soon. Only while ``free`` is above 0."""
        ...

    def events(self, timeout: float) -> Sequence[Event]:
        """What happened since the last call, in order for each video; waits ``timeout`` seconds at most for a first."""
        ...

    def abandon(self, name: str, why: VideoOutcome) -> None:
        """End a job by force (it hangs, or takes too much memory); its `Ended` carries ``why``."""
        ...

    def stop(self) -> None:
        """Ask all jobs to finish their frame and end as interrupted; nothing new is begun."""
        ...

    def close(self) -> None:
        """End all that runs, by force where it must be; returns within seconds. Safe to call twice."""
        ...
