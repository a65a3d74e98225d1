"""Ledgers with clocks and processes of the test's own, jobs with real files, and finished results without tracking."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from vos.batch.job import VideoJob, VideoOutcome, job_files
from vos.batch.ledger import Ledger
from vos.batch.ledger_rows import LedgerRow
from vos.batch.machine import Machine, Process
from vos.frames import VideoInfo
from vos.pipeline import TrackOptions
from vos.run_record import RUN_FILE, InputRecord, RunRecord

LONG_AGO_NS = 1_600_000_000_000_000_000


@dataclass(frozen=True)
class FakeMachine(Machine):
    """One process of a `World`."""

    pid: int = 0

    def myself(self) -> Process:
        return Process(self.pid, self.began(self.pid) or 0, self.boot, self.space)


@dataclass
class World:
    """A machine's clocks and processes; ``now`` is monotonic, ``wall`` is what the clock on the wall shows."""

    now: float = 1000.0
    wall: str = "2026-01-01T00:00:00+00:00"
    boot: str = "boot"
    living: dict[int, int] = field(default_factory=dict)  # process id -> when it was started
    runs: dict[str, RunRecord] = field(default_factory=dict)  # what the folders hold, where they are not real

    def machine(self, pid: int, space: str = "here") -> FakeMachine:
        """The machine as process ``pid`` sees it, which is started now if it does not live."""
        self.living.setdefault(pid, int(self.now))
        return FakeMachine(self.boot, space, lambda: self.now, lambda: self.wall, self.living.get, pid=pid)

    def driver(self, out: Path, pid: int, *, lapse: float = 30.0, real: bool = False, space: str = "here") -> Ledger:
        """A driver with this process id. real: it looks for results in the folders, not in ``runs``."""
        find: Callable[[VideoJob], RunRecord | None] | None = None if real else (lambda job: self.runs.get(job.name))
        return Ledger.open(out, lapse=lapse, find_run=find, machine=self.machine(pid, space))


def job(folder: Path, name: str, **options: object) -> VideoJob:
    """A job with a video and a mask that are files, of long ago, so that their hashes are kept."""
    video, mask = folder / f"{name}.mp4", folder / f"{name}.png"
    for path in (video, mask):
        if not path.exists():
            write(path, f"content of {path.name}")
    made = VideoJob(name, video, folder / "out" / name, (), (str(mask),), TrackOptions("copy"), frozenset({"masks"}))
    return replace(made, **options)  # type: ignore[arg-type]


def write(path: Path, text: str) -> None:
    """A file whose modification lies in the past."""
    path.write_bytes(os.fsencode(text))
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def run_of(job: VideoJob, *, state: str = "done", frames: int = 3, number: int = 0) -> RunRecord:
    """The record of a run of a job; ``number`` tells one run from the next."""
    return RunRecord(
        VideoInfo(job.video, 4, 4, Fraction(24), frames, frames, 0, False, "h264"),
        (0, frames, 1),
        (1,),
        tuple(InputRecord.of(role, path) for role, path in job_files(job)),
        {**asdict(job.options), "prompts": {}},
        frames_done=frames,
        state=state,  # type: ignore[arg-type]
        started=f"run {number}",
        finished="then",
    )


def finish(job: VideoJob, *, state: str = "done", number: int = 0) -> None:
    """Leave the run.json of a run in the job's folder."""
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / RUN_FILE).write_bytes(run_of(job, state=state, number=number).text())


def states(ledger: Ledger) -> dict[str, str]:
    """Name -> state of every video."""
    return {row.name: row.state for row in ledger.rows()}


def row_of(ledger: Ledger, name: str) -> LedgerRow:
    """The row of a video that is there."""
    row = ledger.row(name)
    assert row is not None
    return row


def done(name: str) -> VideoOutcome:
    """It ended well."""
    return VideoOutcome(name, "done", 3, 1.0)


def failed(name: str, cause: str = "input") -> VideoOutcome:
    """It ended badly."""
    return VideoOutcome(name, "failed", cause=cause, message="so")  # type: ignore[arg-type]
