"""A folder that one process at a time may write to: `lock_folder`, `unlock_folder`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from seem_core.errors import OutputError
from vos.writing import writing

_LOCK = ".lock"

log = logging.getLogger(__name__)


def lock_folder(folder: Path, who: str = "another run is writing to") -> int | None:
    """Lock the folder for this process; returns the descriptor that holds the lock until `unlock_folder`.

    None where the system has no locks; a file system without locks gives a descriptor that holds nothing. A lock ends
    with its process, however that ends. ``who`` begins the sentence of the OutputError where it is locked already.
    """
    try:
        import fcntl
    except ImportError:
        return None
    with writing(folder):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{who} {folder}; wait for it or choose another folder") from error
    except OSError as error:
        log.debug("%s cannot be locked: %s", folder, error)
        return descriptor
    if not _is_still(folder / _LOCK, descriptor):  # its owner finished and removed it meanwhile
        os.close(descriptor)
        return lock_folder(folder, who)
    return descriptor


def unlock_folder(folder: Path, descriptor: int | None) -> None:
    """Give the lock back; with None there is nothing to do."""
    if descriptor is not None:
        (folder / _LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_locked(folder: Path) -> bool:
    """Whether a run is writing to the folder at this moment; False where the system or the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
