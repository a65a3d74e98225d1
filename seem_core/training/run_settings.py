"""What every training run has, whatever is trained: data, length, batches, rate, seed, device, and where it goes."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from seem_core.errors import DeviceError, InputError, OutputError
from seem_core.training.data_sources import DataSpec, MaskFile, find_clips, recognise
from seem_core.training.loop import LoopConfig, Stage
from seem_core.training.pack import Pack, PackOptions, pack
from seem_core.training.packing import Packing
from seem_core.training.run_folder import RunFolder

log = logging.getLogger(__name__)

TUNED_ALGORITHMS = 4  # that cuDNN times per convolution; more cost more time at every stage than they save
RESERVE = 5.0  # seconds that a sitting keeps for its last checkpoint
PACKED = "data.pack"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that any run depends on. One of the three lengths is given.

    folder         log, samples and checkpoint; a checkpoint in it is taken up
    data           what to train on; one pack, or sources that are packed into the folder first
    packing        how they are packed, where otherwise than suits the task
    minutes        of training, all sittings together
    steps          of training; the curve is then the same however often the run is cut
    within         minutes that this sitting may take, set-up included
    stages         sizes of batches; by default what suits the device, or what the checkpoint was trained with
    accumulate     batches that make one step
    device         cpu, cuda, or auto: cuda where it is there
    precision      of autocast; by default bfloat16 where the device is fast in it
    workers        processes that prepare batches; by default some on cuda, none on cpu
    threads        CPU threads of the computation
    sheet_seconds, sheet_steps   how often a page of sample predictions is drawn
    out            where the averaged weights go, by default into the folder
    """

    folder: Path
    data: tuple[DataSpec, ...]
    packing: Packing | None = None
    minutes: float | None = None
    steps: int | None = None
    within: float | None = None
    stages: tuple[Stage, ...] | None = None
    rate: float = 1e-3
    accumulate: int = 1
    seed: int = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] | None = None
    workers: int | None = None
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    log_steps: int = 20
    sheet_seconds: float | None = 300.0
    sheet_steps: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        lengths = [length for length in (self.minutes, self.steps, self.within) if length is not None]
        if len(lengths) != 1:
            raise InputError("give one of minutes, steps and within, the length of the run")
        if not self.data:
            raise InputError('there is no data to train on; add "data": [{"path": ...}]')
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers counts processes, from 0 up, not {self.workers}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads counts CPU threads, from 1 up, not {self.threads}")


def use_device(run: Run, tune: bool = False) -> torch.device:
    """The device of the run, set up for training. Raises DeviceError."""
    name = run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is there; use the device cpu")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"training runs on cpu and cuda, not on {device.type}")
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = tune
        torch.backends.cudnn.benchmark_limit = TUNED_ALGORITHMS
    return device


def choose_precision(run: Run, device: torch.device) -> torch.dtype:
    """Of autocast: what was asked for, else bfloat16 where the device has units for it."""
    if run.precision is not None:
        return torch.bfloat16 if run.precision == "bfloat16" else torch.float32
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def count_workers(run: Run, device: torch.device) -> int:
    """Processes that prepare batches."""
    if run.workers is not None:
        return run.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(12, cores - 3)) if device.type == "cuda" else 0


def choose_stages(run: Run, default: Sequence[Stage]) -> tuple[Stage, ...]:
    """Those of the run; else those of its checkpoint, so that it goes on alike on another device; else `default`."""
    if run.stages is not None:
        return tuple(sorted(run.stages, key=lambda s: s.until))
    state = RunFolder(run.folder).state()
    if state is not None and "stages" in state.config:
        return tuple(Stage(**stage) for stage in state.config["stages"])
    return tuple(default)


def loop_config(run: Run, stages: tuple[Stage, ...], **more: object) -> LoopConfig:
    """The loop's settings; `more` are those that only some tasks have."""
    settings: dict[str, object] = {
        "minutes": run.minutes if run.within is None else run.within,
        "steps": run.steps,
        "stages": stages,
        "rate": run.rate,
        "accumulate": run.accumulate,
        "seed": run.seed,
        "checkpoint_seconds": run.checkpoint_seconds,
        "checkpoint_steps": run.checkpoint_steps,
        "log_steps": run.log_steps,
        "sheet_seconds": run.sheet_seconds,
        "sheet_steps": run.sheet_steps,
    }
    return LoopConfig(**{**settings, **more})  # type: ignore[arg-type]


def within_sitting(run: Run, config: LoopConfig, started: float) -> LoopConfig:
    """Where the run says what this sitting may take: minutes of training that are left of it, after what was done."""
    if run.within is None:
        return config
    left = run.within - (time.perf_counter() - started + RESERVE) / 60
    state = RunFolder(run.folder).state()
    return replace(config, minutes=max(0.05, left) + (0.0 if state is None else state.elapsed / 60))


def open_data(run: Run, options: PackOptions) -> Pack:
    """The run's pack; sources that are none are packed into the folder, and again when one of their files changed.

    options: how they are packed, where the run does not say. Raises DatasetError for data that cannot be used,
    InputError where a checkpoint is of other data.
    """
    packs = [spec.path for spec in run.data if "pack" in (spec.kind, spec.kind == "auto" and recognise(spec.path))]
    if packs and len(run.data) > 1:
        raise InputError(f"{packs[0]} is a pack and stands alone; pack all sources into one file instead")
    if packs and run.packing is not None:
        raise InputError(f"{packs[0]} is packed already; leave packing out, or pack the data again")
    if packs:
        return Pack(packs[0])
    options = options if run.packing is None else run.packing.on(options)
    kept, fresh, stamp_file = (run.folder / name for name in (PACKED, f"{PACKED}.new", f"{PACKED}.stamp"))
    stamp = _stamp(run.data, options)
    if kept.is_file() and stamp_file.is_file() and stamp_file.read_text() == stamp:
        return Pack(kept)
    state = RunFolder(run.folder).state()
    log.info("packing %s", ", ".join(str(spec.path) for spec in run.data))
    made = pack(run.data, fresh, options)
    if state is not None and state.fingerprint != made.fingerprint:
        fresh.unlink()
        raise InputError(
            f"the run in {run.folder} was started with other data (then {state.fingerprint}, now {made.fingerprint});"
            " choose another folder"
        )
    try:
        fresh.replace(kept)
        stamp_file.write_text(stamp)
    except OSError as error:
        raise OutputError(f"packed data cannot be kept in {run.folder}: {error.strerror}") from error
    return Pack(kept)


def _stamp(specs: Sequence[DataSpec], options: PackOptions) -> str:
    """Changes when a file that would be packed does: hex digest of names, sizes and times of change."""
    digest = hashlib.sha256(repr((specs, options)).encode())
    for spec in specs:
        for clip in find_clips(spec, options.thinning, options.exclude):
            for frame in clip.frames:
                paths = [frame.image, frame.mask.path if isinstance(frame.mask, MaskFile) else spec.path]
                for path in paths:
                    facts = path.stat() if path.is_file() else None
                    digest.update(repr((path, facts and (facts.st_size, facts.st_mtime_ns))).encode())
    return digest.hexdigest()
