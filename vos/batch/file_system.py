"""On what kind of file system a folder lies, and whether a ledger may: `journal_for`, `file_system_of`.

SQLite's locks do not hold on network file systems, and a monotonic clock is one machine's, so a ledger there is refused
(https://www.sqlite.org/faq.html, question 5; https://www.sqlite.org/wal.html, "Overview", on shared memory).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from seem_core.errors import OutputError

Journal: TypeAlias = Literal["wal", "delete"]

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "gpfs", "glusterfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "wekafs"}
    | {"fuse." + name for name in ("blobfuse", "blobfuse2", "ceph", "davfs2", "gcsfuse", "glusterfs", "goofys")}
    | {"fuse." + name for name in ("juicefs", "mount-s3", "rclone", "s3fs", "s3ql", "sshfs", "vmhgfs-fuse")}
)
_PLAIN = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class FileSystem:
    """The file system a path lies on: its type as the kernel names it, where it is mounted, and from where."""

    kind: str
    place: str
    source: str

    @property
    def is_network(self) -> bool:
        """Whether other machines may write to it too. A 9p root is a container's own."""
        return self.kind in _NETWORK and not (self.kind == "9p" and self.place == "/")


def file_system_of(path: Path, mounts: bytes | None = None) -> FileSystem | None:
    """The file system of ``path``, which need not be there yet. None where the system has no table of mounts.

    mounts: the table, as Linux writes /proc/self/mountinfo (proc(5)); by default this process's.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_bytes()
        except OSError:
            return None
    inside = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
    found: FileSystem | None = None
    longest = -1
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        fields, more = before.split(b" "), after.split(b" ")
        if len(fields) < 5 or len(more) < 2:
            continue
        place = _plain(fields[4])
        # of two mounts on one place the later one is seen
        if inside.startswith(place.rstrip(b"/") + b"/") and len(place) >= longest:
            longest = len(place)
            found = FileSystem(os.fsdecode(more[0]), os.fsdecode(place), os.fsdecode(_plain(more[1])))
    return found


def journal_for(path: Path, mounts: bytes | None = None) -> Journal:
    """How SQLite should keep its journal for a file in folder ``path``: "wal" where shared memory surely works.

    Raises OutputError where the folder lies on a network file system.
    """
    system = file_system_of(path, mounts)
    if system is not None and system.is_network:
        raise OutputError(
            f"{path} lies on a network file system ({system.kind}, mounted on {system.place}), where the ledger of a "
            "batch cannot be locked; give a folder on a local disk, or this one as a URL "
            f"(file://{path.absolute()}), whose ledger is kept on this machine"
        )
    return "wal" if system is not None and system.kind in _PLAIN else "delete"


def _plain(field: bytes) -> bytes:
    """Space, tab, newline and backslash are written in octal."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field)
