"""Moving files between a URL and this machine: `download`, `upload`, and many at a time by `get` and `put`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vos.batch.urls import name_of, open_store, remote, url_of
from vos.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

_AT_ONCE = 64  # files that one call moves; a store moves them side by side
T = TypeVar("T")

OnMoved = Callable[[], None]  # called now and then while files are moved


def list_folder(url: str | os.PathLike[str]) -> tuple[Path, ...]:
    """What lies directly in a remote folder, as paths that stand for URLs, by name. Raises what `remote` raises."""
    text = str(url_of(url)).rstrip("/")
    store, key = open_store(text)
    with remote(text):
        keys = [str(item) for item in store.ls(key, detail=False)]
    return tuple(sorted(Path(f"{text}/{name_of(item)}") for item in keys if item.rstrip("/") != key.rstrip("/")))


def download(path: str | os.PathLike[str], folder: Path, on_moved: OnMoved = lambda: None) -> Path:
    """Bring a remote file, or a folder of images, into ``folder`` under its own name. Raises what `remote` raises."""
    url = str(url_of(path))
    store, key = open_store(url)
    local = folder / name_of(key)
    with remote(url):
        if not store.isdir(key):
            get(store, url, [(key, local)], on_moved)
            return local
        local.mkdir(parents=True)
        names = [(item, local / name_of(item)) for item in files_in(store, key)]
    get(store, url, [(item, file) for item, file in names if file.suffix.lower() in IMAGE_SUFFIXES], on_moved)
    return local


def upload(file: Path, path: str | os.PathLike[str], on_moved: OnMoved = lambda: None) -> None:
    """Bring one file to a URL. Raises what `remote` raises."""
    url = str(url_of(path))
    store, key = open_store(url)
    put(store, url, [(file, key)], on_moved)


def get(store: AbstractFileSystem, url: str, pairs: Sequence[tuple[str, Path]], on_moved: OnMoved) -> None:
    """Copy keys of a store to files, whose folders are made."""
    with remote(url):
        for folder in {file.parent for _, file in pairs}:
            folder.mkdir(parents=True, exist_ok=True)
        for some in _in_parts(pairs):
            store.get([key for key, _ in some], [str(file) for _, file in some], callback=_heard(on_moved))
            on_moved()


def put(
    store: AbstractFileSystem, url: str, pairs: Sequence[tuple[Path, str]], on_moved: OnMoved = lambda: None
) -> None:
    """Copy files to keys of a store."""
    with remote(url, write=True):
        for some in _in_parts(pairs):
            store.put([str(file) for file, _ in some], [key for _, key in some], callback=_heard(on_moved))
            on_moved()


def files_in(store: AbstractFileSystem, key: str) -> list[str]:
    """Keys of the files directly in a folder; none where there is no such folder."""
    try:
        found = store.ls(key, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [str(item["name"]) for item in found if item["type"] == "file" and str(item["name"]).rstrip("/") != key]


def _heard(on_moved: OnMoved) -> Callback:
    """What a store calls for every piece of a file that it moved."""
    from fsspec.callbacks import Callback

    class Heard(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            on_moved()

        def branched(self, path_1: str, path_2: str, **kwargs: object) -> Callback:
            return self

    return Heard()


def _in_parts(pairs: Sequence[T]) -> Iterable[Sequence[T]]:
    return (pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE))
