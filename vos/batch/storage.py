"""Where the results of a batch lie, a folder or a URL: `Storage`, and moving files between a URL and this machine.

A results folder at a URL has the files of docs/output.md under the same names, and they come to be in an order that
tells what is whole: run.json says "running" before anything else is there, then frames.jsonl, masks and pictures
follow, and run.json comes once more at the end. Whoever finds a run.json that says "done" finds all the rest.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from seem_core.errors import InputError, OutputError
from seem_core.user_cache import user_cache
from vos.batch.urls import name_of, open_store, remote, url_of
from vos.images import IMAGE_SUFFIXES
from vos.run_record import FRAMES_FILE, MASKS_FOLDER, RUN_FILE, RunRecord, read_frames, read_run

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

_AT_ONCE = 64  # files that one call moves; a store moves them side by side
_RENDERED = ("overlay.mp4", "contact.png")
STATE_FOLDER = ".state"
T = TypeVar("T")

OnMoved = Callable[[], None]  # called now and then while files are moved


class Storage(Protocol):
    """The folder of a batch, which holds one folder of results for each name."""

    def run(self, name: str) -> RunRecord | None:
        """run.json of ``name``; None where there is none that can be read. Raises ConnectionLostError, InputError."""
        ...

    def finished(self, name: str) -> int | None:
        """How many frames the finished run of ``name`` has; None where there is no finished run."""
        ...


def open_storage(out: str | os.PathLike[str]) -> Storage:
    """The storage of a batch's folder or URL. Raises MissingExtraError, InputError for a URL that cannot be opened."""
    url = url_of(out)
    return FolderStorage(Path(out)) if url is None else UrlStorage(url)


def ledger_folder(out: str | os.PathLike[str]) -> Path:
    """The folder of a batch's ledger: ``out`` itself, or for a URL one in the user's cache that belongs to it."""
    if (url := url_of(out)) is None:
        return Path(out)
    return user_cache() / "batches" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FolderStorage:
    """A folder of this machine, or one that several machines share."""

    out: Path

    def run(self, name: str) -> RunRecord | None:
        return _record(self.out / name)

    def finished(self, name: str) -> int | None:
        return _frames(self.run(name))


class UrlStorage:
    """Results below a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        open_store(self.url)

    def run(self, name: str) -> RunRecord | None:
        return RemoteResults(f"{self.url}/{name}").run()

    def finished(self, name: str) -> int | None:
        return _frames(self.run(name))


class RemoteResults:
    """One results folder at a URL. Every method raises what `vos.batch.urls.remote` raises."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, self._key = open_store(self.url)

    def run(self) -> RunRecord | None:
        """Its run.json; None where there is none, or a damaged one."""
        with tempfile.TemporaryDirectory(prefix="vos-") as folder:
            return _record(Path(folder)) if self._fetch(RUN_FILE, Path(folder)) else None

    def check_free(self, overwrite: bool) -> RunRecord | None:
        """The unfinished or replaced run that is there. Raises OutputError for a finished run, or files of results that
        no run made, unless ``overwrite``."""
        run = self.run()
        if overwrite:
            return run
        if run is not None and run.state == "done":
            raise OutputError(
                f"{self.url} holds the results of a finished run; choose another folder or say --overwrite"
            )
        if run is None and (foreign := self._names(masks=True)):
            raise OutputError(
                f"{self.url}/{min(foreign)} is there already and no run of vos made it; choose another folder or say "
                "--overwrite"
            )
        return run

    def fetch(self, folder: Path, on_moved: OnMoved = lambda: None) -> bool:
        """Bring an unfinished run with its saved state here. False where it has none, or is not whole."""
        with remote(self.url):
            states = self._below(STATE_FOLDER)
        if not states or not (self._fetch(RUN_FILE, folder) and self._fetch(FRAMES_FILE, folder)):
            return False
        try:
            masks = [record.mask for record in read_frames(folder)]
        except InputError:
            return False
        pairs = []
        for name in (*masks, *(f"{STATE_FOLDER}/{name_of(key)}" for key in states)):
            if Path(name).parts[:-1] not in ((MASKS_FOLDER,), (STATE_FOLDER,)):  # a damaged line leads nowhere else
                return False
            pairs.append((f"{self._key}/{name}", folder / name))
        try:
            get(self._store, self.url, pairs, on_moved)
        except InputError:  # a line whose mask did not come through
            return False
        return True

    def put(self, folder: Path, on_moved: OnMoved = lambda: None) -> None:
        """Bring the results in ``folder`` there, over what an earlier run left; run.json comes last."""
        final = read_run(folder)
        stale = self._written_before()
        new = _files(folder)
        with tempfile.TemporaryDirectory(prefix="vos-") as place, remote(self.url, write=True):
            begun = Path(place) / RUN_FILE
            begun.write_bytes(replace(final, state="running", finished=None, rendered=()).text())
            put(self._store, self.url, [(begun, f"{self._key}/{RUN_FILE}")])
            for names in (
                [FRAMES_FILE],
                [name for name in new if name != FRAMES_FILE],
            ):  # it lists the masks that follow
                put(self._store, self.url, [(folder / name, f"{self._key}/{name}") for name in names], on_moved)
            gone = [f"{self._key}/{name}" for name in sorted(stale - set(new))]
            for start in range(0, len(gone), _AT_ONCE):
                self._store.rm(gone[start : start + _AT_ONCE])
                on_moved()
            put(self._store, self.url, [(folder / RUN_FILE, f"{self._key}/{RUN_FILE}")])

    def _written_before(self) -> set[str]:
        """What an earlier run left there, as far as it is still there: masks that it lists, pictures, its state."""
        there = self._names(masks=True)
        with remote(self.url):
            there |= {f"{STATE_FOLDER}/{name_of(key)}" for key in self._below(STATE_FOLDER)}
        ours = {name for name in there if not name.startswith(f"{MASKS_FOLDER}/")}
        with tempfile.TemporaryDirectory(prefix="vos-") as folder:
            if FRAMES_FILE in there and self._fetch(FRAMES_FILE, Path(folder)):
                with suppress(InputError):  # damaged: masks that are not replaced stay
                    ours |= {record.mask for record in read_frames(folder)}
        return ours & there

    def _names(self, *, masks: bool) -> set[str]:
        """Names of results that are there, without run.json."""
        with remote(self.url):
            found = {name for name in (FRAMES_FILE, *_RENDERED) if self._store.exists(f"{self._key}/{name}")}
            if masks:
                keys = (name_of(key) for key in self._below(MASKS_FOLDER))
                found |= {f"{MASKS_FOLDER}/{name}" for name in keys if name.endswith(".png")}
        return found

    def _below(self, folder: str) -> list[str]:
        """Keys of the files directly in a folder; none where there is no such folder."""
        return files_in(self._store, f"{self._key}/{folder}")

    def _fetch(self, name: str, folder: Path) -> bool:
        with remote(f"{self.url}/{name}"):
            try:
                content = self._store.cat_file(f"{self._key}/{name}")
            except FileNotFoundError:
                return False
            (folder / name).write_bytes(content)
            return True


def list_folder(url: str | os.PathLike[str]) -> tuple[Path, ...]:
    """What lies directly in a remote folder, as paths that stand for URLs, by name. Raises what `remote` raises."""
    text = str(url_of(url)).rstrip("/")
    store, key = open_store(text)
    with remote(text):
        keys = [str(item) for item in store.ls(key, detail=False)]
    return tuple(sorted(Path(f"{text}/{name_of(item)}") for item in keys if item.rstrip("/") != key.rstrip("/")))


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A text that changes when a remote file, or a file in a remote folder, changes; nothing is downloaded.

    It is made of what the store tells of a file (size, time, ETag). Raises what `remote` raises.
    """
    url = str(url_of(path))
    store, key = open_store(url)
    with remote(url):
        keys = files_in(store, key) if store.isdir(key) else [key]
        told = [f"{name_of(item)} {store.ukey(item)}" for item in sorted(keys)]
    return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()


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


def _files(folder: Path) -> list[str]:
    """Names of a run's files, run.json left out."""
    return [
        file.relative_to(folder).as_posix()
        for place in (folder, folder / MASKS_FOLDER, folder / STATE_FOLDER)
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name != RUN_FILE
    ]


def _record(folder: Path) -> RunRecord | None:
    try:
        return read_run(folder)
    except InputError:
        return None


def _frames(run: RunRecord | None) -> int | None:
    return run.frames_done if run is not None and run.state == "done" else None
