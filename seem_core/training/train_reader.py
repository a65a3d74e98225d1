"""One training run of the dense reader, from a pack to a weights file."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import torch

from seem_core.errors import DeviceError, InputError
from seem_core.reader import DenseReader, ReaderConfig
from seem_core.reader_weights import load_reader, save_reader
from seem_core.training.loop import LoopConfig, Stage, Trainer
from seem_core.training.pack import Pack
from seem_core.training.reader_task import ReaderTask
from seem_core.training.run_folder import RunFolder

log = logging.getLogger(__name__)

# sizes for one large GPU and for a CPU; the last stage is near the size at which the reader is used
GPU_STAGES = (Stage(0.35, 256, 64, 4), Stage(0.75, 384, 40, 6), Stage(1.0, 480, 24, 8))
CPU_STAGES = (Stage(0.6, 192, 4, 4), Stage(1.0, 256, 3, 5))
TUNED_ALGORITHMS = 4  # that cuDNN times per convolution; more cost more time at every stage than they save
RESERVE = 5.0  # seconds that a sitting keeps for its last checkpoint


@dataclass(frozen=True)
class ReaderRun:
    """Everything a run depends on; see ``python -m seem_core.training reader --help``.

    Its length is one of ``minutes`` of training over all sittings, ``steps``, and ``within``: minutes that this whole
    sitting may take, set-up included.
    """

    pack: Path
    folder: Path
    minutes: float | None = None
    steps: int | None = None
    within: float | None = None
    stages: tuple[Stage, ...] | None = None
    rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    precision: str | None = None
    layout: str = "channels_last"
    tune: bool = False
    workers: int = 0
    init: Path | None = None
    trunk: Path | None = None
    compile: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    log_steps: int = 20
    out: Path | None = None
    reader: ReaderConfig = field(default_factory=ReaderConfig)


def train_reader(run: ReaderRun, stop: Event | None = None) -> Path:
    """Train, and write the averaged weights. Returns their path.

    Raises DatasetError (pack), CheckpointError (initial weights), DeviceError, InputError, OutputError.
    """
    started = time.perf_counter()
    device = _device(run.device)
    torch.manual_seed(run.seed)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = run.tune
        torch.backends.cudnn.benchmark_limit = TUNED_ALGORITHMS
    config = _loop_config(run, device)
    pack = Pack(run.pack)
    task = ReaderTask(_model(run), pack, device, workers=run.workers, precision=_precision(run, device))
    log.info("%r on %s in %.1f s", pack, device, time.perf_counter() - started)
    try:
        task.use_layout(run.layout)
        if run.compile:
            task.model.trunk.compile()
            task.model.decoder.compile()
            task.model.value_encoder.compile()
        if run.within is not None:
            left = run.within - (time.perf_counter() - started + RESERVE) / 60
            config = replace(config, minutes=max(0.05, left) + RunFolder(run.folder).elapsed() / 60)
        trainer = Trainer(task, config, run.folder, stop)
        trainer.run()
    finally:
        task.close()
    out = run.out or run.folder / "reader.safetensors"
    facts = {"data": pack.fingerprint, "steps": str(trainer.step), "seconds": f"{trainer.elapsed:.0f}"}
    save_reader(trainer.averaged(), task.model.config, out, facts={**facts, "seed": str(run.seed)})
    log.info("wrote %s after %d steps, %.0f s of training", out, trainer.step, trainer.elapsed)
    return out


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


def _loop_config(run: ReaderRun, device: torch.device) -> LoopConfig:
    lengths = [length for length in (run.minutes, run.steps, run.within) if length is not None]
    if len(lengths) != 1:
        raise InputError("give one of minutes, steps and within, the length of the run")
    return LoopConfig(
        minutes=run.minutes if run.within is None else run.within,
        steps=run.steps,
        stages=run.stages or (GPU_STAGES if device.type == "cuda" else CPU_STAGES),
        rate=run.rate,
        seed=run.seed,
        checkpoint_seconds=run.checkpoint_seconds,
        checkpoint_steps=run.checkpoint_steps,
        log_steps=run.log_steps,
    )


def _model(run: ReaderRun) -> DenseReader:
    if run.init is not None:
        return load_reader(run.init).train()
    return run.reader.build().pretrained_trunk(run.trunk).train()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is there; use --device cpu")
    return device


def _precision(run: ReaderRun, device: torch.device) -> torch.dtype:
    if run.precision is not None:
        return torch.bfloat16 if run.precision == "bfloat16" else torch.float32
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
