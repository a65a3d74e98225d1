"""What a batch will do, found by rule before anything runs: every ``clip.mp4`` with ``clip.png`` or ``clip.json``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from seem_core.errors import InputError
from vos.images import IMAGE_SUFFIXES, natural_key
from vos.prompt_file import holds_prompts
from vos.run_record import RUN_FILE

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"}
    | {".ts", ".vob", ".webm", ".wmv"}
)


@dataclass(frozen=True)
class PlannedVideo:
    """One video, what lies beside it (mask of its first frame, file of prompts), and the folder of its results."""

    video: Path
    mask: Path | None
    out: Path
    prompts: Path | None = None


@dataclass(frozen=True)
class BatchPlan:
    """What will be tracked, in natural order of names, and which videos have neither mask nor prompts beside them."""

    videos: tuple[PlannedVideo, ...]
    without_prompt: tuple[Path, ...]


def plan_folder(folder: Path, out: Path, *, every: bool = False) -> BatchPlan:
    """Pair the video files and image folders directly inside ``folder`` with ``NAME.png``, ``NAME.json`` beside them.

    A JSON file counts where it holds prompts (`vos.prompt_file`) or cannot be read. every: take videos without either
    as well, because something else says what to follow in all of them.

    Raises InputError where ``folder`` cannot be read, holds no video or none with a mask or prompts, or two videos
    would write to one folder.
    """
    try:
        entries = sorted(folder.iterdir(), key=natural_key)
    except OSError as error:
        raise InputError(f"cannot read folder {folder} ({error.strerror}); give a folder of videos") from error
    videos = [path for path in entries if os.path.realpath(path) != os.path.realpath(out) and _is_video(path)]
    if not videos:
        raise InputError(f"{folder} holds no video file and no folder of images; give a folder of videos")
    planned: dict[str, PlannedVideo] = {}
    without = []
    for video in videos:
        name = video.name if video.is_dir() else video.stem
        mask, prompts = _file(folder / f"{name}.png"), _file(folder / f"{name}.json")
        if prompts is not None and not holds_prompts(prompts):
            prompts = None
        if not (every or mask or prompts):
            without.append(video)
        elif name in planned:
            raise InputError(f"{planned[name].video} and {video} would both write to {out / name}; rename one of them")
        else:
            planned[name] = PlannedVideo(video, mask, out / name, prompts)
    if not planned:
        raise InputError(
            f"none of the {len(videos)} videos in {folder} has a mask of its first frame beside it; "
            f"put {without[0].stem}.png beside {without[0].name}, and so on"
        )
    return BatchPlan(tuple(planned.values()), tuple(without))


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _is_video(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in VIDEO_SUFFIXES
    if os.path.isfile(path / RUN_FILE):  # results of an earlier run, with a contact sheet
        return False
    try:
        with os.scandir(path) as entries:
            return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in entries)
    except OSError:
        return False
