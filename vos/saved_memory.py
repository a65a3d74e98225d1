"""A tracker's memory from one video to another: what is checked before, what is known from it, how it is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from seem_core.errors import InputError, OutputError
from trackers.base import Tracker


@runtime_checkable
class Remembering(Protocol):
    """A tracker whose memory can be kept in a file."""

    def save_memory(self, path: str | os.PathLike[str]) -> None: ...


def check_memory(tracker: str, direction: str, memory: str | None, save_memory: str | None) -> None:
    """Refuse a tracker that has no memory to begin with or to save, and files that would be lost.

    tracker: one of `trackers.TRACKERS`. Raises InputError, OutputError.
    """
    from trackers import TRACKERS

    if memory is not None and direction != "forward":
        raise InputError(f"a memory is followed forward, not in direction {direction}; leave out one of the two")

    if (memory is not None or save_memory is not None) and not TRACKERS[tracker].memory:
        able = " or ".join(name for name, kind in TRACKERS.items() if kind.memory)
        raise InputError(f"tracker {tracker} has no memory that lasts from video to video; use {able}")
    if save_memory is not None:
        _check_target(Path(save_memory))


def known_objects(memory: str | None) -> tuple[int, ...]:
    """Ids of the objects in a memory file, ascending; none without one. Raises InputError."""
    if memory is None:
        return ()
    from trackers.memory_file import objects_of

    return objects_of(memory)


def keep_memory(tracker: Tracker, path: str | None) -> None:
    """Save a tracker's memory after a run, if that was asked for. Raises OutputError, InputError."""
    if path is None:
        return
    if not isinstance(tracker, Remembering):
        raise InputError(f"tracker {tracker.name} has no memory that could be saved")
    tracker.save_memory(path)


def _check_target(path: Path) -> None:
    """An existing file is replaced only where it is a memory itself."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file for the memory")
    if not path.exists():
        return
    from trackers.memory_file import objects_of

    try:
        objects_of(path)
    except InputError as error:
        raise OutputError(f"{path} is there already and is no memory file; name another one for the memory") from error
