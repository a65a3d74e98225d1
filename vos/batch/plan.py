"""What a batch will do, found before anything runs: `plan_batch` makes a `VideoJob` of every video that has prompts.

    by rule    clip.mp4 (or images in clip/) with clip.png or clip.json beside it, or in a folder of prompts
    by table   a row of a CSV or JSONL file says which video and which prompts (`vos.batch.tables`)
    for all    words, a reference or a memory that hold for every video

Nothing is decoded. A file that cannot be opened is a job too: its outcome says why, and `Plan.problems` says it now.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from seem_core.errors import InputError
from vos.batch.job import VideoJob, job_files
from vos.batch.tables import LIST_SUFFIXES, TABLE_SUFFIXES, Row, read_list, read_table
from vos.batch.transfer import list_folder
from vos.batch.urls import url_of
from vos.images import IMAGE_SUFFIXES, natural_key
from vos.pipeline import TrackOptions
from vos.prompt_file import holds_prompts
from vos.prompt_gathering import GivenPrompt
from vos.prompt_sources import MaskFile
from vos.run_record import RUN_FILE
from vos.to_folder import PARTS

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"}
    | {".ts", ".vob", ".webm", ".wmv"}
)
OWN_FILES = ("ledger.sqlite", "report.html")  # what a batch itself keeps beside the folders of results


@dataclass(frozen=True)
class Problem:
    """Why a planned video is likely to fail, one sentence, before it was tried."""

    name: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What a batch will do.

    videos          one job per video, ready for `vos.batch.job.run_video`; names are unique, and each job's ``out`` is
                    OUT/name. A folder's are in natural order of names, those of lists and tables as written
    without_prompt  videos that are left out because nothing says what to follow in them
    problems        jobs whose files are missing, empty or not readable, in the order of ``videos``; they are still jobs
    notes           one sentence for each thing that was passed over or may be a mistake
    """

    videos: tuple[VideoJob, ...]
    without_prompt: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def plan_batch(
    inputs: Sequence[Path],
    out: Path,
    *,
    prompts_folder: Path | None = None,
    shared: Sequence[GivenPrompt] = (),
    options: TrackOptions | None = None,
    save: Set[str] = PARTS,
    overwrite: bool = False,
) -> Plan:
    """Plan what the user named on the command line.

    inputs          folders of videos, video files, folders of images, tables (.csv, .tsv, .jsonl), lists (.txt); also
                    URLs of videos and of folders of videos
    prompts_folder  where NAME.png and NAME.json lie; None: beside each video
    shared          prompts of every video, after its own: words, references. With them, or a memory in ``options``,
                    a video needs no prompts of its own
    options         of every video; a row of a table may change some of them

    A row of a table that says nothing about prompts goes by the rule. Other fields of the jobs have their defaults;
    set them with `dataclasses.replace`.

    Raises InputError where an input or table cannot be read, no video is found or none has prompts, two videos would
    write to one folder, or a name is not that of a folder inside ``out``; for URLs what `vos.batch.urls.remote` raises.
    """
    planner = _Planner(out, prompts_folder, tuple(shared), options or TrackOptions(), frozenset(save), overwrite)
    for path in inputs:
        planner.add(path)
    return planner.finish(inputs)


def why_unusable(path: Path) -> str | None:
    """What keeps a file from being read, as the end of a sentence; None where nothing is known to, and for a URL."""
    if url_of(path) is not None:
        return None
    try:
        found = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "its symbolic links lead in a circle"
        return "it does not exist" if error.errno == errno.ENOENT else (error.strerror or str(error)).lower()
    except ValueError as error:  # a NUL in its name
        return str(error)
    if stat.S_ISDIR(found.st_mode):
        return None if os.access(path, os.R_OK | os.X_OK) else "permission denied"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if not found.st_size:
        return "the file is empty"
    return None if os.access(path, os.R_OK) else "permission denied"


@dataclass(frozen=True)
class _Found:
    """A video, and the row that named it, if one did."""

    video: Path
    row: Row | None = None


class _Planner:
    """What has been planned so far."""

    def __init__(
        self, out: Path, prompts_folder: Path | None, shared: tuple[GivenPrompt, ...], options: TrackOptions,
        save: frozenset[str], overwrite: bool,
    ) -> None:  # fmt: skip
        self._out, self._prompts_folder, self._shared = out, prompts_folder, shared
        self._options, self._save, self._overwrite = options, save, overwrite
        self._jobs: dict[str, VideoJob] = {}
        self._without: list[Path] = []
        self._notes: list[str] = []
        self._used: set[str] = set()  # names of files in the folder of prompts that belong to a video
        self._remote: dict[Path, tuple[Path, ...]] = {}  # folder at a URL -> what lies in it
        if prompts_folder is not None and url_of(prompts_folder) is None and not prompts_folder.is_dir():
            raise InputError(f"{prompts_folder} is not a folder; give the folder that holds NAME.png or NAME.json")

    def add(self, path: Path) -> None:
        """One input of the command line. Raises InputError."""
        if url_of(path) is not None:
            self._add_url(path)
        elif path.is_dir():
            self._add_folder(path)
        elif not os.path.lexists(path):
            raise InputError(f"there is no {path}; give videos, a folder of videos, or a table (.csv, .jsonl)")
        elif path.suffix.lower() in TABLE_SUFFIXES:
            for row in read_table(path):
                self._add_video(_Found(row.video, row))
        elif path.suffix.lower() in LIST_SUFFIXES:
            for video in read_list(path):
                if url_of(video) is not None:
                    self._add_url(video)
                elif video.is_dir():
                    self._add_folder(video)
                else:
                    self._add_video(_Found(video))
        elif path.suffix.lower() == ".json":
            raise InputError(f"{path} is neither a video nor a table; write one JSON object a line, as .jsonl")
        else:
            self._add_video(_Found(path))

    def finish(self, inputs: Sequence[Path]) -> Plan:
        """Raises InputError where nothing is left to do."""
        where = ", ".join(str(path) for path in inputs[:3]) + (", ..." if len(inputs) > 3 else "")
        if not self._jobs and not self._without:
            raise InputError(f"{where} holds no video file and no folder of images; give a folder of videos")
        if not self._jobs:
            first = self._without[0]
            place = "beside" if self._prompts_folder is None else f"into {self._prompts_folder} for"
            raise InputError(
                f"none of the {len(self._without)} videos in {where} has a mask of its first frame or prompts; put "
                f"{video_name(first)}.png {place} {first.name}, and so on"
            )
        jobs = tuple(self._jobs.values())
        return Plan(jobs, tuple(self._without), tuple(_problems(jobs)), (*self._notes, *self._unused()))

    def _add_folder(self, folder: Path) -> None:
        try:
            entries = sorted(folder.iterdir(), key=natural_key)
        except OSError as error:
            raise InputError(f"cannot read folder {folder} ({error.strerror}); give a folder of videos") from error
        videos = [path for path in entries if self._is_video(path, folder)]
        if not videos and _holds_images(folder):
            videos = [folder]
        for video in videos:
            self._add_video(_Found(video))

    def _add_url(self, path: Path) -> None:
        """A video at a URL, or the videos of a folder there."""
        suffix = path.suffix.lower()
        if suffix in TABLE_SUFFIXES | LIST_SUFFIXES:
            raise InputError(f"{url_of(path)} lies at a URL; a table is read from a file, the videos in it may be URLs")
        if suffix in VIDEO_SUFFIXES:
            self._add_video(_Found(path))
            return
        for entry in sorted(self._list_remote(path), key=natural_key):
            if entry.suffix.lower() in VIDEO_SUFFIXES and not entry.name.startswith("."):
                self._add_video(_Found(entry))

    def _list_remote(self, folder: Path) -> tuple[Path, ...]:
        if folder not in self._remote:
            self._remote[folder] = list_folder(folder)
        return self._remote[folder]

    def _is_video(self, path: Path, folder: Path) -> bool:
        if path.name.startswith("."):
            return False
        if not path.is_dir():
            return path.suffix.lower() in VIDEO_SUFFIXES
        real, out = os.path.realpath(path), os.path.realpath(self._out)
        if real == out or os.path.isfile(path / RUN_FILE):  # results of this batch, or of an earlier run
            return False
        if _is_within(os.path.realpath(folder), real):  # a link that leads back up
            return False
        try:
            return _holds_images(path)
        except OSError as error:
            self._notes.append(f"{path} is passed over: it cannot be looked into ({error.strerror or error})")
            return False

    def _add_video(self, found: _Found) -> None:
        row, video = found.row, found.video
        name = _checked_name(row, video)
        options = self._options
        if row is not None and row.changes:
            try:
                options = replace(options, **row.changes)
            except InputError as error:
                raise InputError(f"{row.place}: {error}") from error
        prompts, masks = self._prompts(row, video)
        if not (prompts or masks or self._shared or options.memory is not None):
            self._without.append(video)
            return
        if name in self._jobs:
            raise self._clash(self._jobs[name].video, video, name)
        self._jobs[name] = VideoJob(
            name, video, self._out / name, (*prompts, *self._shared), masks, options, self._save, self._overwrite
        )

    def _clash(self, first: Path, second: Path, name: str) -> InputError:
        if first == second:
            return InputError(f"{first} is named twice; name it once, or give its rows in a table different names")
        return InputError(
            f"{first} and {second} would both write to {self._out / name}; rename one of them, or name them in the "
            "column 'name' of a table"
        )

    def _prompts(self, row: Row | None, video: Path) -> tuple[tuple[GivenPrompt, ...], tuple[str | MaskFile, ...]]:
        """What the row says; by the rule where it says nothing."""
        if row is not None and (row.prompts or row.masks):
            return row.prompts, tuple(_plain(mask) for mask in row.masks)
        name, folder = video_name(video), self._prompts_folder or video.parent
        mask, file = folder / f"{name}.png", folder / f"{name}.json"
        self._used |= {mask.name, file.name}
        has_file = self._is_there(file) and (url_of(file) is not None or holds_prompts(file))
        return ((file,) if has_file else ()), ((str(mask),) if self._is_there(mask) else ())

    def _is_there(self, path: Path) -> bool:
        """Also for a link that leads nowhere: it was put there to be used."""
        if url_of(path) is not None:
            return path in self._list_remote(path.parent)
        return os.path.lexists(path) and not path.is_dir()

    def _unused(self) -> Iterator[str]:
        """Prompts that belong to no video, where a whole folder is there for them: a name may be misspelt."""
        if self._prompts_folder is None or url_of(self._prompts_folder) is not None:
            return
        try:
            names = sorted(p.name for p in self._prompts_folder.iterdir() if p.suffix.lower() in (".png", ".json"))
        except OSError:
            return
        for name in names:
            if name not in self._used and not name.startswith("."):
                yield f"{self._prompts_folder / name} belongs to no video"


def video_name(video: Path) -> str:
    """By which a video's prompts and results go: its file name without the suffix; the name of a folder of images."""
    path = Path(os.path.abspath(video))  # "." and "clips/.." have names too
    return path.name if path.is_dir() else path.stem


def _checked_name(row: Row | None, video: Path) -> str:
    """The name of the folder of results. Raises InputError where that would not lie directly in OUT."""
    name = video_name(video) if row is None or row.name is None else row.name
    place = "" if row is None else f"{row.place}: "
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(
            f"{place}{name!r} cannot be the name of a folder of results; give {video} one without slashes and without "
            "a dot in front, in the column 'name' of a table"
        )
    if name in OWN_FILES or name.startswith(OWN_FILES[0]):
        raise InputError(f"{place}{name!r} is a file that the batch keeps; give {video} another name, in a table")
    return name


def _problems(jobs: Sequence[VideoJob]) -> Iterator[Problem]:
    known: dict[Path, str | None] = {}
    for job in jobs:
        for role, path in job_files(job):
            if path not in known:
                known[path] = why_unusable(path)
            if known[path] is not None:
                yield Problem(job.name, f"{role} {path} cannot be used: {known[path]}")


def _plain(mask: MaskFile) -> str | MaskFile:
    return str(mask.path) if mask.when is None and mask.object_id is None else mask


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") for entry in entries
        )


def _is_within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both real."""
    return os.path.commonpath([path, folder]) == folder
