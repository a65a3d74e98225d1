"""A training run as a JSON file: what `vos train CONFIG.json` and `python -m seem_core.training CONFIG.json` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

from seem_core.errors import InputError
from seem_core.training.json_fields import parse_fields, read_json
from seem_core.training.run_settings import Run
from seem_core.training.train_reader import ReaderRun, train_reader
from seem_core.training.train_refiner import PriorFunction, RefinerRun, train_refiner
from seem_core.training.train_seem import ClipFunction, SeemRun, train_seem

TASKS: Mapping[str, type[Run]] = {"reader": ReaderRun, "refiner": RefinerRun, "seem": SeemRun}
LENGTHS = ("minutes", "steps", "within")


def read_run(path: Path, changes: Mapping[str, Any] | None = None) -> Run:
    """The run that a JSON file describes. changes: fields that take the place of the file's; a length that is given
    takes the place of any other.

    Relative paths start from the current folder. Raises InputError for an unknown field or a value that cannot be.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold one object of fields; see docs/training.md")
    changes = {name: value for name, value in (changes or {}).items() if value is not None}
    if any(name in changes for name in LENGTHS):
        content = {name: value for name, value in content.items() if name not in LENGTHS}
    return parse_run({**content, **changes}, str(path))


def parse_run(content: Mapping[str, Any], where: str = "the configuration") -> Run:
    """The run that a mapping from JSON describes. Raises InputError."""
    task = content.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f'{where} must say what is trained: "task" is one of {", ".join(TASKS)}, not {task!r}')
    return parse_fields(TASKS[task], content, where)


def train(
    run: Run,
    stop: Event | None = None,
    clip_function: ClipFunction | None = None,
    prior: PriorFunction | None = None,
) -> Path:
    """Train until the end of the run or until ``stop`` is set; returns where the averaged weights are.

    clip_function: how a tracker follows masks through a clip, differentiable, where the run has a loss on clips.
    prior: the tracker that gives the refiner masks to make sharp.
    Raises what `train_reader`, `train_refiner` and `train_seem` do.
    """
    if isinstance(run, ReaderRun):
        return train_reader(run, stop)
    if isinstance(run, RefinerRun):
        return train_refiner(run, stop, prior)
    if isinstance(run, SeemRun):
        return train_seem(run, stop, clip_function)
    raise InputError(f"there is no training of {type(run).__name__}")
