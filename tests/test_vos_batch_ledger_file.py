"""The file under a ledger: where it may lie, who made it, damage, full and read-only disks, files held or gone."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from ledgers import World, done, job, states
from rights import let_through, without_rights

from seem_core.errors import DiskFullError, InputError, OutputError
from vos.batch import ledger_file
from vos.batch.file_system import file_system_of, journal_for
from vos.batch.ledger import LEDGER_FILE, Ledger
from vos.batch.ledger_file import _MARK, _TABLES, LedgerFile

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a batch of which a is done, b waits."""
    with World().driver(tmp_path / "out", 1) as ledger:
        ledger.enter([job(tmp_path, name) for name in "ab"])
        ledger.claim()
        ledger.end("a", done("a"))
    return tmp_path / "out"


def mounts(*lines: str) -> bytes:
    return "".join(f"{i} 1 0:{i} / {line}\n" for i, line in enumerate(lines)).encode()


PLAIN = "/ rw,relatime shared:1 - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "9p", "ceph", "fuse.rclone", "beegfs", "gpfs", "afs"],
)
def test_a_network_file_system_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    table = mounts(PLAIN, f"{tmp_path} rw - {kind} server:/share rw,vers=4")
    with pytest.raises(OutputError) as refused:
        LedgerFile.make(tmp_path / "out" / LEDGER_FILE, mounts=table)
    told = str(refused.value)
    assert f"network file system ({kind}, mounted on {tmp_path})" in told
    assert "give a folder on a local disk" in told
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("kind", "journal"),
    [("ext4", "wal"), ("xfs", "wal"), ("btrfs", "wal"), ("overlay", "wal"), ("tmpfs", "wal"), ("fuseblk", "delete"),
     ("virtiofs", "delete"), ("exfat", "delete"), ("something new", "delete")],
)  # fmt: skip
def test_shared_memory_is_used_where_it_surely_works(tmp_path: Path, kind: str, journal: str) -> None:
    table = mounts(PLAIN, f"{tmp_path} rw - {kind} /dev/x rw".replace("something new", "something"))
    assert journal_for(tmp_path, table) == journal
    file = LedgerFile.make(tmp_path / LEDGER_FILE, mounts=table)
    assert file.fetch("PRAGMA journal_mode")[0][0] == journal
    file.close()


def test_the_innermost_and_latest_mount_counts(tmp_path: Path) -> None:
    spaced = tmp_path / "a folder\twith\\all"
    escaped = str(spaced).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
    table = mounts(
        PLAIN, f"{tmp_path} rw - nfs s:/x rw", f"{escaped} rw - nfs s:/y rw", f"{escaped} rw master:3 - xfs /dev/b rw"
    )
    found = file_system_of(spaced / "not there yet", table)
    assert found is not None
    assert (found.kind, found.place, found.source) == ("xfs", str(spaced), "/dev/b")
    inside = file_system_of(tmp_path / "other", table)
    assert inside is not None
    assert inside.kind == "nfs"
    beside = file_system_of(Path(f"{tmp_path}-beside"), table)
    assert beside is not None
    assert beside.kind == "ext4"


def test_a_link_is_followed_to_where_the_file_would_lie(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    with pytest.raises(OutputError, match="network file system"):
        journal_for(tmp_path / "link" / "out", mounts(PLAIN, f"{tmp_path / 'share'} rw - cifs //s/x rw"))


def test_a_containers_own_root_is_no_share(tmp_path: Path) -> None:
    assert journal_for(tmp_path, mounts("/ rw - 9p none rw")) == "delete"


def test_a_damaged_table_or_none_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_system_of(tmp_path, b"nonsense\n\n1 2 3 - \n") is None
    monkeypatch.setattr("vos.batch.file_system.MOUNTS", tmp_path / "no such file")
    assert journal_for(tmp_path) == "delete"


@pytest.mark.parametrize("content", [b"not a database at all, but a text that is long enough to be one" * 20, b"x"])
def test_a_file_that_is_no_database_is_refused(out: Path, content: bytes) -> None:
    (out / LEDGER_FILE).write_bytes(content)
    for way in (Ledger.open, Ledger.read, Ledger.amend):
        with pytest.raises(InputError, match=r"damaged or no ledger .*move it away and start vos batch again"):
            way(out)
    assert (out / LEDGER_FILE).read_bytes() == content


def test_a_ledger_with_torn_pages_is_refused(out: Path) -> None:
    content = bytearray((out / LEDGER_FILE).read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (out / LEDGER_FILE).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Ledger.open(out)


@pytest.mark.parametrize(
    ("column", "value"), [("inputs", "no json"), ("inputs", "[1]"), ("warnings", "{"), ("name", 7), ("message", "text")]
)
def test_a_row_that_holds_something_else_is_damage(out: Path, tmp_path: Path, column: str, value: object) -> None:
    with sqlite3.connect(out / LEDGER_FILE) as other:
        other.execute(f"UPDATE videos SET {column}=? WHERE name=?", (value, b"a"))
    other.close()
    with Ledger.read(out) as ledger, pytest.raises(InputError, match="damaged"):
        ledger.rows()


@pytest.mark.parametrize(("column", "value"), [("settings", "[]"), ("settings", "x"), ("seen", "x"), ("inputs", "[1]")])
def test_a_plan_that_meets_a_damaged_row_says_so(out: Path, tmp_path: Path, column: str, value: str) -> None:
    with sqlite3.connect(out / LEDGER_FILE) as other:
        other.execute(f"UPDATE videos SET {column}=? WHERE name=?", (value, b"a"))
    other.close()
    with World().driver(out, 5, real=True) as ledger, pytest.raises(InputError, match="damaged"):
        ledger.enter([job(tmp_path, "a")])


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / LEDGER_FILE) as other:
        other.execute("CREATE TABLE videos (name)")
    other.close()
    for way in (Ledger.open, Ledger.read, Ledger.amend):
        with pytest.raises(InputError, match="a database of another program"):
            way(tmp_path)


def test_a_newer_ledger_is_refused_with_what_to_do(out: Path) -> None:
    with sqlite3.connect(out / LEDGER_FILE) as other:
        other.execute(f"PRAGMA user_version={ledger_file.SCHEMA + 1}")
    other.close()
    for way in (Ledger.open, Ledger.read, Ledger.amend):
        with pytest.raises(InputError, match=r"newer vos \(ledger 2, this one knows 1\); update seem-vos"):
            way(out)


def test_an_empty_file_is_one_that_was_being_made(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).touch()
    with Ledger.open(tmp_path) as ledger:
        ledger.enter([job(tmp_path, "a")])
        assert states(ledger) == {"a": "waiting"}


def test_a_look_at_an_empty_file_says_that_nothing_has_begun(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).touch()
    for way in (Ledger.read, Ledger.amend):
        with pytest.raises(InputError, match=r"is empty: its batch has not begun"):
            way(tmp_path)
    assert not (tmp_path / LEDGER_FILE).stat().st_size


@pytest.mark.parametrize("after", range(4))
def test_a_file_that_another_process_makes_meanwhile_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    path = tmp_path / LEDGER_FILE
    real, seen = sqlite3.connect, 0

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            nonlocal seen
            if "sqlite_master" in sql or sql.startswith("PRAGMA application_id") or sql == "PRAGMA user_version":
                if seen == after:
                    make_beside(path, real)
                seen += 1
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(real, factory=Watched))
    LedgerFile.make(path).close()
    assert seen > after


def make_beside(path: Path, connect: Callable[..., sqlite3.Connection]) -> None:
    """What another process's `LedgerFile.make` writes, or nothing where it would have to wait."""
    with closing(connect(path, isolation_level=None, timeout=0)) as other, suppress(sqlite3.OperationalError):
        other.execute("PRAGMA journal_mode=wal")
        other.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id={_MARK}; PRAGMA user_version=1; COMMIT")


def test_there_may_be_none_or_a_folder_in_its_place(tmp_path: Path) -> None:
    for way in (Ledger.read, Ledger.amend):
        with pytest.raises(InputError, match=r"holds no batch .*give the --out of vos batch"):
            way(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / LEDGER_FILE).mkdir()
    with pytest.raises(OutputError, match="is a folder, where the ledger of the batch should be"):
        Ledger.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; name another folder"):
        Ledger.open(tmp_path / "file" / "out")


def test_a_folder_that_nobody_may_write_to_can_be_read(out: Path) -> None:
    let_through(out)
    (out / LEDGER_FILE).chmod(0o444)
    out.chmod(0o555)
    try:
        with without_rights():
            with Ledger.read(out) as ledger:
                assert states(ledger) == {"a": "done", "b": "waiting"}
            with pytest.raises(OutputError, match="permission denied"):
                Ledger.open(out)
            with pytest.raises(OutputError, match="permission denied"):
                Ledger.amend(out)
    finally:
        out.chmod(0o755)


def test_a_folder_without_rights_is_named(tmp_path: Path) -> None:
    let_through(tmp_path)
    tmp_path.chmod(0o555)
    try:
        with without_rights(), pytest.raises(OutputError, match=re.escape(str(tmp_path))):
            Ledger.open(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_reading_leaves_nothing_behind(out: Path) -> None:
    before = (out / LEDGER_FILE).read_bytes()
    with Ledger.read(out) as ledger:
        ledger.rows()
    assert [path.name for path in out.iterdir()] == [LEDGER_FILE]
    assert (out / LEDGER_FILE).read_bytes() == before


def test_a_reader_sees_what_a_killed_driver_left(out: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from vos.batch.ledger import Ledger; from ledgers import job\n"
        "ledger = Ledger.open(sys.argv[1], find_run=lambda job: None); ledger.enter([job(Path(sys.argv[2]), 'b')])\n"
        "assert ledger.claim().name == 'b'; os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])}
    killed = subprocess.run([sys.executable, "-c", code, str(out), str(tmp_path)], env=env, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with Ledger.read(out) as ledger:
        row = ledger.row("b")
        assert row is not None
        assert (row.state, row.lapsed, ledger.drivers()) == ("running", True, 0)
    with World().driver(out, 5) as ledger:
        ledger.enter([job(tmp_path, "b")])
        assert ledger.claim() is not None


def test_a_full_disk_is_said_and_nothing_is_half_written(out: Path, tmp_path: Path) -> None:
    ledger = World().driver(out, 1)
    ledger._file.temporary("PRAGMA max_page_count=1")  # the file cannot grow
    with pytest.raises(DiskFullError, match=r"no room to write .*free some space and run again"):
        ledger.enter([job(tmp_path, f"{i:0200d}") for i in range(200)])
    assert states(ledger) == {"a": "done", "b": "waiting"}
    ledger._file.temporary("PRAGMA max_page_count=100000")
    ledger.enter([job(tmp_path, "c")])
    assert ledger.unsettled() == 1
    ledger.close()


def test_a_limit_on_the_size_of_files_counts_as_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from vos.batch.ledger import Ledger\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from seem_core.errors import DiskFullError\n"
        "try:\n    Ledger.open(Path(sys.argv[1]))\nexcept DiskFullError as error:\n    print(error)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, timeout=120
    )
    assert told.stderr == ""
    assert "no room to write" in told.stdout


def test_a_small_file_system_that_fills_up_is_said(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not mount or not umount or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        ledger = World().driver(small, 1)
        names = [f"{i:0200d}" for i in range(500)]
        with pytest.raises(DiskFullError, match="no room to write"):
            ledger.enter([job(tmp_path, name, video=tmp_path, masks=()) for name in names])
        assert ledger.rows() == ()
        ledger._file.close()
        with Ledger.read(small) as reader:
            assert reader.rows() == ()
    finally:
        subprocess.run([umount, str(small)], check=True)


def test_a_ledger_that_is_removed_or_replaced_under_a_driver_is_noticed(out: Path, tmp_path: Path) -> None:
    ledger = World().driver(out, 1)
    ledger.enter([job(tmp_path, "b")])
    for path in out.glob(f"{LEDGER_FILE}*"):
        path.unlink()
    with pytest.raises(OutputError, match="was removed or replaced while it was in use"):
        ledger.claim()
    with World().driver(out, 2), pytest.raises(OutputError, match="removed or replaced"):
        ledger.beat(now=True)
    with pytest.raises(OutputError, match="removed or replaced"):
        ledger.close()


def test_a_ledger_that_is_held_is_waited_for_then_named(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "PATIENCE", 0.0)
    monkeypatch.setattr(ledger_file, "_BUSY_MS", 1)
    ledger = World().driver(out, 1)
    ledger.enter([job(tmp_path, "b")])
    holder = sqlite3.connect(out / LEDGER_FILE, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputError, match=r"was held by another process for 0 seconds"):
        ledger.claim()
    monkeypatch.setattr(ledger_file, "PATIENCE", 60.0)
    letting_go = threading.Timer(0.1, holder.execute, ["ROLLBACK"])
    letting_go.start()
    assert ledger.claim() is not None
    letting_go.join()
    holder.close()
    ledger.close()
