"""Where the results of a batch lie, a folder or a URL (`Storage`), and where its ledger does."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seem_core.errors import InputError
from seem_core.user_cache import user_cache
from vos.batch.remote_results import RemoteResults
from vos.batch.transfer import download, upload
from vos.batch.urls import open_store, url_of
from vos.run_record import RunRecord, read_run

CONTACT_SHEET = "contact.png"


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


@contextmanager
def page_folder(out: str | os.PathLike[str], names: Iterable[str]) -> Iterator[Path]:
    """The folder in which the page about a batch is written, beside the contact sheets of ``names``.

    It is ``out``; for a URL a folder of this machine, whose files (and not the sheets) are brought to the URL on
    leaving. Raises what `vos.batch.urls.remote` raises.
    """
    if (url := url_of(out)) is None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="vos-") as place:
        for name in names:
            (Path(place) / name).mkdir()
            with suppress(InputError):  # there is none
                download(f"{url.rstrip('/')}/{name}/{CONTACT_SHEET}", Path(place) / name)
        yield Path(place)
        for file in sorted(Path(place).iterdir()):
            if file.is_file():
                upload(file, f"{url.rstrip('/')}/{file.name}")


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
        try:
            return RemoteResults(f"{self.url}/{name}").run()
        except InputError:
            if name.encode(errors="replace").decode() == name:
                raise
            return None  # bytes that are no text, which most stores refuse: the video itself will say so

    def finished(self, name: str) -> int | None:
        return _frames(self.run(name))


def _record(folder: Path) -> RunRecord | None:
    try:
        return read_run(folder)
    except InputError:
        return None


def _frames(run: RunRecord | None) -> int | None:
    return run.frames_done if run is not None and run.state == "done" else None
