"""Places that are URLs (``s3://bucket/clip.mp4``): how a path stands for one, and what goes wrong there in our words.

Everything that carries a path carries a URL as well: `Path` makes ``s3:/bucket/clip.mp4`` of it, and `url_of` gives the
URL back. A folder of this machine that is really called ``s3:`` is named by its absolute path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seem_core.disk import is_no_room
from seem_core.errors import DiskFullError, InputError, LimitError, MissingExtraError, OutputError, VosError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/{1,3}(?=[^/])")  # one letter is a drive of Windows
_REFUSED = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError)


class ConnectionLostError(VosError, ConnectionError):
    """A store did not answer, or not in time; nothing that was asked of it was wrong."""


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL that ``path`` stands for, None for a path of this machine."""
    text = os.fspath(path)
    if os.sep != "/":
        text = text.replace(os.sep, "/")
    if (match := _URL.match(text)) is None:
        return None
    kind = match[1].lower()
    return f"{kind}://{'/' if kind == 'file' else ''}{text[match.end() :]}"  # a file's is an absolute path


def name_of(key: str) -> str:
    """The last part of a key, as a file's name on this machine. Raises InputError where it is none."""
    name = key.rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or any(mark in name for mark in (os.sep, os.altsep or os.sep, "\0")):
        raise InputError(f"the last part of {key!r} cannot be the name of a file; rename it in the store")
    return name


def open_store(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the key in it. Credentials and end point are what its environment says.

    Nothing that was listed before is believed: others write there too. Raises MissingExtraError where the package for
    such URLs is not installed, InputError for an unknown kind of URL.
    """
    try:
        from fsspec.core import url_to_fs

        store, key = url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}))
    except ImportError as error:
        raise MissingExtraError(
            f"{url} needs a package that is not installed ({error}); pip install 'seem-vos[cloud]' has what s3:// "
            "needs, gcsfs what gs:// needs"
        ) from error
    except ValueError as error:
        raise InputError(f"{url} cannot be opened ({error}); give a kind of URL that fsspec knows") from error
    store.invalidate_cache()
    return store, str(key)


@contextmanager
def remote(url: str | os.PathLike[str], *, write: bool = False) -> Iterator[None]:
    """Translate what file systems and stores raise while ``url`` is read or written.

    Raises InputError (OutputError where ``write``) for what is missing, not allowed or misspelt, DiskFullError where
    this machine has no room, and ConnectionLostError for everything that may go well the next time.
    """
    try:
        yield
    except (VosError, ImportError):
        raise
    except Exception as error:
        raise _translated(url_of(url) or str(url), error, write) from error


def _translated(url: str, error: Exception, write: bool) -> VosError:
    said = " ".join(str(error).split()) or type(error).__name__
    if is_no_room(error):
        return DiskFullError(f"no room for the files of {url} on this machine ({said}); free some space and run again")
    if isinstance(error, MemoryError):
        return LimitError(f"no memory for the files of {url}; give the worker more")
    if isinstance(error, _REFUSED) or "Credentials" in type(error).__name__:
        if write:
            return OutputError(f"cannot write {url} ({said}); check the bucket, the credentials and their rights")
        what = f"{url} is not there" if isinstance(error, FileNotFoundError) else f"cannot read {url} ({said})"
        return InputError(f"{what}; check the URL, the credentials and their rights")
    return ConnectionLostError(f"{url} could not be reached ({type(error).__name__}: {said}); run again")
