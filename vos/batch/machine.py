"""Who is alive on this machine, told without the wall clock: `Machine`, `Process`.

A process is known by its id, the moment it was started (ids are used again) and the boot of the machine it runs under.
Time is the monotonic clock, which every process of one boot shares and which nobody sets; a beat of another boot, or
one from the future, is nobody's any more.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

_SKEW = 1.0  # seconds that clocks of two processors may differ


@dataclass(frozen=True)
class Process:
    """A process as another one can find it again.

    boot    of the machine, changes when it starts anew
    space   of process ids: ids of another container mean nothing here
    began   when it was started, in ticks since boot; 0 where the system does not tell
    """

    pid: int
    began: int
    boot: str
    space: str


def _wall() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Machine:
    """Clocks and processes of the machine; the parts can be put in by hand.

    monotonic  seconds on a clock that all processes of a boot share
    wall       the time to show, UTC in ISO 8601
    began      process id -> when it was started as in `Process`, None where there is no such process
    """

    boot: str
    space: str
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], str] = _wall
    began: Callable[[int], int | None] = lambda pid: process_began(pid)

    @classmethod
    def here(cls) -> Machine:
        """The machine that this runs on."""
        return cls(boot_id(), _link("/proc/self/ns/pid"))

    def myself(self) -> Process:
        """This process."""
        return Process(os.getpid(), self.began(os.getpid()) or 0, self.boot, self.space)

    def is_alive(self, process: Process, beat: float, lapse: float) -> bool:
        """Whether a process that gave its last sign at ``beat`` (monotonic seconds) still counts, ``lapse`` seconds on.

        One whose id is gone, or belongs to a process that was started at another time, does not, however fresh.
        """
        if process.boot != self.boot or not -_SKEW <= self.monotonic() - beat <= lapse:
            return False
        return process.space != self.space or self.began(process.pid) == process.began


@lru_cache(maxsize=1)
def boot_id() -> str:
    """What names this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _macos_boot() if sys.platform == "darwin" else ""


def _macos_boot() -> str:
    import subprocess

    try:
        told = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def process_began(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; 0 where only its being there can be told, None if gone.

    A process that has ended and waits for its parent to notice (a zombie) is gone.
    """
    try:
        # the name, in brackets, may hold anything; state is the first field after it, start time the twentieth
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError, ValueError):
        pass
    if sys.platform == "win32":  # there os.kill would end it
        return 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
