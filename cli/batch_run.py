"""Running a planned batch from the command line: ledger, engine and driver put together, and what they said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.batch_options import EngineChoice
from cli.batch_progress import BatchProgress
from cli.batch_summary import SummaryLine, summary_line
from cli.console import stop_on_signal
from cli.main import INTERRUPTED
from seem_core.errors import InputError

if TYPE_CHECKING:
    from vos.batch.driver import Limits
    from vos.batch.engine import Engine
    from vos.batch.plan import Plan
    from vos.pipeline import TrackOptions

SOME_FAILED = 6
DISK_FULL = 5
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class EngineOptions:
    """Where and by how many workers videos are tracked; ``max_memory`` in bytes."""

    choice: EngineChoice
    address: str | None
    workers: int | None
    threads: int | None
    max_memory: int | None


@dataclass(frozen=True)
class BatchEnd:
    """How a batch ended: its videos, frames and seconds of this run, whether it was stopped, and by a full disk."""

    lines: tuple[SummaryLine, ...]
    frames: int
    seconds: float
    stopped: bool
    disk_full: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many videos ended in each way."""
        return dict(Counter(line.outcome for line in self.lines))

    @property
    def code(self) -> int:
        """The exit code: of a batch that was stopped only where something is left to do."""
        open_ends = any(line.outcome in ("waiting", "running") for line in self.lines)
        if self.stopped and open_ends:
            return DISK_FULL if self.disk_full else INTERRUPTED
        return SOME_FAILED if any(line.outcome == "failed" for line in self.lines) else 0


def run_plan(plan: Plan, out: Path, limits: Limits, engine: Callable[[], Engine], progress: BatchProgress) -> BatchEnd:
    """Run a plan until it is done, or until Ctrl-C or SIGTERM; a second one ends at once, and all can be gone on with.

    ``engine`` makes the engine when the ledger is open. Raises what these two raise.
    """
    from vos.batch.driver import Finished, Stopping, run_batch
    from vos.batch.ledger import Ledger
    from vos.batch.storage import ledger_folder, open_storage

    storage = open_storage(out)
    stopping: list[Stopping] = []
    done_here: set[str] = set()
    with (
        stop_on_signal() as stop,
        progress,
        Ledger.open(ledger_folder(out), find_run=lambda job: storage.run(job.name)) as ledger,
    ):
        with closing(engine()) as workers:
            for event in run_batch(plan.videos, ledger, workers, limits=limits, stop=stop):
                progress.hear(event)
                if isinstance(event, Stopping):
                    stopping.append(event)
                elif isinstance(event, Finished) and event.state == "done":
                    done_here.add(event.name)
        rows = {row.name: row for row in ledger.rows()}
    lines = [summary_line(rows[job.name], done_here=job.name in done_here) for job in plan.videos if job.name in rows]
    lines += [SummaryLine(video, None, "no prompt") for video in plan.without_prompt]
    tally = progress.tally
    return BatchEnd(tuple(lines), tally.frames, tally.seconds, bool(stopping), any(item.disk for item in stopping))


def make_engine(wanted: EngineOptions, options: TrackOptions, videos: int) -> Engine:
    """The engine that was asked for. Raises MissingExtraError, DeviceError, InputError."""
    if wanted.choice is EngineChoice.ray:
        from vos.batch.ray_engine import RayEngine

        return RayEngine(
            wanted.workers, address=wanted.address, cores=wanted.threads or 1, device=options.device,
            max_memory=wanted.max_memory, videos=max(1, videos),
        )  # fmt: skip
    from vos.batch.local_engine import LocalEngine

    return LocalEngine(
        local_workers(wanted, options, videos),
        threads=wanted.threads,
        max_memory=wanted.max_memory,
        networks=_computes(options),
    )


def local_workers(wanted: EngineOptions, options: TrackOptions, videos: int) -> int:
    """How many videos at a time on this machine, no more than there are. Raises DeviceError."""
    from vos.batch.local_engine import default_workers

    workers = wanted.workers or default_workers(options.device if _computes(options) else "cpu")
    return max(1, min(workers, videos))


def _computes(options: TrackOptions) -> bool:
    """Whether the tracker has a network. An unknown one is refused with the first video."""
    from trackers import TRACKERS

    kind = TRACKERS.get(options.tracker)
    return kind is not None and kind.computes


def check_truth(out: Path, truth: Path) -> None:
    """Raise DatasetError where ``truth`` holds no ground truth: before a night of work rather than after it.

    InputError for results at a URL, which are not here to be scored.
    """
    from vos.batch.urls import url_of
    from vos.benchmarks.layouts import open_layout

    if url_of(out) is not None:
        raise InputError("--truth needs results on this machine; leave it out, and use vos score on a copy of them")
    open_layout(truth)


def write_page(out: Path, end: BatchEnd, truth: Path | None = None) -> str:
    """The page about a batch, in its folder or at its URL, and where it is. Raises OutputError, DiskFullError."""
    from vos.batch.report import ReportRow, write_report
    from vos.batch.storage import page_folder
    from vos.batch.urls import url_of

    with page_folder(out, [line.out.name for line in end.lines if line.out is not None]) as home:
        rows: Sequence[ReportRow] = [
            ReportRow(
                line.out.name if line.out is not None else line.video.name,
                "done" if line.outcome == "already done" else line.outcome,
                line.frames, line.seconds, line.message, line.warnings,
                line.out if line.out is None or home == out else home / line.out.name,
            )
            for line in end.lines
        ]  # fmt: skip
        if truth is not None:
            from vos.batch.report_scores import with_scores

            rows = with_scores(rows, truth)
        write_report(home / REPORT_FILE, rows, wall_seconds=end.seconds)
    page = out / REPORT_FILE
    return url_of(page) or str(page)
