"""One training run of the border refiner, from a pack to a weights file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

import torch

from seem_core.errors import InputError
from seem_core.refiner import RefinerConfig
from seem_core.refiner_weights import load_refiner, save_refiner
from seem_core.training.loop import Stage, Trainer
from seem_core.training.packing import CLIPS
from seem_core.training.refiner_task import PriorClip, RefinerTask, RefinerTaskConfig
from seem_core.training.run_settings import (
    Run,
    choose_precision,
    choose_stages,
    count_workers,
    loop_config,
    open_data,
    use_device,
    within_sitting,
)

log = logging.getLogger(__name__)

STAGES = (Stage(0.7, 192, 1, 4), Stage(1.0, 256, 1, 6))

PriorFunction = Callable[[int, torch.device], PriorClip]
"""From the size of a clip's frames and a device to a fresh clip."""


@dataclass(frozen=True, kw_only=True)
class RefinerRun(Run):
    """A run of the border refiner.

    init      weights to start from
    training  how clips are made, unrolled and judged
    refiner   sizes of the refiner, where no weights are given
    ema       decay per step of the averaged weights
    terms     of the data, in words, for the weights file
    """

    task: Literal["refiner"] = "refiner"
    rate: float = 2e-3
    init: Path | None = None
    ema: float = 0.99
    terms: str = ""
    training: RefinerTaskConfig = field(default_factory=RefinerTaskConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)


def train_refiner(run: RefinerRun, stop: Event | None = None, prior: PriorFunction | None = None) -> Path:
    """Train, and write the averaged weights. Returns their path. prior: the tracker that gives masks to make sharp.

    Raises DatasetError (data), CheckpointError (initial weights, checkpoint of another configuration), DeviceError,
    InputError, OutputError.
    """
    if prior is None:
        raise InputError("the refiner learns from what a tracker reads; train it with 'vos train'")
    started = time.perf_counter()
    device = use_device(run)
    stages = choose_stages(run, STAGES)
    if any(s.frames < 2 or s.size % 32 for s in stages):
        raise InputError(f"the refiner learns from clips: frames >= 2 and sizes in multiples of 32, not {stages}")
    config = loop_config(run, stages, ema=run.ema)
    model = load_refiner(run.init).train() if run.init is not None else run.refiner.build()
    pack = open_data(run, CLIPS)
    task = RefinerTask(
        model, pack, device, lambda size: prior(size, device), run.training,
        workers=count_workers(run, device), precision=choose_precision(run, device),
    )  # fmt: skip
    log.info("%r on %s in %.1f s", pack, device, time.perf_counter() - started)
    try:
        if run.init is None:
            task.calibrate(run.seed, stages[0])  # a checkpoint takes the place of it
        trainer = Trainer(task, within_sitting(run, config, started), run.folder, stop)
        trainer.run()
    finally:
        task.close()
    out = run.out or run.folder / "refiner.safetensors"
    facts = {"data": pack.fingerprint, "steps": str(trainer.step), "seconds": f"{trainer.elapsed:.0f}"}
    facts |= {"trained": "full", "seed": str(run.seed), "terms": run.terms}
    save_refiner(trainer.averaged(), task.model.config, out, facts=facts)
    log.info("wrote %s after %d steps, %.0f s of training", out, trainer.step, trainer.elapsed)
    return out
