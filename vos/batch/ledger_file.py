"""The SQLite file under a ledger: made, opened, checked, changed in transactions; its faults become our sentences."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from seem_core.errors import DiskFullError, InputError, OutputError, VosError
from vos.batch.file_system import journal_for
from vos.writing import write_error, writing

PATIENCE = 30.0  # seconds that another process may hold the file
SCHEMA = 1  # rises when an older program could no longer work with the file
_MARK = 0x766F7362  # "vosb", in the file's header: this SQLite file is a ledger of ours
_MAGIC = b"SQLite format 3\0"
_BUSY_MS = 5_000
_PROBE = 1 << 16  # bytes

_TABLES = """
CREATE TABLE drivers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, began INTEGER NOT NULL, boot TEXT NOT NULL,
    space TEXT NOT NULL, beat REAL NOT NULL, lapse REAL NOT NULL, joined TEXT NOT NULL
);
CREATE TABLE videos (
    name BLOB PRIMARY KEY, position INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    stamp INTEGER NOT NULL DEFAULT 0, video BLOB NOT NULL, out BLOB NOT NULL, settings TEXT NOT NULL,
    planner INTEGER, driver INTEGER, pid INTEGER, tries INTEGER NOT NULL DEFAULT 0, again BLOB NOT NULL DEFAULT x'',
    worker BLOB NOT NULL DEFAULT x'', frame INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    first_frame INTEGER, first_beat REAL, beat REAL, before TEXT NOT NULL DEFAULT '',
    begun INTEGER NOT NULL DEFAULT 0, cause TEXT,
    message BLOB NOT NULL DEFAULT x'', seconds REAL NOT NULL DEFAULT 0, warnings TEXT NOT NULL DEFAULT '[]',
    started TEXT, ended TEXT, inputs TEXT NOT NULL DEFAULT '[]', seen TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE INDEX videos_by_state ON videos (state, position);
CREATE TABLE hashes (path BLOB PRIMARY KEY, signature TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")
log = logging.getLogger(__name__)


class LedgerFile:
    """An open ledger file. Raises DiskFullError, OutputError, InputError, never an error of SQLite."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `make` or `look`."""
        self.path = path
        self._connection = connection
        self._identity = _identity(path)

    @classmethod
    def make(cls, path: Path, *, mounts: bytes | None = None) -> LedgerFile:
        """Open the file to work with it; make it, and its folder, if need be."""
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        journal = journal_for(path.parent, mounts)
        _refuse_foreign(path)
        connection = _connect(path, f"file:{quote(os.fsencode(path.absolute()))}?mode=rwc")
        try:
            file = cls(path, connection)
            file._check()
            file._patiently(lambda: connection.execute(f"PRAGMA journal_mode={journal}"))
            # without WAL a commit is flushed before the next begins, with it the order is kept and that is enough
            file._patiently(
                lambda: connection.execute(f"PRAGMA synchronous={'NORMAL' if journal == 'wal' else 'FULL'}")
            )
            file._set_up()
        except BaseException:
            connection.close()
            raise
        return file

    @classmethod
    def look(cls, path: Path) -> LedgerFile:
        """Open the file to read it; nothing in it is changed. Raises InputError where there is none, or it is empty."""
        if not path.is_file():
            raise InputError(f"{path.parent} holds no batch (there is no {path.name}); give the --out of vos batch")
        _refuse_foreign(path)
        uri = f"file:{quote(os.fsencode(path.absolute()))}"
        ways = ["?mode=ro", "?mode=ro&immutable=1"]  # where SQLite's shared memory cannot be made, nobody writes either
        if _is_writable(path) and _is_writable(path.parent):
            ways = ["?mode=rw"]  # so that SQLite can remove the files that it makes beside it
        while True:
            connection = _connect(path, uri + ways.pop(0))
            try:
                connection.execute("PRAGMA query_only=ON")
                file = cls(path, connection)
                if not file._check():
                    raise InputError(f"{path} is empty: its batch has not begun; look again when it has")
                return file
            except BaseException as error:
                connection.close()
                if not ways or not isinstance(error, (OutputError, sqlite3.OperationalError)):
                    raise

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among all processes from its beginning; nothing of it is there after an error."""
        self._still_there()
        self._patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"))
        try:
            with self._translated():
                yield self._connection
            self._patiently(lambda: self._connection.execute("COMMIT"))
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._patiently(lambda: self._connection.execute(sql, values).fetchall())

    @contextmanager
    def sound(self) -> Iterator[None]:
        """While rows are taken apart: one that does not hold what it should is damage as well."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(self.path, f"{type(error).__name__}: {error}") from error

    def temporary(self, sql: str, values: Sequence[Sequence[Any]] = ()) -> None:
        """Change a table that this process alone sees."""
        self._patiently(lambda: self._connection.executemany(sql, values) if values else self._connection.execute(sql))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def _set_up(self) -> None:
        with self.change() as connection:
            if self._version() == 0:
                for statement in _TABLES.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_MARK}")
                connection.execute(f"PRAGMA user_version={SCHEMA}")

    def _marks(self) -> tuple[int, int, int]:
        """Number of tables, whose file it is, and its version, as they are at one moment: it may just be being made."""
        self._connection.execute("BEGIN")
        try:
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            mark = self._connection.execute("PRAGMA application_id").fetchone()[0]
            return int(tables), int(mark), self._version()
        finally:
            self._connection.rollback()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _check(self) -> bool:
        """Refuse what is not a whole ledger of ours. False: an empty file, one that is, or was, being made."""
        tables, mark, version = self._patiently(self._marks)
        if tables == mark == version == 0:
            return False
        if mark != _MARK:
            raise InputError(f"{self.path} is a database of another program; name another folder, or move it away")
        if version > SCHEMA:
            raise InputError(
                f"{self.path} was written by a newer vos (ledger {version}, this one knows {SCHEMA}); update seem-vos"
            )
        if (told := self.fetch("PRAGMA quick_check(1)")[0][0]) != "ok":
            raise _damaged(self.path, told)
        return True

    def _still_there(self) -> None:
        if _identity(self.path) != self._identity:
            raise OutputError(f"{self.path} was removed or replaced while it was in use; start the command again")

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do something, again while another process holds the file."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self._translated():
                    return action()
            except _HeldError as error:
                if time.monotonic() >= until:
                    raise OutputError(
                        f"{self.path} was held by another process for {PATIENCE:.0f} seconds; is one stopped?"
                    ) from error
            time.sleep(0.01)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(self.path, error) from error


class _HeldError(Exception):
    """Another process holds the file at the moment."""


def _connect(path: Path, uri: str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_MS / 1000)
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA trusted_schema=OFF")  # what a foreign file defines is not run
    return connection


def _translate(path: Path, error: sqlite3.Error) -> Exception:
    """Our error for one of SQLite's (https://www.sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where it happened
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return _HeldError(str(error))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(f"no room to write {path}; free some space and run again")
    if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, 0):  # ours
        return error
    if reason := _why_not_writable(path):
        return reason
    return OutputError(f"cannot write {path} ({error}); check the folder, the disk and their rights")


def _damaged(path: Path, told: str) -> InputError:
    return InputError(
        f"{path} is damaged or no ledger ({told}); move it away and start vos batch again: finished videos are "
        "known by their folders"
    )


def _why_not_writable(path: Path) -> VosError | None:
    """What the system says to a small file beside the ledger: SQLite tells no errno."""
    if path.exists() and not _is_writable(path):
        return OutputError(f"cannot write {path} (permission denied); check its rights")
    try:
        with closing(tempfile.TemporaryFile(dir=path.parent, buffering=0)) as probe:
            while probe.tell() < _PROBE:  # a limit may let a part through first
                probe.write(bytes(_PROBE - probe.tell()))
    except OSError as error:
        return write_error(path, error)
    return None


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _refuse_foreign(path: Path) -> None:
    """What begins like no SQLite file is left as it is; SQLite itself takes a short one for a file being made."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise OutputError(f"{path} is a folder, where the ledger of the batch should be; move it away") from error
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); check its rights") from error
    if start and start != _MAGIC:
        raise _damaged(path, "it is no SQLite file")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
