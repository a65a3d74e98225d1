"""One training run of the dense reader, from a pack to a weights file."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

import torch

from seem_core.errors import InputError
from seem_core.reader import DenseReader, ReaderConfig
from seem_core.reader_weights import load_reader, save_reader
from seem_core.training.loop import Stage, Trainer
from seem_core.training.packing import CLIPS
from seem_core.training.reader_task import ReaderTask, ReaderTaskConfig
from seem_core.training.run_settings import (
    TUNED_ALGORITHMS,
    Run,
    choose_precision,
    choose_stages,
    count_workers,
    loop_config,
    open_data,
    use_device,
    within_sitting,
)

__all__ = ["CPU_STAGES", "GPU_STAGES", "TUNED_ALGORITHMS", "ReaderRun", "parse_stages", "train_reader"]

log = logging.getLogger(__name__)

# sizes for one large GPU and for a CPU; the last stage is near the size at which the reader is used
GPU_STAGES = (Stage(0.35, 256, 64, 4), Stage(0.75, 384, 40, 6), Stage(1.0, 480, 24, 8))
CPU_STAGES = (Stage(0.6, 192, 4, 4), Stage(1.0, 256, 3, 5))


@dataclass(frozen=True, kw_only=True)
class ReaderRun(Run):
    """A run of the dense reader.

    init      weights to start from; without them ImageNet's in the trunk
    trunk     a published file of EfficientNet-Lite0, instead of the ImageNet weights that ship
    layout    memory format, see `reader_task.LAYOUTS`
    tune      cuDNN times its algorithms, at every stage anew
    compile   torch.compile trunk and decoder
    training  how clips are made and unrolled, and the weights of the losses
    reader    sizes of the reader, where no weights are given
    """

    task: Literal["reader"] = "reader"
    init: Path | None = None
    trunk: Path | None = None
    layout: Literal["channels_last", "mixed", "contiguous"] = "channels_last"
    tune: bool = False
    compile: bool = False
    training: ReaderTaskConfig = field(default_factory=ReaderTaskConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)


def train_reader(run: ReaderRun, stop: Event | None = None) -> Path:
    """Train, and write the averaged weights. Returns their path.

    Raises DatasetError (data), CheckpointError (initial weights, checkpoint of another configuration), DeviceError,
    InputError, OutputError.
    """
    started = time.perf_counter()
    device = use_device(run, run.tune)
    stages = choose_stages(run, GPU_STAGES if device.type == "cuda" else CPU_STAGES)
    if any(s.frames < 2 for s in stages):
        raise InputError(f"the reader learns from clips: frames >= 2 in every stage, not {stages}")
    config = loop_config(run, stages)
    model = _model(run)
    pack = open_data(run, CLIPS)
    precision = choose_precision(run, device)
    task = ReaderTask(model, pack, device, run.training, workers=count_workers(run, device), precision=precision)
    log.info("%r on %s in %.1f s", pack, device, time.perf_counter() - started)
    try:
        task.use_layout(run.layout)
        if run.compile:
            task.model.trunk.compile()
            task.model.decoder.compile()
            task.model.value_encoder.compile()
        trainer = Trainer(task, within_sitting(run, config, started), run.folder, stop)
        trainer.run()
    finally:
        task.close()
    out = run.out or run.folder / "reader.safetensors"
    facts = {"data": pack.fingerprint, "steps": str(trainer.step), "seconds": f"{trainer.elapsed:.0f}"}
    save_reader(trainer.averaged(), task.model.config, out, facts={**facts, "trained": "full", "seed": str(run.seed)})
    log.info("wrote %s after %d steps, %.0f s of training", out, trainer.step, trainer.elapsed)
    return out


def init_reader(out: Path, seed: int = 0, config: ReaderConfig | None = None, trunk: Path | None = None) -> None:
    """Write first weights: ImageNet's in the trunk, the rest drawn by `seed`. Raises OutputError."""
    torch.manual_seed(seed)
    model = (config or ReaderConfig()).build().pretrained_trunk(trunk)
    save_reader(model.state_dict(), model.config, out, facts={"trained": "backbone"}, half=True)


def parse_stages(words: list[str] | None) -> tuple[Stage, ...] | None:
    """``UNTIL:SIZE:CLIPS:FRAMES`` words to stages. Raises InputError."""
    if not words:
        return None
    stages = []
    for word in words:
        try:
            until, size, clips, frames = word.split(":")
            stages.append(Stage(float(until), int(size), int(clips), int(frames)))
        except ValueError as error:
            raise InputError(f"a stage is UNTIL:SIZE:CLIPS:FRAMES, as 0.4:256:32:4, not {word!r}") from error
    return tuple(sorted(stages, key=lambda s: s.until))


def _model(run: ReaderRun) -> DenseReader:
    if run.init is not None:
        return load_reader(run.init).train()
    return run.reader.build().pretrained_trunk(run.trunk).train()
