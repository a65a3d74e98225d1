"""One video whose files lie at URLs: brought here, tracked in a scratch folder, results brought back (`run_stored`).

Nothing but the scratch folder is written on this machine, and it is removed however the run ends. What run.json and the
messages name are the URLs, not the scratch folder's files. A job without a URL in it is `vos.batch.job.run_video`.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from seem_core.errors import DiskFullError, LimitError, VosError
from vos.batch.job import Cause, VideoJob, VideoOutcome, run_video
from vos.batch.job_paths import input_urls, with_inputs
from vos.batch.storage import RemoteResults, download, upload
from vos.batch.urls import ConnectionLostError, url_of
from vos.label_files import write_whole
from vos.run_record import RUN_FILE
from vos.to_folder import OnProgress
from vos.writing import writing

logger = logging.getLogger(__name__)


def run_stored(
    job: VideoJob,
    *,
    scratch: Path | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> VideoOutcome:
    """Track one video as `run_video` does, wherever its files and its results lie; raises as little.

    scratch: folder for a copy of the video and its results, where they lie at URLs; by default the system's for
    temporary files. While files are moved, ``on_progress`` is called with (0, 0).

    A store that cannot be reached is the cause "crash": the same job may well succeed the next time.
    """
    if not is_stored(job):
        return run_video(job, on_progress=on_progress, stop=stop)
    heard = on_progress or _nothing
    try:
        with _folder(scratch) as folder:
            return _run(job, folder, heard, stop)
    except VosError as error:
        return VideoOutcome(job.name, "failed", cause=_cause(error), message=str(error))
    except Exception as error:
        logger.exception("%s stopped by a bug", job.video)
        return VideoOutcome(job.name, "failed", cause="bug", message=f"{type(error).__name__}: {error}")


def is_stored(job: VideoJob) -> bool:
    """Whether a URL is among what a job reads or writes."""
    written = (job.out, job.options.save_memory or "")
    return bool(input_urls(job)) or any(url_of(path) is not None for path in written)


def _run(job: VideoJob, folder: Path, on_progress: OnProgress, stop: threading.Event | None) -> VideoOutcome:
    def moved() -> None:
        on_progress(0, 0)

    results = None if url_of(job.out) is None else RemoteResults(str(url_of(job.out)))
    if results is not None:
        earlier = results.check_free(job.overwrite)
    copies = _Copies(folder, moved)
    local = with_inputs(job, copies.bring)
    if results is not None:
        local = replace(local, out=copies.stand_in(job.out))
        resumed = (
            job.resume and not job.overwrite and earlier is not None and _resume(results, copies, local.out, moved)
        )
        local = replace(local, resume=resumed)
    if url_of(memory := local.options.save_memory or ""):
        local = replace(local, options=replace(local.options, save_memory=str(copies.stand_in(Path(memory)))))
    outcome = run_video(local, on_progress=on_progress, stop=stop)
    if results is not None and (local.out / RUN_FILE).is_file():
        _rename(local.out / RUN_FILE, copies.urls)
        results.put(local.out, moved)
    if (kept := local.options.save_memory) is not None and kept in copies.urls and Path(kept).is_file():
        upload(Path(kept), copies.urls[kept], moved)
    return replace(
        outcome,
        message=copies.told(outcome.message),
        warnings=tuple(copies.told(line) for line in outcome.warnings),
    )


class _Copies:
    """Local copies of what lies at URLs, each brought once. ``urls``: local path -> URL."""

    def __init__(self, folder: Path, moved: Callable[[], None]) -> None:
        self.urls: dict[str, str] = {}
        self._folder, self._moved = folder, moved
        self._brought: dict[str, Path] = {}

    def bring(self, path: Path) -> Path:
        """The path itself, or that of a copy where it stands for a URL."""
        if (url := url_of(path)) is None:
            return path
        if url not in self._brought:
            self._brought[url] = download(url, self._place())
            self.urls[str(self._brought[url])] = url
        return self._brought[url]

    def stand_in(self, path: Path) -> Path:
        """A place for what will be brought to a URL."""
        local = self._place() / path.name
        self.urls[str(local)] = str(url_of(path))
        return local

    def told(self, message: str) -> str:
        """A message with URLs in place of our copies."""
        for local in sorted(self.urls, key=len, reverse=True):
            message = message.replace(local, self.urls[local])
        return message

    def _place(self) -> Path:
        place = self._folder / str(len(self.urls))
        with writing(place):
            place.mkdir(exist_ok=True)
        return place


def _resume(results: RemoteResults, copies: _Copies, out: Path, moved: Callable[[], None]) -> bool:
    """Bring what an unfinished run left, so that `run_video` goes on from it; nothing stays where it cannot."""
    with writing(out):
        out.mkdir(parents=True)
    if results.fetch(out, moved):
        _rename(out / RUN_FILE, {url: local for local, url in copies.urls.items()})
        return True
    shutil.rmtree(out, ignore_errors=True)
    return False


def _rename(file: Path, names: dict[str, str]) -> None:
    """In run.json, put every text that is a path by what it is called in ``names``."""

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return {key: renamed(item) for key, item in value.items()} if isinstance(value, dict) else value

    plain = renamed(json.loads(file.read_bytes()))
    text = json.dumps(plain, allow_nan=False, indent=2, ensure_ascii=False) + "\n"
    write_whole(file, text.encode("utf-8", "backslashreplace"))


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    with writing(scratch or Path(tempfile.gettempdir())):
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="vos-", dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cause(error: VosError) -> Cause:
    if isinstance(error, ConnectionLostError):
        return "crash"
    return "disk" if isinstance(error, DiskFullError) else "limit" if isinstance(error, LimitError) else "input"


def _nothing(done: int, total: int) -> None:
    pass
