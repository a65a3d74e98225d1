"""Run a plan on this machine, one video after the other; a bad one is named and the next one goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seem_core.errors import DiskFullError, InputError, VosError
from vos.batch.plan import BatchPlan, PlannedVideo
from vos.output import read_run
from vos.pipeline import TrackOptions
from vos.prompt_gathering import GivenPrompt
from vos.to_folder import PARTS, OnProgress, track_to_folder

Outcome = Literal["done", "already done", "failed", "interrupted", "not started"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoOutcome:
    """How one video ended: masks written, wall-clock seconds, and the sentence of what went wrong."""

    video: Path
    out: Path
    outcome: Outcome
    frames: int = 0
    seconds: float = 0.0
    message: str = ""
    warnings: tuple[str, ...] = ()


def run_local(
    plan: BatchPlan,
    prompts: Sequence[GivenPrompt] = (),
    *,
    options: TrackOptions | None = None,
    save: Set[str] = PARTS,
    overwrite: bool = False,
    on_progress: Callable[[PlannedVideo], OnProgress] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[VideoOutcome]:
    """Track the videos of a plan and yield the outcome of each when it is known.

    prompts: for every video, after those that lie beside it: words, other pictures that show the objects.

    A video whose results are done is left as it is, unless ``overwrite``. ``on_progress(video)`` gives the function
    that hears of that video's frames. After ``stop`` is set, or when the disk is full, the rest is "not started".
    """
    ended = False
    for item in plan.videos:
        if ended or (stop is not None and stop.is_set()):
            yield VideoOutcome(item.video, item.out, "not started")
            continue
        if not overwrite and (frames := _finished(item.out)) is not None:
            yield VideoOutcome(item.video, item.out, "already done", frames)
            continue
        heard = on_progress(item) if on_progress is not None else None
        try:
            own = [] if item.prompts is None else [item.prompts]
            result = track_to_folder(
                item.video, item.out, [*own, *prompts], mask=item.mask, options=options, save=save, overwrite=overwrite,
                on_progress=heard, stop=stop,
            )  # fmt: skip
            yield VideoOutcome(item.video, item.out, result.state, result.frames, result.seconds, "", result.warnings)
        except VosError as error:
            ended = isinstance(error, DiskFullError)
            yield VideoOutcome(item.video, item.out, "failed", message=str(error))
        except Exception as error:  # a bug of ours must not cost the other videos
            logger.exception("%s stopped by a bug", item.video)
            yield VideoOutcome(item.video, item.out, "failed", message=f"{type(error).__name__}: {error}")


def _finished(out: Path) -> int | None:
    """The number of frames in a finished run's folder, None where there is no such run."""
    try:
        run = read_run(out)
    except InputError:
        return None
    return run.frames_done if run.state == "done" else None
