"""One video of a batch: what is to be done (`VideoJob`), how it ended (`VideoOutcome`), and doing it (`run_video`).

A job is plain data, so that it can be sent to another process or machine; whoever runs it needs nothing else.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from seem_core.errors import DiskFullError, LimitError, VosError
from vos.pipeline import TrackOptions
from vos.prompt_gathering import GivenPrompt
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.to_folder import PARTS, OnProgress, track_to_folder

Outcome: TypeAlias = Literal["done", "failed", "interrupted"]
Cause: TypeAlias = Literal["input", "limit", "disk", "bug", "crash", "stall"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoJob:
    """What is to be tracked and how.

    name     of the video in its batch; its results go to the folder of that name in the batch's folder
    video    a video file or a folder of images
    prompts  files of prompts, words and pictures, as `vos.pipeline.track` takes them
    masks    mask files; those with a moment or an object's id as `MaskFile`
    out      folder of the results
    resume   go on from the last saved state of an unfinished run in ``out``, see `vos.to_folder.track_to_folder`
    checkpoint_seconds   seconds between two saved states; None for the default, 0 for none
    """

    name: str
    video: Path
    out: Path
    prompts: tuple[GivenPrompt, ...] = ()
    masks: tuple[str | MaskFile, ...] = ()
    options: TrackOptions = field(default_factory=TrackOptions)
    save: frozenset[str] = PARTS
    overwrite: bool = False
    resume: bool = False
    checkpoint_seconds: float | None = None


@dataclass(frozen=True)
class VideoOutcome:
    """How one video ended.

    frames   masks written; seconds: wall-clock time
    cause    why it failed: its own input, a limit, a full disk, a bug of ours, a worker that died or stood still
    message  the sentence of what went wrong
    """

    name: str
    outcome: Outcome
    frames: int = 0
    seconds: float = 0.0
    cause: Cause | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def worth_another_try(self) -> bool:
        """Whether the same video may well succeed the next time: nothing that was said about it was wrong."""
        return self.outcome == "interrupted" or self.cause in ("crash", "stall")


def job_files(job: VideoJob) -> tuple[tuple[str, Path], ...]:
    """Role and path of every file that a job names: video, mask, prompts, reference, memory (not what those name)."""
    found: list[tuple[str, Path]] = [("video", job.video)]
    found += [("mask", mask.path if isinstance(mask, MaskFile) else Path(mask)) for mask in job.masks]
    for prompt in job.prompts:
        if isinstance(prompt, (str, Path)):
            found.append(("prompts", Path(prompt)))
        elif isinstance(prompt, ReferenceFile):
            found += [("reference", prompt.picture), ("mask", prompt.mask)]
    if job.options.memory is not None:
        found.append(("memory", Path(job.options.memory)))
    return tuple(dict.fromkeys(found))


def run_video(
    job: VideoJob, *, on_progress: OnProgress | None = None, stop: threading.Event | None = None
) -> VideoOutcome:
    """Track one video. Whatever goes wrong with it is in the outcome; nothing is raised but what ends the process.

    ``on_progress`` is as for `track_to_folder`; while pictures are made from the masks, it hears its figures again.
    """
    heard = _Heard(on_progress)
    try:
        result = track_to_folder(
            job.video, job.out, job.prompts, mask=job.masks or None, options=job.options, save=job.save,
            overwrite=job.overwrite, resume=job.resume, checkpoint_seconds=job.checkpoint_seconds,
            on_progress=heard.on_progress, on_render=heard.on_render, stop=stop,
        )  # fmt: skip
    except VosError as error:
        cause: Cause = (
            "disk" if isinstance(error, DiskFullError) else "limit" if isinstance(error, LimitError) else "input"
        )
        return VideoOutcome(job.name, "failed", cause=cause, message=str(error))
    except MemoryError as error:
        return VideoOutcome(job.name, "failed", cause="limit", message=f"out of memory ({error or 'no more is given'})")
    except Exception as error:
        logger.exception("%s stopped by a bug", job.video)
        return VideoOutcome(job.name, "failed", cause="bug", message=f"{type(error).__name__}: {error}")
    return VideoOutcome(job.name, result.state, result.frames, result.seconds, warnings=result.warnings)


class _Heard:
    """Progress for whoever watches a video: a sign of life also while its pictures are made."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._tell = on_progress
        self._last = (0, 0)

    def on_progress(self, done: int, total: int) -> None:
        self._last = (done, total)
        if self._tell is not None:
            self._tell(done, total)

    def on_render(self, done: int, total: int) -> None:
        if self._tell is not None:
            self._tell(*self._last)
