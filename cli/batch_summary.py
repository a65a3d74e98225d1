"""The end of a batch at a glance: every video with its outcome, why some failed, and one line for the whole."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from cli.batch_progress import duration
from cli.tables import elided, table
from vos.wording import printable

if TYPE_CHECKING:
    from pathlib import Path

    from vos.batch.ledger_rows import LedgerRow

LISTED = 40  # videos; of more, those that are done are counted, not listed
NAME_WIDTH = 36
MESSAGE_LINES = 4  # of a failure

Outcome: TypeAlias = Literal["done", "already done", "failed", "waiting", "running", "no prompt"]


@dataclass(frozen=True)
class SummaryLine:
    """One video at the end of a batch: masks written, wall-clock seconds, and the sentence of what went wrong."""

    video: Path
    out: Path | None
    outcome: Outcome
    frames: int = 0
    seconds: float = 0.0
    cause: str | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    tries: int = 0


def summary_line(row: LedgerRow, *, done_here: bool) -> SummaryLine:
    """A video of the ledger. ``done_here``: it was finished by this run."""
    outcome: Outcome = "already done" if row.state == "done" and not done_here else row.state
    failed = row.state == "failed"
    return SummaryLine(
        row.video, row.out, outcome, row.frame, row.seconds, row.cause if failed else None,
        row.message if failed else "", row.warnings, row.tries,
    )  # fmt: skip


def summary(lines: Sequence[SummaryLine], seconds: float, frames: int) -> Iterator[str]:
    """Lines for a terminal, no wider than it is. ``frames`` were tracked by this run in ``seconds``."""
    width = shutil.get_terminal_size().columns
    shown = [line for line in lines if len(lines) <= LISTED or line.outcome not in ("done", "already done")]
    rows = [(_name(line), str(line.outcome), _frames(line), _rate(line)) for line in shown]
    texts = list(table(("video", "outcome", "frames", "frames/s"), rows, names=2)) if rows else []
    yield from texts[:1]
    for line, text in zip(shown, texts[1:], strict=True):
        yield text
        for told in (line.message, *line.warnings):
            yield from _wrapped(told, width)
    yield from [""] * bool(texts)
    counts = Counter(line.outcome for line in lines)
    warned = sum(bool(line.warnings) for line in lines)
    total = f"{len(lines)} video{'s' * (len(lines) != 1)}: " + ", ".join(f"{n} {what}" for what, n in _in_order(counts))
    yield total + (f"; {warned} with warnings" if warned else "")
    if frames:
        rate = f", {frames / seconds:.1f} frames/s" if seconds >= 1 else ""
        yield f"{frames:,} frames in {duration(seconds)}{rate}"


def _name(line: SummaryLine) -> str:
    """The file's name; that of its results where a table gave it another one."""
    own = line.out is None or line.out.name in (line.video.name, line.video.stem)
    return elided(printable(line.video.name if own or line.out is None else line.out.name), NAME_WIDTH)


def _frames(line: SummaryLine) -> str:
    return f"{line.frames:,}" if line.frames else "-"


def _rate(line: SummaryLine) -> str:
    return f"{line.frames / line.seconds:.1f}" if line.seconds > 0 and line.frames and line.outcome == "done" else "-"


def _wrapped(message: str, width: int) -> Iterator[str]:
    lines = textwrap.wrap(printable(message), max(20, width - 4), max_lines=MESSAGE_LINES, placeholder=" ...")
    yield from (f"    {line}" for line in lines)


def _in_order(counts: Counter[Outcome]) -> Iterator[tuple[str, int]]:
    order: tuple[Outcome, ...] = ("done", "already done", "failed", "running", "waiting", "no prompt")
    yield from ((what, counts[what]) for what in order if counts[what])
