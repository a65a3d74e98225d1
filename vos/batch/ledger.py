"""The ledger of a batch: which videos wait, run, are done or failed, shared by every driver that works on one folder.

One SQLite file, OUT/ledger.sqlite, on a local disk. A driver is a process. Whatever it changes, it changes in one
transaction, so that two drivers never run one video, and a driver that is killed leaves no half-written line. Whether
another driver lives is told by its process id and start time and by its heartbeat on the monotonic clock of this boot;
the wall clock is written for people to read, and decides nothing. The folder of a video decides whether it is finished
(run.json says done); the ledger is bookkeeping, and a lost one is made again from the folders.

The way of a driver::

    with Ledger.open(out) as ledger:            # joins
        ledger.enter(jobs)
        while ledger.unsettled():
            row = ledger.claim()                # None: nothing to begin now
            ledger.begin(row.name, "worker 1")
            ledger.advance(row.name, 10, 150)   # as often as there is news; written once a second
            lost = ledger.beat()                # on every turn of the loop
            ledger.end(row.name, outcome, tries=2)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vos.batch.ledger_rows import Entered, LedgerRow, State

if TYPE_CHECKING:
    from vos.batch.job import VideoJob, VideoOutcome

LEDGER_FILE = "ledger.sqlite"
LAPSE = 30.0  # seconds without a heartbeat after which a driver counts as gone
BEAT = 1.0  # seconds between two heartbeats that are written


class Ledger:
    """One process's hold on a ledger: a driver that joined (`open`), or a reader (`read`). One thread at a time.

    Every method raises DiskFullError without room, OutputError where the file cannot be written (any more) or is held
    by somebody for half a minute, InputError where it turns out to be damaged.
    """

    @classmethod
    def open(cls, out: str | PathLike[str], *, lapse: float = LAPSE) -> Ledger:
        """Make or open the ledger in folder ``out`` (made if need be) and join it as a driver.

        lapse: seconds of silence after which others may take this driver's videos over.

        Raises OutputError where ``out`` lies on a network file system or cannot be written, DiskFullError without
        room, InputError where the file is damaged, another program's, or a newer version's; each says what to do.
        """
        raise NotImplementedError

    @classmethod
    def read(cls, out: str | PathLike[str]) -> Ledger:
        """Open the ledger in ``out`` to look at it: nothing is written, ``out`` may be read-only.

        Raises InputError where there is none, or as `open`.
        """
        raise NotImplementedError

    def enter(self, jobs: Sequence[VideoJob]) -> tuple[Entered, ...]:
        """Bring the plan of this driver in, in its order; `claim` then chooses among these names alone.

        A new video waits, unless its folder holds a finished run of the same inputs and options: it is done. One that is
        done or failed stays so, unless its inputs or settings changed, its results are gone, or the job says
        ``overwrite``: it waits again, and ``why`` says why. What another live driver runs is left alone. Files are
        hashed only where their size, times or place changed since they were hashed last, before the transaction.

        Raises InputError where a live driver works with other settings on one of these names.
        """
        raise NotImplementedError

    def claim(self, name: str | None = None) -> LedgerRow | None:
        """Take the next waiting video of the plan, or ``name``; nobody else can from then on. None: none can begin now.

        A running video whose driver is gone (at once when its process is, else after its lapse) is taken over, as soon
        as nobody holds the lock of its folder any more. Where the row has ``again``, run the job with ``overwrite``.
        """
        raise NotImplementedError

    def begin(self, name: str, worker: str) -> None:
        """Note that a worker began with a claimed video."""
        raise NotImplementedError

    def advance(self, name: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` frames are written. Cheap: kept here until the next heartbeat."""
        raise NotImplementedError

    def beat(self, *, now: bool = False) -> tuple[str, ...]:
        """Write the heartbeat and all news, at most once in `BEAT` seconds unless ``now``.

        Returns the names that this driver ran and lost: it was silent for so long that another took them over. End
        those jobs without writing.
        """
        raise NotImplementedError

    def end(self, name: str, outcome: VideoOutcome, *, tries: int = 1) -> State:
        """Note how a claimed video ended; returns its new state.

        Interrupted: it waits, and goes on where it stopped. Failed by a crash or a stall: it waits while fewer than
        ``tries`` runs ended so. The outcome of a video that this driver lost changes nothing.
        """
        raise NotImplementedError

    def give_back(self, name: str) -> None:
        """A claimed video waits again, as if it had not been claimed."""
        raise NotImplementedError

    def retry(self, names: Collection[str] | None = None) -> tuple[str, ...]:
        """Failed videos wait again, with all their tries: ``names``, or all. Returns those that now wait.

        Raises InputError for a name that the ledger does not have or that has not failed.
        """
        raise NotImplementedError

    def unsettled(self) -> int:
        """How many videos of this driver's plan are neither done nor failed, whoever runs them."""
        raise NotImplementedError

    def rows(self) -> tuple[LedgerRow, ...]:
        """Every video of the ledger, in the order of the plans."""
        raise NotImplementedError

    def row(self, name: str) -> LedgerRow | None:
        """One video, None where the ledger does not have it."""
        raise NotImplementedError

    def drivers(self) -> int:
        """How many drivers are alive."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave: videos that this driver still runs wait again. Safe to call twice."""
        raise NotImplementedError

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def ledger_path(out: str | PathLike[str]) -> Path:
    """Where the ledger of the batch in ``out`` lies."""
    return Path(out) / LEDGER_FILE
