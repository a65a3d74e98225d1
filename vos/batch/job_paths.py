"""Every path that a job reads, changed in one place: `with_inputs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vos.batch.job import VideoJob
from vos.batch.urls import url_of
from vos.prompt_gathering import GivenPrompt
from vos.prompt_sources import MaskFile, ReferenceFile

Change = Callable[[Path], Path]


def with_inputs(job: VideoJob, change: Change) -> VideoJob:
    """The job with ``change`` of every file and folder that it reads, also of those that stand for URLs.

    Prompts that are no files stay, and so does a model that is given by its name.
    """
    options = job.options
    model = options.model
    if model is not None and (url_of(model) is not None or Path(model).is_file()):
        model = str(change(Path(model)))
    memory = None if options.memory is None else str(change(Path(options.memory)))
    return replace(
        job,
        video=change(job.video),
        prompts=tuple(_prompt(prompt, change) for prompt in job.prompts),
        masks=tuple(_mask(mask, change) for mask in job.masks),
        options=replace(options, memory=memory, model=model),
    )


def input_urls(job: VideoJob) -> tuple[str, ...]:
    """The URLs among what a job reads."""
    found: list[str] = []

    def look(path: Path) -> Path:
        if (url := url_of(path)) is not None:
            found.append(url)
        return path

    with_inputs(job, look)
    return tuple(dict.fromkeys(found))


def _prompt(prompt: GivenPrompt, change: Change) -> GivenPrompt:
    if isinstance(prompt, ReferenceFile):
        return replace(prompt, picture=change(prompt.picture), mask=change(prompt.mask))
    return change(Path(prompt)) if isinstance(prompt, (str, Path)) else prompt


def _mask(mask: str | MaskFile, change: Change) -> str | MaskFile:
    return replace(mask, path=change(mask.path)) if isinstance(mask, MaskFile) else str(change(Path(mask)))
