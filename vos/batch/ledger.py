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

import json
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seem_core.errors import InputError, VosError
from vos.batch.ledger_changes import ended, enter, finished, taken, update
from vos.batch.ledger_file import LedgerFile
from vos.batch.ledger_rows import STATES, Entered, LedgerRow, State, blob_of, row_of
from vos.batch.machine import Machine, Process
from vos.folder_lock import is_locked
from vos.wording import some

if TYPE_CHECKING:
    from vos.batch.entering import FindRun
    from vos.batch.fingerprints import InputHashes, Signature
    from vos.batch.job import VideoJob, VideoOutcome
    from vos.run_record import RunRecord

LEDGER_FILE = "ledger.sqlite"
LAPSE = 30.0  # seconds without a heartbeat after which a driver counts as gone
BEAT = 1.0  # seconds between two heartbeats that are written

log = logging.getLogger(__name__)


class Ledger:
    """One process's hold on a ledger: a driver that joined (`open`), or a look at it (`read`, `amend`).

    One thread at a time. Every method raises DiskFullError without room, OutputError where the file cannot be written
    (any more) or is held by somebody for half a minute, InputError where it turns out to be damaged.
    """

    def __init__(
        self, file: LedgerFile, machine: Machine, find_run: FindRun | None = None, lapse: float = LAPSE
    ) -> None:
        """Use `open`, `read` or `amend`."""
        self._file, self._machine, self._lapse = file, machine, lapse
        self._find_run = find_run
        self._me: int | None = None  # this driver's number in the ledger
        self._plan: dict[str, VideoJob] = {}
        self._mine: set[str] = set()  # claimed and not ended
        self._news: dict[str, tuple[int, int, float]] = {}  # name -> frames, total, monotonic seconds
        self._seen: dict[str, dict[str, Signature | None]] = {}  # name -> files as they were when it was claimed
        self._beaten = -float("inf")

    @classmethod
    def open(
        cls,
        out: str | PathLike[str],
        *,
        lapse: float = LAPSE,
        find_run: FindRun | None = None,
        machine: Machine | None = None,
    ) -> Ledger:
        """Make or open the ledger in folder ``out`` (made if need be) and join it as a driver.

        lapse     seconds of silence after which others may take this driver's videos over
        find_run  job -> the record of the run among its results, finished or not, None where there is none; by default
                  what its folder says
        machine   clocks and processes, by default those of this machine

        Raises OutputError where ``out`` lies on a network file system or cannot be written, DiskFullError without
        room, InputError where the file is damaged, another program's, or a newer version's; each says what to do.
        """
        ledger = cls(LedgerFile.make(ledger_path(out)), machine or Machine.here(), find_run, lapse)
        try:
            ledger._join()
        except BaseException:
            ledger._file.close()
            raise
        return ledger

    @classmethod
    def read(cls, out: str | PathLike[str], *, machine: Machine | None = None) -> Ledger:
        """Open the ledger in ``out`` to look at it: nothing is written, ``out`` may be read-only.

        Raises InputError where there is none, or as `open`.
        """
        return cls(LedgerFile.look(ledger_path(out)), machine or Machine.here())

    @classmethod
    def amend(cls, out: str | PathLike[str], *, machine: Machine | None = None) -> Ledger:
        """Open a ledger that is there to change it from outside, with `retry`, and join nothing. Raises as `read`."""
        LedgerFile.look(ledger_path(out)).close()
        return cls(LedgerFile.make(ledger_path(out)), machine or Machine.here())

    def enter(self, jobs: Sequence[VideoJob]) -> tuple[Entered, ...]:
        """Bring the plan of this driver in, in its order; `claim` then chooses among these names alone.

        A new video waits, unless its folder holds a finished run of the same inputs and options: it is done. One that
        is done or failed stays so, unless its inputs or settings changed, its results are gone, or the job says
        ``overwrite``: it waits again, and ``why`` says why. What another live driver runs or planned is left alone.
        Files are hashed only where their size, times or place changed since they were hashed last, before the
        transaction.

        Raises InputError where a live driver works with other settings on one of these names, or a name comes twice.
        """
        from vos.batch.entering import judge, known_video, refuse_other_settings
        from vos.batch.fingerprints import InputHashes, settings_of

        me = self._driver()
        names = [job.name for job in jobs]
        if twice := sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []:
            raise InputError(f"two videos of the batch are called {some(twice)}; rename one of them")
        alive = self._alive()
        before = {os.fsdecode(row["name"]): row for row in self._file.fetch("SELECT * FROM videos")}
        settings = {job.name: settings_of(job) for job in jobs}
        others = alive - {me}
        with self._file.sound():
            known = {name: known_video(row, others) for name, row in before.items() if name in settings}
        refuse_other_settings(jobs, known, settings)
        hashes = InputHashes(self._known_hash)
        verdicts = {job.name: judge(job, known.get(job.name), hashes, self._find_finished) for job in jobs}
        with self._file.change() as connection:
            position = connection.execute("SELECT coalesce(max(position), 0) FROM videos").fetchone()[0]
            for number, job in enumerate(jobs, start=position + 1):
                enter(connection, job, known.get(job.name), verdicts[job.name], settings[job.name], number, me)
            self._keep(connection, hashes)
        self._take_plan(jobs)
        now = {os.fsdecode(row["name"]): row["state"] for row in self._file.fetch("SELECT name, state FROM videos")}
        return tuple(Entered(name, now[name], verdicts[name].why) for name in names)

    def claim(self, name: str | None = None) -> LedgerRow | None:
        """Take the next waiting video of the plan, or ``name``; nobody else can from then on. None: none can begin now.

        A running video whose driver is gone (at once when its process is, else after its lapse) is taken over, as soon
        as nobody holds the lock of its folder any more; where its run came to its end meanwhile, it is done. Where the
        row has ``again``, run the job with ``overwrite``.
        """
        from vos.batch.fingerprints import identity_of, missing_picture, signatures_of
        from vos.batch.urls import url_of
        from vos.earlier_run import tidy_finished

        me = self._driver()
        passed: set[bytes] = set()
        while (found := self._candidate(name, passed)) is not None:
            job = self._plan[os.fsdecode(found["name"])]
            if found["begun"] and is_locked(job.out):  # a worker whose driver is gone has not ended yet
                passed.add(found["name"])
                continue
            run = self._find_finished(job)
            again = found["again"]
            if found["begun"] and run is not None and identity_of(run) != found["before"]:
                if not missing_picture(job, run):
                    if url_of(job.out) is None:
                        tidy_finished(job.out)
                    self._settle(found, run)
                    continue
                again = b""  # its masks are whole: pictures alone are made
            seen = signatures_of(job)
            if self._take(found, me, again, identity_of(run)):
                self._mine.add(job.name)
                self._seen[job.name] = seen
                return self.row(job.name)
        return None

    def begin(self, name: str, worker: str) -> None:
        """Note that a worker began with a claimed video."""
        with self._file.change() as connection:
            connection.execute(
                "UPDATE videos SET worker=?, beat=? WHERE name=? AND state='running' AND driver=?",
                (blob_of(worker), self._machine.monotonic(), os.fsencode(name), self._driver()),
            )

    def advance(self, name: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` frames are written. Cheap: kept here until the next heartbeat."""
        self._news[name] = (done, total, self._machine.monotonic())

    def beat(self, *, now: bool = False) -> tuple[str, ...]:
        """Write the heartbeat and all news, at most once in `BEAT` seconds unless ``now``.

        Returns the names that this driver ran and lost: it was silent for so long that another took them over. End
        those jobs without writing.
        """
        me, moment = self._driver(), self._machine.monotonic()
        if not now and moment - self._beaten < BEAT:
            return ()
        with self._file.change() as connection:
            self._sign(connection, me)
            self._tell_news(connection, me)
            held = connection.execute("SELECT name FROM videos WHERE state='running' AND driver=?", (me,)).fetchall()
        self._beaten = moment
        lost = self._mine - {os.fsdecode(row["name"]) for row in held}
        self._mine -= lost
        return tuple(sorted(lost))

    def end(self, name: str, outcome: VideoOutcome, *, tries: int = 1) -> State:
        """Note how a claimed video ended; returns its new state.

        Interrupted, or stopped by a full disk: it waits, and goes on where it stopped. Failed by a crash or a stall: it
        waits while fewer than ``tries`` runs failed. The outcome of a video that this driver lost changes nothing.
        """
        from vos.batch.fingerprints import InputHashes

        me = self._driver()
        run = self._find_finished(self._plan[name]) if outcome.outcome == "done" and name in self._plan else None
        hashes = InputHashes(self._known_hash)
        seen = self._seen.pop(name, {})
        for item in run.inputs if run is not None else ():
            hashes.learn(item.path, seen.get(item.path), item.sha256)
        with self._file.change() as connection:
            self._tell_news(connection, me)
            found = connection.execute(
                "SELECT * FROM videos WHERE name=? AND state='running' AND driver=?", (os.fsencode(name), me)
            ).fetchone()
            if found is not None:
                values = ended(found, outcome, tries, run)
                values |= {"ended": self._machine.wall(), "stamp": found["stamp"] + 1}
                values["seen"] = json.dumps({path: told.text if told else "" for path, told in seen.items()})
                update(connection, found["name"], values)
                self._keep(connection, hashes)
        self._mine.discard(name)
        row = self.row(name)
        return "waiting" if row is None else row.state

    def give_back(self, name: str) -> None:
        """A claimed video waits again, as if it had not been claimed."""
        with self._file.change() as connection:
            connection.execute(
                "UPDATE videos SET state='waiting', driver=NULL, stamp=stamp+1"
                " WHERE name=? AND state='running' AND driver=?",
                (os.fsencode(name), self._driver()),
            )
        self._mine.discard(name)

    def retry(self, names: Collection[str] | None = None) -> tuple[str, ...]:
        """Failed videos wait again, with all their tries: ``names``, or all. Returns those that now wait.

        Raises InputError for a name that the ledger does not have or that has not failed; then none waits again.
        """
        with self._file.change() as connection:
            states = {
                os.fsdecode(row["name"]): row["state"]
                for row in connection.execute("SELECT name, state FROM videos ORDER BY position")
            }
            for name in names or ():
                if name not in states:
                    raise InputError(f"the batch has no video {name!r}; vos status lists them")
                if states[name] != "failed":
                    raise InputError(
                        f"video {name!r} has not failed, it is {states[name]}; only failed ones are retried"
                    )
            chosen = [name for name, state in states.items() if state == "failed" and (names is None or name in names)]
            for name in chosen:
                values = {"state": "waiting", "tries": 0, "cause": None, "message": b"", "ended": None}
                update(connection, os.fsencode(name), values)
                connection.execute("UPDATE videos SET stamp=stamp+1 WHERE name=?", (os.fsencode(name),))
        return tuple(chosen)

    def unsettled(self) -> int:
        """How many videos of this driver's plan are neither done nor failed, whoever runs them."""
        found = self._file.fetch(
            "SELECT count(*) FROM videos v CROSS JOIN temp.plan p ON p.name=v.name"
            " WHERE v.state IN ('waiting', 'running')"
        )
        return int(found[0][0])

    def counts(self) -> Mapping[State, int]:
        """How many videos of the ledger are in each state."""
        found = {row[0]: row[1] for row in self._file.fetch("SELECT state, count(*) FROM videos GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def rows(self) -> tuple[LedgerRow, ...]:
        """Every video of the ledger, in the order of the plans."""
        return tuple(self._rows("SELECT * FROM videos ORDER BY position"))

    def row(self, name: str) -> LedgerRow | None:
        """One video, None where the ledger does not have it."""
        return next(self._rows("SELECT * FROM videos WHERE name=?", os.fsencode(name)), None)

    def drivers(self) -> int:
        """How many drivers are alive."""
        return len(self._alive())

    def close(self) -> None:
        """Leave: videos that this driver still runs wait again. Safe to call twice."""
        me, self._me = self._me, None
        try:
            if me is not None:
                with self._file.change() as connection:
                    self._tell_news(connection, me)
                    connection.execute(
                        "UPDATE videos SET state='waiting', driver=NULL, stamp=stamp+1"
                        " WHERE state='running' AND driver=?",
                        (me,),
                    )
                    connection.execute("DELETE FROM drivers WHERE id=?", (me,))
        finally:
            self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except VosError as second:  # what ended the batch is raised already and matters more
            log.warning("the ledger could not be left in order: %s", second)
            if error is None:
                raise

    def _driver(self) -> int:
        if self._me is None:
            raise ValueError("this ledger was not opened as a driver, or is closed")
        return self._me

    def _join(self) -> None:
        self._file.temporary("CREATE TEMP TABLE plan (name BLOB PRIMARY KEY) WITHOUT ROWID")
        with self._file.change() as connection:
            alive = self._alive()
            for row in connection.execute("SELECT id FROM drivers").fetchall():
                if row["id"] not in alive:
                    connection.execute("DELETE FROM drivers WHERE id=?", (row["id"],))
            self._me = self._insert_driver(connection)

    def _insert_driver(self, connection: sqlite3.Connection, number: int | None = None) -> int:
        me, moment = self._machine.myself(), self._machine.monotonic()
        done = connection.execute(
            "INSERT INTO drivers (id, pid, began, boot, space, beat, lapse, joined) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, me.pid, me.began, me.boot, me.space, moment, self._lapse, self._machine.wall()),
        )
        return int(done.lastrowid or 0)

    def _sign(self, connection: sqlite3.Connection, me: int) -> None:
        """This driver lives."""
        moment = self._machine.monotonic()
        if not connection.execute("UPDATE drivers SET beat=? WHERE id=?", (moment, me)).rowcount:
            self._insert_driver(connection, me)  # somebody took it for dead and removed it

    def _alive(self) -> frozenset[int]:
        """Numbers of the drivers that live."""
        return frozenset(
            row["id"]
            for row in self._file.fetch("SELECT * FROM drivers")
            if row["id"] == self._me
            or self._machine.is_alive(
                Process(row["pid"], row["began"], row["boot"], row["space"]), row["beat"], row["lapse"]
            )
        )

    def _known_hash(self, path: str) -> tuple[str, str] | None:
        found = self._file.fetch("SELECT signature, sha256 FROM hashes WHERE path=?", (os.fsencode(path),))
        return (found[0][0], found[0][1]) if found else None

    def _keep(self, connection: sqlite3.Connection, hashes: InputHashes) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)",
            [(os.fsencode(path), *found) for path, found in hashes.fresh.items()],
        )

    def _take_plan(self, jobs: Sequence[VideoJob]) -> None:
        self._plan |= {job.name: job for job in jobs}
        if jobs:
            self._file.temporary(
                "INSERT OR IGNORE INTO temp.plan VALUES (?)", [(os.fsencode(job.name),) for job in jobs]
            )

    def _find_finished(self, job: VideoJob) -> RunRecord | None:
        from vos.batch.fingerprints import recorded_run

        run = recorded_run(job.out) if self._find_run is None else self._find_run(job)
        return run if run is not None and run.state == "done" else None

    def _candidate(self, name: str | None, passed: Collection[bytes]) -> sqlite3.Row | None:
        """The first row of the plan, or ``name``, that waits, or runs under a driver that is gone; not ``passed``."""
        only = "" if name is None else " AND v.name=?"
        sql = f"SELECT v.* FROM videos v CROSS JOIN temp.plan p ON p.name=v.name WHERE v.state=?{only}"
        values = () if name is None else (os.fsencode(name),)
        alive = self._alive()
        lost = [row for row in self._file.fetch(sql, ("running", *values)) if row["driver"] not in alive]
        limit = f" ORDER BY v.position LIMIT {len(passed) + 1}"
        found = [*lost, *self._file.fetch(sql + limit, ("waiting", *values))]
        return min((row for row in found if row["name"] not in passed), key=lambda row: row["position"], default=None)

    def _take(self, found: sqlite3.Row, me: int, again: bytes, before: str) -> bool:
        """Claim a candidate, unless somebody was quicker or its driver gave a sign again."""
        with self._file.change() as connection:
            if found["state"] == "running" and found["driver"] in self._alive():
                return False
            self._sign(connection, me)  # or it would be taken over at once by a driver that thinks this one gone
            pid = self._machine.myself().pid
            values = taken(me, pid, again, before, found["stamp"] + 1, self._machine.wall())
            return update(connection, found["name"], values, found["stamp"])

    def _settle(self, found: sqlite3.Row, run: RunRecord) -> None:
        with self._file.change() as connection:
            update(connection, found["name"], finished(run) | {"stamp": found["stamp"] + 1}, found["stamp"])

    def _tell_news(self, connection: sqlite3.Connection, me: int) -> None:
        news, self._news = self._news, {}
        connection.executemany(
            "UPDATE videos SET first_frame=coalesce(first_frame, ?1), first_beat=coalesce(first_beat, ?3),"
            " frame=?1, total=?2, beat=?3 WHERE name=?4 AND state='running' AND driver=?5",
            [(done, total, moment, os.fsencode(name), me) for name, (done, total, moment) in news.items()],
        )

    def _rows(self, sql: str, *values: Any) -> Iterator[LedgerRow]:
        alive, now = self._alive(), self._machine.monotonic()
        with self._file.sound():
            return iter([row_of(found, alive, now) for found in self._file.fetch(sql, values)])


def ledger_path(out: str | PathLike[str]) -> Path:
    """Where the ledger of the batch in ``out`` lies."""
    return Path(out) / LEDGER_FILE
