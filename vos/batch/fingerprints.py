"""What a job asks for and what its files hold, in a form that can be compared later: settings, signatures, hashes.

settings   everything in a job that decides about the masks, as text; where it runs and with how many threads does not
signature  a file's size, times and place on the disk: as long as it stays, the file is taken to be the same
hash       SHA-256 of the content as run.json has it; computed once for a signature
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seem_core.errors import InputError
from vos.batch.job import VideoJob, job_files
from vos.pipeline import TrackOptions
from vos.run_record import InputRecord, RunRecord, read_run

# where and how quickly, and a limit; a file counts by its content
_NOT_ASKED = frozenset({"device", "threads", "max_pixels", "memory"})
_SETTLING_NS = 2_000_000_000  # file systems keep times as coarsely as this
_PICTURES = {"overlay": "overlay.mp4", "contact": "contact.png"}


def settings_of(job: VideoJob) -> str:
    """What decides about a job's masks besides the content of its files, as JSON with sorted keys."""
    options = {key: value for key, value in asdict(job.options).items() if key not in _NOT_ASKED}
    prompts = [_digest(prompt) for prompt in job.prompts if not isinstance(prompt, (str, Path))]
    prompts += [_digest(mask) for mask in job.masks if not isinstance(mask, str)]
    files = [[role, os.fspath(path)] for role, path in job_files(job)]
    return json.dumps({"options": options, "prompts": prompts, "files": files}, sort_keys=True, default=str)


@dataclass(frozen=True)
class Settings:
    """What `settings_of` wrote: options by name, digests of prompts that are no files, role and path of each file."""

    options: Mapping[str, Any]
    prompts: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def read_settings(text: str) -> Settings:
    """What `settings_of` wrote. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    plain = json.loads(text)
    files = tuple((str(role), str(path)) for role, path in plain["files"])
    return Settings(dict(plain["options"].items()), tuple(map(str, plain["prompts"])), files)


def changed_settings(before: str, now: str) -> str:
    """What differs between two settings, in words; empty where nothing does. Paths alone do not count."""
    old, new = read_settings(before), read_settings(now)
    if told := _changed_options(old.options, new.options):
        return told
    had, has = [role for role, _ in old.files], [role for role, _ in new.files]
    for role, path in new.files:
        if has.count(role) > had.count(role) and (role, path) not in old.files:
            return f"{role} {Path(path).name} is new"
    for role, path in old.files:
        if had.count(role) > has.count(role) and (role, path) not in new.files:
            return f"{role} {Path(path).name} is no longer given"
    return "" if old.prompts == new.prompts and had == has else "what to follow is given otherwise"


def _changed_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """An option that an earlier version did not have counts as its default."""
    had = json.loads(json.dumps(asdict(TrackOptions()), default=str)) | old
    changed = [f"{key} was {had[key]}, is {value}" for key, value in new.items() if had.get(key) != value]
    return "; ".join(changed)


def changed_from_run(job: VideoJob, run: RunRecord) -> str:
    """How the options of a recorded run differ from a job's, in words; empty where they do not."""
    asked = read_settings(settings_of(job)).options
    return _changed_options({key: value for key, value in run.options.items() if key in asked}, asked)


def recorded_run(out: Path) -> RunRecord | None:
    """The record of the run in ``out``, None where there is none that can be read."""
    try:
        return read_run(out)
    except InputError:
        return None


def identity_of(run: RunRecord | None) -> str:
    """A text that tells one finished run from the next in the same folder; empty for none."""
    return "" if run is None else f"{run.started} {run.finished} {run.seconds} {run.frames_done}"


def missing_picture(job: VideoJob, run: RunRecord) -> str:
    """A file that the job wants made from the masks and that the run did not make; empty if there is none."""
    return next(
        (_PICTURES[part] for part in sorted(job.save & _PICTURES.keys()) if _PICTURES[part] not in run.rendered), ""
    )


@dataclass(frozen=True)
class Signature:
    """Size, times and place of a file, or of all files in a folder. ``latest``: its newest time, ns since 1970."""

    text: str
    latest: int

    def is_settled(self, now: int) -> bool:
        """Whether a change after ``now`` (wall clock, ns) would show: a file of this moment may change unseen."""
        return self.latest < now - _SETTLING_NS


def signature_of(path: Path) -> Signature | None:
    """The signature of a file or folder, None where it cannot be looked at."""
    try:
        found = path.stat()
        if not path.is_dir():
            return Signature(_stat_text(found), max(found.st_mtime_ns, found.st_ctime_ns))
        digest, latest = hashlib.sha256(), 0
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_file():
                    found = entry.stat()
                    digest.update(os.fsencode(entry.name) + b"\0" + _stat_text(found).encode() + b"\n")
                    latest = max(latest, found.st_mtime_ns, found.st_ctime_ns)
    except OSError:
        return None
    return Signature(digest.hexdigest(), latest)


def signatures_of(job: VideoJob) -> dict[str, Signature | None]:
    """Absolute path -> signature of every file that a job names."""
    return {os.path.abspath(path): signature_of(path) for _, path in job_files(job)}


def _stat_text(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"


class InputHashes:
    """SHA-256 of files, computed where no hash is known for a file's signature; new ones are in ``fresh``."""

    def __init__(self, known: Callable[[str], tuple[str, str] | None], now: Callable[[], int] = time.time_ns) -> None:
        """known: path -> (signature, hash) from earlier, None where there is none. now: wall clock, ns."""
        self._known, self._now = known, now
        self.fresh: dict[str, tuple[str, str]] = {}

    def of(self, path: Path) -> str | None:
        """The hash of a file or folder, None where it cannot be read."""
        before = signature_of(path)
        if before is None:
            return None
        key = os.path.abspath(path)
        known = self.fresh.get(key) or self._known(key)
        if known is not None and known[0] == before.text:
            return known[1]
        try:
            digest = InputRecord.of("", path).sha256
        except InputError:
            return None
        self.learn(key, before, digest)
        return digest

    def learn(self, path: str, before: Signature | None, digest: str) -> None:
        """Keep a hash of content that was read after ``before`` was taken, unless the file changed since, or may."""
        after = signature_of(Path(path))
        if before is not None and before == after and before.is_settled(self._now()):
            self.fresh[path] = (before.text, digest)


def changed_inputs(
    job: VideoJob, recorded: Sequence[Sequence[str]], hashes: InputHashes, named_before: Sequence[str] = ()
) -> str:
    """Which file is no longer as a finished run read it, in words; empty if none.

    recorded      role, path and SHA-256 of each of the run's inputs, also of those that prompts and options named
    named_before  paths that the job named then: they count by their content, wherever that lies now

    A file that is gone has not changed: its results stand.
    """
    read = {(role, digest) for role, _, digest in recorded}
    for role, path in job_files(job):
        digest = hashes.of(path)
        if digest is not None and (role, digest) not in read:
            return f"{role} {path.name} changed"
    named = {os.path.abspath(path) for path in (*named_before, *(os.fspath(path) for _, path in job_files(job)))}
    for role, path_text, before in recorded:
        if role != "video" and os.path.abspath(path_text) not in named:
            digest = hashes.of(Path(path_text))
            if digest not in (None, before):
                return f"{role} {Path(path_text).name} changed"
    return ""


def _digest(value: object) -> str:
    """A short text that stands for a value, to the bit of the arrays in it."""
    return hashlib.sha256(_spelled(value).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _spelled(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = ", ".join(
            f"{f.name}={_spelled(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.compare
        )
        return f"{type(value).__name__}({inside})"
    if isinstance(value, Path):  # files are told by their content
        return "file"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_spelled, value))}]"
    return repr(value)
