"""What a ledger says of one video, as plain data: `LedgerRow`, `Entered`, and the states."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from vos.batch.job import Cause

State: TypeAlias = Literal["waiting", "running", "done", "failed"]
STATES: tuple[State, ...] = ("running", "waiting", "failed", "done")
EXIT_CODES: Mapping[str, int] = MappingProxyType(
    {"input": 3, "limit": 5, "disk": 5, "bug": 1, "crash": 1, "stall": 5}
)  # what `vos track` of that video alone would have ended with


@dataclass(frozen=True)
class LedgerRow:
    """One video of a batch as the ledger has it.

    name     of the video in its batch; ``out`` is the folder of its results
    tries    runs that ended by themselves since it was entered or retried; interrupted ones do not count
    again    why results that are there are made anew, in words; the driver then overwrites. Empty: nothing is thrown
             away, begun work goes on
    driver   process id of the driver that runs it, or ran it last; None if none did yet
    lapsed   it is running, and its driver is gone or silent: the next driver takes it over
    worker   who tracks it, as the engine calls it
    frame    frames written, of ``total`` (0: not known yet); in direction both every pass counts
    rate     frames per second since the worker began, None before it can be told
    silent   seconds since the last news of a running video (monotonic clock), None otherwise
    cause    and ``message``: why it failed, also the last time where it is to be tried again
    seconds  wall-clock time of the last run
    started  when its last run began, ``ended`` when that ended: UTC, ISO 8601; for display alone
    inputs   path -> sha256 of what the finished run read
    """

    name: str
    state: State
    video: Path
    out: Path
    tries: int = 0
    again: str = ""
    driver: int | None = None
    lapsed: bool = False
    worker: str = ""
    frame: int = 0
    total: int = 0
    rate: float | None = None
    silent: float | None = None
    cause: Cause | None = None
    message: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    started: str | None = None
    ended: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int | None:
        """0 for a video that is done, for a failed one what tracking it alone ends with; None while it is open."""
        if self.state == "failed":
            return EXIT_CODES.get(self.cause or "", 1)
        return 0 if self.state == "done" else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until a running video is done at its rate; None where that cannot be told."""
        if self.state != "running" or self.lapsed or not self.rate or not self.total:
            return None
        return max(0, self.total - self.frame) / self.rate


@dataclass(frozen=True)
class Entered:
    """What `Ledger.enter` found of one job.

    state   after entering; ``why`` says, for a video that was known or finished before, why it waits again
    """

    name: str
    state: State
    why: str = ""


def row_of(found: sqlite3.Row, alive: Collection[int], now: float) -> LedgerRow:
    """A row of the table of videos as plain data. alive: ids of live drivers; now: seconds on the monotonic clock."""
    running = found["state"] == "running"
    lapsed = running and found["driver"] not in alive
    news = found["beat"]
    return LedgerRow(
        name=os.fsdecode(found["name"]),
        state=found["state"],
        video=Path(os.fsdecode(found["video"])),
        out=Path(os.fsdecode(found["out"])),
        tries=found["tries"],
        again=text_of(found["again"]),
        driver=found["pid"],
        lapsed=lapsed,
        worker=text_of(found["worker"]),
        frame=found["frame"],
        total=found["total"],
        rate=_rate(found) if running else None,
        silent=max(0.0, now - news) if running and not lapsed and news is not None else None,
        cause=found["cause"],
        message=text_of(found["message"]),
        seconds=found["seconds"],
        warnings=tuple(json.loads(found["warnings"])),
        started=found["started"],
        ended=found["ended"],
        inputs={path: digest for _, path, digest in json.loads(found["inputs"])},
    )


def blob_of(text: str) -> bytes:
    """Text that may hold the bytes of any file name, as the ledger keeps it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def text_of(blob: bytes) -> str:
    """What `blob_of` was given."""
    return blob.decode("utf-8", "surrogateescape")


def _rate(found: sqlite3.Row) -> float | None:
    """Frames per second between the first and the last news of this run, which may have begun in the middle."""
    if found["first_beat"] is None or found["beat"] is None:
        return None
    frames, seconds = found["frame"] - found["first_frame"], found["beat"] - found["first_beat"]
    return frames / seconds if frames > 0 and seconds > 0 else None
