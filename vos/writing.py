"""Faults of writing, told apart in one place: `writing` turns what the system raises into our errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seem_core.disk import is_no_room
from seem_core.errors import DiskFullError, OutputError, VosError


@contextmanager
def writing(path: Path, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Translate errors of the operating system, and those of the types ``also``, while ``path`` is written.

    Raises DiskFullError where no room is left (or a quota or file-size limit is met), OutputError otherwise.
    """
    foreign: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except VosError:
        raise
    except foreign as error:
        raise write_error(path, error) from error


def refuse_link(path: Path) -> None:
    """Raise OutputError where ``path`` is a symbolic link: what is written or removed there would lie elsewhere."""
    with writing(path):
        is_link = path.is_symlink()
    if is_link:
        raise OutputError(
            f"{path} is a symbolic link, and results are written and removed only inside their own folder; "
            "remove the link, or choose another folder"
        )


def write_error(path: Path, error: Exception) -> DiskFullError | OutputError:
    """Our error for what went wrong while ``path`` was written."""
    reason = getattr(error, "strerror", None) or error
    if is_no_room(error):
        return DiskFullError(f"no room to write {path} ({reason}); free some space and run again")
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return OutputError(f"cannot write to {path}: {_in_the_way(path)} is a file; name another folder")
    return OutputError(f"cannot write {path} ({reason}); check that the folder is there and writable")


def _in_the_way(path: Path) -> Path:
    """The part of ``path`` that exists and is no folder."""
    return next(
        (place for place in (*reversed(path.parents), path) if os.path.exists(place) and not os.path.isdir(place)), path
    )
