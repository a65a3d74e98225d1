"""The morning's page: one self-contained HTML file about a batch, `write_report` of `ReportRow`s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

from vos.benchmarks.scores import SequenceScore
from vos.label_files import write_whole

ReportOutcome: TypeAlias = Literal["done", "failed", "interrupted", "running", "waiting", "no prompt"]


@dataclass(frozen=True)
class ReportRow:
    """One video on the page.

    frames    masks written; ``seconds`` is the wall-clock time of its tracking
    message   the sentence of what went wrong
    folder    its results, whose contact sheet is shown and which the page links to; None where there are none
    scores    mean J and F over its objects, where there is truth
    """

    name: str
    outcome: ReportOutcome
    frames: int = 0
    seconds: float = 0.0
    message: str = ""
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    scores: SequenceScore | None = None


def write_report(
    path: str | PathLike[str],
    rows: Sequence[ReportRow],
    *,
    title: str = "vos batch",
    made: datetime | None = None,
    wall_seconds: float | None = None,
) -> Path:
    """Write one HTML page about ``rows``, in their order, to ``path``, and return that path.

    The page needs no other file and no network: contact sheets lie in it as small JPEGs.

    made          when the batch ended; now, if not given
    wall_seconds  from the start of the batch to its end, where videos ran side by side

    Raises OutputError where the page cannot be written, DiskFullError without room.
    """
    from vos.batch.report_page import page

    path = Path(path)
    made = made or datetime.now(UTC)
    write_whole(path, page(rows, title=title, made=made, wall_seconds=wall_seconds, home=path.parent).encode())
    return path
