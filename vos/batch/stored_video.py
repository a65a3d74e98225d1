"""One video whose files lie at URLs: brought here, tracked in a scratch folder, results brought back (`run_stored`).

Nothing but the scratch folder is written on this machine, and it is removed however the run ends. What run.json and the
messages name are the URLs, not the scratch folder's files. While a run goes on, its saved state is brought to the URL
now and then, so that another machine can go on with it when this one is lost. A job without a URL in it is
`vos.batch.job.run_video`.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from seem_core.errors import DiskFullError, LimitError, VosError
from vos.batch.job import Cause, VideoJob, VideoOutcome, run_video
from vos.batch.job_paths import input_urls, with_inputs
from vos.batch.remote_results import RemoteResults
from vos.batch.transfer import download, upload
from vos.batch.urls import ConnectionLostError, url_of
from vos.earlier_run import STATES_FOLDER
from vos.label_files import write_whole
from vos.run_record import RUN_FILE
from vos.to_folder import OnProgress
from vos.writing import writing

KEEP_SECONDS = 30.0  # between two times that a run's state is brought to its URL

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
    goes_on = results is not None and not job.overwrite and results.check_free(resume=job.resume) is not None
    copies = _Copies(folder, moved)
    local = with_inputs(job, copies.bring)
    if url_of(memory := job.options.save_memory or "") is not None:
        local = replace(local, options=replace(local.options, save_memory=str(copies.stand_in(Path(memory)))))
    if results is None:
        outcome = run_video(local, on_progress=on_progress, stop=stop)
    else:
        local = replace(local, out=copies.stand_in(job.out))
        if goes_on and job.resume and _bring_unfinished(results, copies, local.out, moved):
            logger.info("going on with the unfinished run at %s", results.url)
        outcome = _run_and_bring(local, results, copies, on_progress, stop)
    if (kept := local.options.save_memory) is not None and kept in copies.urls and Path(kept).is_file():
        upload(Path(kept), copies.urls[kept], moved)
    warnings = tuple(copies.told(line) for line in outcome.warnings)
    return replace(outcome, message=copies.told(outcome.message), warnings=warnings)


def _run_and_bring(
    job: VideoJob,
    results: RemoteResults,
    copies: _Copies,
    on_progress: OnProgress,
    stop: threading.Event | None,
) -> VideoOutcome:
    """Run a job whose results come to a URL: now and then what is needed to go on with it, all of it at the end."""
    with _Keeper(job.out, results, copies):
        outcome = run_video(job, on_progress=on_progress, stop=stop)
    if (job.out / RUN_FILE).is_file():
        _rename(job.out / RUN_FILE, copies.urls, job.out / RUN_FILE)
        results.finish(job.out, lambda: on_progress(0, 0))
    return outcome


class _Keeper:
    """Brings a run's saved states and what belongs to them to its URL while it goes on, on a thread of its own.

    A store that does not answer ends none of the run's work: the next time may be better.
    """

    def __init__(self, out: Path, results: RemoteResults, copies: _Copies) -> None:
        self._out, self._results, self._copies = out, results, copies
        self._ended = threading.Event()
        self._kept: set[str] = set()
        self._thread = threading.Thread(target=self._serve, name="keeper", daemon=True)

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._ended.wait(KEEP_SECONDS):
            try:
                self.keep()
            except VosError as error:
                logger.warning("%s", error)
            except Exception:
                logger.exception("the state of %s was not kept", self._results.url)

    def keep(self) -> None:
        """Bring what is new, if a state was saved since the last time."""
        with tempfile.TemporaryDirectory(prefix="vos-", dir=self._copies.folder) as place:
            states = []
            for file in sorted((self._out / STATES_FOLDER).glob("[!.]*")):
                with suppress(FileNotFoundError):  # an older one, let go in this moment
                    states.append(Path(shutil.copyfile(file, Path(place) / file.name)))
            names = {file.name for file in states}
            if not names or names == self._kept:
                return
            _rename(self._out / RUN_FILE, self._copies.urls, Path(place) / RUN_FILE)
            self._results.keep(self._out, Path(place) / RUN_FILE, states)
            self._kept = names


class _Copies:
    """Local copies of what lies at URLs, each brought once. ``urls``: local path -> URL."""

    def __init__(self, folder: Path, moved: Callable[[], None]) -> None:
        self.urls: dict[str, str] = {}
        self.folder, self._moved = folder, moved
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
        place = self.folder / str(len(self.urls))
        with writing(place):
            place.mkdir(exist_ok=True)
        return place


def _bring_unfinished(results: RemoteResults, copies: _Copies, out: Path, moved: Callable[[], None]) -> bool:
    """Bring what an earlier run left, so that `run_video` goes on from it; nothing stays where it is of no use."""
    with writing(out):
        out.mkdir(parents=True)
    if results.fetch(out, moved):
        _rename(out / RUN_FILE, {url: local for local, url in copies.urls.items()}, out / RUN_FILE)
        return True
    shutil.rmtree(out, ignore_errors=True)
    return False


def _rename(run: Path, names: dict[str, str], renamed: Path) -> None:
    """Write a run.json with every text that is a path in it put by what it is called in ``names``."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list):
            return [changed(item) for item in value]
        return {key: changed(item) for key, item in value.items()} if isinstance(value, dict) else value

    plain = changed(json.loads(run.read_bytes()))
    text = json.dumps(plain, allow_nan=False, indent=2, ensure_ascii=False) + "\n"
    write_whole(renamed, text.encode("utf-8", "backslashreplace"))


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
