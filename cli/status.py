"""``vos status``: what of a batch is done, what runs, how far it is, what failed and why; ``--watch`` looks again."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.batch_progress import duration
from cli.console import emit, stop_on_signal
from cli.main import INTERRUPTED
from cli.options import Json
from cli.tables import elided, table
from vos.wording import printable

if TYPE_CHECKING:
    import threading

    from vos.batch.ledger_rows import LedgerRow

SOME_FAILED = 6  # as of vos batch
REFRESH = 1.0  # seconds between two looks
NAME_WIDTH = 30
WORKER_WIDTH = 14
LISTED = 40  # videos of one kind on a page that is not watched
MESSAGE_LINES = 3


@dataclass(frozen=True)
class Page:
    """A batch at one moment: the folder, its videos, and how many drivers work on it."""

    out: str
    rows: tuple[LedgerRow, ...]
    drivers: int

    def of(self, state: str) -> list[LedgerRow]:
        """Videos in a state, in the order of the batch."""
        return [row for row in self.rows if row.state == state]

    @property
    def settled(self) -> bool:
        """Whether every video is done or failed."""
        return not self.of("running") and not self.of("waiting")

    def headline(self) -> str:
        """The whole batch in one line."""
        gone = sum(row.lapsed for row in self.rows)
        running = len(self.of("running")) - gone
        counts = [(len(self.of("done")), "done"), (len(self.of("failed")), "failed"), (running, "running")]
        counts += [(gone, "interrupted"), (len(self.of("waiting")), "waiting")]
        told = ", ".join(f"{count} {state}" for count, state in counts if count) or "nothing to do"
        return f"{videos(len(self.rows))}: {told}"

    def plain(self) -> dict[str, Any]:
        """The page as JSON holds it."""
        counts = {state: len(self.of(state)) for state in ("done", "failed", "running", "waiting")}
        rows = [asdict(row) | {"exit_code": row.exit_code, "seconds_left": row.seconds_left} for row in self.rows]
        return {"out": self.out, "drivers": self.drivers, "counts": counts, "videos": rows}


def status(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The --out of vos batch.")],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again until every video is done or failed.")
    ] = False,
    json: Json = False,
) -> int:
    """Show how a batch is going: counts, what runs where and how fast, what failed and why.

    Reads the ledger alone, also while vos batch runs or after it was killed, and changes nothing. --watch draws the
    page again on a terminal; elsewhere it writes a line whenever the counts change, and the page at the end. With
    --json it writes one object a line whenever something changed.

    Exit code 0; with --watch 6 if some failed in the end.
    """
    if not watch:
        page = look(out)
        emit(*([_json(page, indent=2)] if json else lines(page, terminal_width())))
        return 0
    with stop_on_signal() as stop:
        if json:
            page = _watch(out, stop, _JsonLines())
        elif sys.stdout is not None and sys.stdout.isatty():
            page = _watch(out, stop, _Redrawn())
        else:
            page = _watch(out, stop, _LinePerChange())
    if not page.settled:
        return INTERRUPTED
    return SOME_FAILED if page.of("failed") else 0


def look(out: str) -> Page:
    """What the ledger of a batch says now. Raises InputError where there is none."""
    from vos.batch.ledger import Ledger

    with Ledger.read(folder_of(out)) as ledger:
        return Page(out, ledger.rows(), ledger.drivers())


def folder_of(out: str) -> Path:
    """The folder of a batch's ledger: that of the batch, or one on this machine for a batch at a URL."""
    from vos.batch.urls import url_of

    if url_of(out) is None:
        return Path(out)
    from vos.batch.storage import ledger_folder

    return ledger_folder(out)


def lines(page: Page, width: int, most: int = LISTED) -> Iterator[str]:
    """The page as lines of ``width`` columns, with ``most`` videos of each kind."""
    yield page.headline()
    if not page.settled and not page.drivers:
        yield "nobody works on it; the vos batch that made it goes on with what is left"
    if running := page.of("running"):
        yield ""
        yield from table(
            ("running", "worker", "frames", "frames/s", "left"), [_running(r) for r in running[:most]], names=2
        )
        yield from _and_more(running, most)
    if failed := page.of("failed"):
        yield from ["", "failed"]
        for row in failed[:most]:
            yield from _failed(row, width)
        yield from _and_more(failed, most)
    if again := [row for row in page.of("waiting") if row.again or row.message]:
        yield from ["", "waiting again"]
        for row in again[:most]:
            yield f"  {elided(f'{_name(row)}: {printable(row.again or row.message)}', width - 2)}"
        yield from _and_more(again, most)


def videos(count: int) -> str:
    """``1 video``, ``12 videos``."""
    return f"{count} video" + "s" * (count != 1)


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(40, shutil.get_terminal_size().columns)


def _running(row: LedgerRow) -> tuple[str, ...]:
    frames = f"{row.frame}/{row.total}" if row.total else "-"
    if row.lapsed:  # whoever ran it is gone
        return _name(row), "(gone)", frames, "-", "-"
    rate = f"{row.rate:.1f}" if row.rate else "-"
    left = row.seconds_left
    return (
        _name(row),
        elided(printable(row.worker or "-"), WORKER_WIDTH),
        frames,
        rate,
        "-" if left is None else duration(left),
    )


def _failed(row: LedgerRow, width: int) -> Iterator[str]:
    tries = f" (tried {row.tries} times)" if row.tries > 1 else ""
    text = f"{_name(row)}{tries}: {printable(row.message)}"
    yield from textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="    ", max_lines=MESSAGE_LINES, placeholder=" ..."
    )


def _and_more(rows: Sequence[LedgerRow], most: int) -> Iterator[str]:
    if len(rows) > most:
        yield f"  ... and {len(rows) - most} more"


def _name(row: LedgerRow) -> str:
    return elided(printable(row.name), NAME_WIDTH)


def _json(page: Page, indent: int | None = None) -> str:
    """Names that are not UTF-8 come out as JSON's escapes, so that the text always is."""
    return jsonlib.dumps(page.plain(), indent=indent, default=str)


class _Redrawn:
    """One page, drawn over the last one: what was above it on the terminal stays."""

    def __init__(self) -> None:
        self._height = 0

    def show(self, page: Page) -> None:
        size = shutil.get_terminal_size()
        room = max(3, size.lines - 2)
        shown = list(lines(page, max(40, size.columns - 1), max(1, room // 4)))[:room]
        up = f"\x1b[{self._height}F" if self._height else ""
        self._height = len(shown)
        emit(f"{up}\x1b[J" + "\n".join(line[: size.columns - 1] for line in shown), drawn=True)

    def end(self, page: Page) -> None:
        up = f"\x1b[{self._height}F" if self._height else ""
        emit(f"{up}\x1b[J" + "\n".join(lines(page, terminal_width())), drawn=True)


class _LinePerChange:
    """A line whenever the counts change, and the page at the end."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, page: Page) -> None:
        if (line := page.headline()) != self._last:
            self._last = line
            emit(line)

    def end(self, page: Page) -> None:
        emit(*list(lines(page, terminal_width()))[1:])


class _JsonLines:
    """One JSON object a line, whenever something but the age of the news changed."""

    def __init__(self) -> None:
        self._last: Any = None

    def show(self, page: Page) -> None:
        plain = page.plain()
        without_age = [{**row, "silent": None} for row in plain["videos"]]
        if (without_age, page.drivers) != self._last:
            self._last = (without_age, page.drivers)
            emit(_json(page))

    def end(self, page: Page) -> None:
        """It was shown."""


def _watch(out: str, stop: threading.Event, screen: _Redrawn | _LinePerChange | _JsonLines) -> Page:
    """Show the batch until all of it is done or failed, or ``stop``; the ledger is opened anew for every look."""
    while True:
        page = look(out)
        screen.show(page)
        if page.settled or stop.wait(REFRESH):
            screen.end(page)
            return page
