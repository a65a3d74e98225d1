"""What this machine has for a batch: processor cores, memory, and what a process and its children take of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def cores() -> int:
    """Processor cores that this process may use: its affinity, less what a container's quota leaves of it."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def memory_bytes() -> int | None:
    """Memory that all processes here may take together: the machine's, or its container's limit; None if unknown."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    with suppress(OSError, ValueError):
        there = min(there, int((_CGROUP / "memory.max").read_text()))
    return there


def memory_of(pid: int) -> int | None:
    """Bytes that a process and its descendants hold for themselves; None where that cannot be known.

    Pages of mapped files, such as a model's weights, do not count: processes share them, and the system can drop them.
    """
    total, waiting, known = 0, [pid], False
    while waiting:
        place = _PROC / str(waiting.pop())
        try:
            status = (place / "status").read_text(errors="replace")
        except OSError:  # it ended meanwhile, or there is no /proc
            continue
        held = [line.split()[1] for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))]
        if held:
            known = True
            total += 1024 * sum(map(int, held))
        waiting += _children(place)
    return total if known else None


def _children(place: Path) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in (place / "task").iterdir():
            with suppress(OSError, ValueError):
                found += map(int, (task / "children").read_text().split())
    return found
