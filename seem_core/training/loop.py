"""The training loop: any `Task` for some minutes or steps, with checkpoints from which it goes on exactly.

A batch is a function of (seed, step) and the learning rate one of the progress, so that a run that was killed and goes
on follows the same curve (with ``steps``; under ``minutes`` progress is time, which no two runs share). The host does
not wait for the device between two log lines. A step whose gradient is not finite changes nothing and is counted.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seem_core.errors import CheckpointError, InputError
from seem_core.training.run_folder import Frozen, RunFolder, RunState
from seem_core.training.sample_sheet import Sample, draw_sheet

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")
FREE = frozenset(
    {"minutes", "steps", "patience", "checkpoint_seconds", "checkpoint_steps", "log_steps", "sheet_seconds",
     "sheet_steps"}
)  # fmt: skip
"""Fields of `LoopConfig` that may differ when a run goes on: they decide when it ends and what it tells."""
PUBLISHED_DROPS = (0.88889, 0.96296)  # progress at which the published schedule divides the rate by ten (SPEC §9)


@dataclass(frozen=True)
class Stage:
    """Sizes of a batch until progress ``until`` (0..1): ``clips`` clips of ``frames`` frames of size x size pixels;
    pictures are clips of one frame."""

    until: float
    size: int
    clips: int
    frames: int = 1


@dataclass(frozen=True)
class LoopConfig:
    """How long and how to train. Exactly one of ``minutes`` (all sittings together) and ``steps`` is given.

    rate, final_rate   learning rate after the warm-up, and its share that is left at the end (cosine)
    schedule           ``cosine``, or ``steps``: a tenth of the rate from PUBLISHED_DROPS on
    warmup             share of the run in which the rate rises from 0
    accumulate         batches whose gradients make one step
    clip_norm          gradients longer than this are shortened to it
    ema                decay per step of the averaged weights
    patience           steps in a row without a finite gradient after which the run gives up
    sheet_seconds, sheet_steps   how often a page of sample predictions is drawn, also at the end; None: never
    """

    minutes: float | None = None
    steps: int | None = None
    stages: tuple[Stage, ...] = (Stage(1.0, 256, 8, 4),)
    rate: float = 1e-3
    final_rate: float = 0.02
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup: float = 0.03
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema: float = 0.998
    patience: int = 100
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    log_steps: int = 20
    sheet_seconds: float | None = None
    sheet_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InputError("give either minutes or steps, the length of the run")
        if (self.minutes or self.steps or 0) <= 0:
            raise InputError(f"the run's length must be positive, not {self.minutes or self.steps}")
        if not self.stages or any(s.size < 16 or s.size % 16 or s.clips < 1 or s.frames < 1 for s in self.stages):
            raise InputError(f"a stage has a size in multiples of 16, clips >= 1 and frames >= 1: {self.stages}")
        counts = (self.accumulate, self.log_steps, self.checkpoint_steps or 1, self.sheet_steps or 1)
        if min(counts) < 1 or not self.rate > 0 or not math.isfinite(self.rate):
            raise InputError(f"rate, accumulate and the numbers of steps must be positive: {self}")

    def stage(self, progress: float) -> Stage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def rate_factor(self, progress: float) -> float:
        rise = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        if self.schedule == "steps":
            return max(rise, 0.01) * 0.1 ** sum(progress >= drop for drop in PUBLISHED_DROPS)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return max(rise, 0.01) * (self.final_rate + (1 - self.final_rate) * fall)


class Task(Protocol[Batch]):
    """What is trained: a model, batches by number, and a loss."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def fingerprint(self) -> str:
        """Of the data; a run goes on only with the same."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What is trained, and how, as JSON values; a run goes on only with the same."""
        ...

    def parameter_groups(self, rate: float) -> Iterator[dict[str, Any]]: ...
    def batch(self, seed: int, step: int, stage: Stage) -> Batch: ...
    def loss(self, batch: Batch, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]: ...
    def samples(self, seed: int, stage: Stage) -> Sequence[Sample]:
        """Predictions on a few pictures, the same ones at every call with the same arguments."""
        ...


@dataclass
class _Window:
    """What was seen since the last log line."""

    started: float
    steps: int = 0
    frames: int = 0
    waited: float = 0.0  # seconds the host spent on batches
    sums: dict[str, Tensor] = field(default_factory=dict)
    events: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def add(self, values: dict[str, Tensor], share: float = 1.0) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + share * value if name in self.sums else share * value


class Trainer:
    """Trains ``task`` in ``folder``. If the folder holds a checkpoint, goes on from there.

    Raises InputError for a folder of other data, another seed or other settings, or when training diverges,
    CheckpointError for a checkpoint of another model, OutputError or DiskFullError if a checkpoint cannot be written
    (the one before stays).
    """

    def __init__(self, task: Task[Any], config: LoopConfig, folder: Path, stop: Event | None = None) -> None:
        self.task, self.config, self.folder = task, config, RunFolder(folder)
        self.device = next(task.model.parameters()).device
        self.stop = stop or Event()
        self.step, self.elapsed = 0, 0.0
        self._lowered: dict[Stage, Stage] = {}  # stages that did not fit the device's memory -> what does
        self._bad = torch.zeros((), device=self.device)  # steps in a row without finite gradient
        self._skipped = torch.zeros((), device=self.device)
        named = {id(p): n for n, p in task.model.named_parameters()}
        groups = [g for g in task.parameter_groups(config.rate) if g["params"]]
        self.names = [named[id(p)] for g in groups for p in g["params"]]
        self.parameters = [p for g in groups for p in g["params"]]
        self.optimizer = torch.optim.AdamW(groups, fused=True, betas=config.betas)
        self._base_rates = [g["lr"] for g in groups]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.frozen = Frozen.of(task.model)
        self._unlogged_steps, self._unlogged = 0, dict[str, Tensor]()
        self._resume()

    @property
    def progress(self) -> float:
        if self.config.steps is not None:
            return self.step / self.config.steps
        return self.elapsed / (60 * (self.config.minutes or 1))

    def run(self) -> None:
        """Train until the end, or until ``stop`` is set; a checkpoint is written in both cases."""
        config, earlier, began = self.config, self.elapsed, time.perf_counter()
        saved, drawn, window = began, began, _Window(began, self._unlogged_steps, sums=self._unlogged)
        while self.progress < 1 and not self.stop.is_set():
            self._step(window)
            self.step += 1
            now = time.perf_counter()
            self.elapsed = earlier + now - began
            if self.step % config.log_steps == 0:
                self._log(window)
                window = _Window(time.perf_counter())
            due = config.checkpoint_steps and self.step % config.checkpoint_steps == 0
            if due or now - saved > config.checkpoint_seconds:
                self.save(window)
                saved = time.perf_counter()
            due = config.sheet_steps and self.step % config.sheet_steps == 0
            if due or (config.sheet_seconds is not None and now - drawn > config.sheet_seconds):
                self.draw_samples()
                drawn = time.perf_counter()
        if self.progress >= 1 and window.steps:
            self._log(window)
            window = _Window(time.perf_counter())
        self.save(window)
        if config.sheet_steps or config.sheet_seconds is not None:
            self.draw_samples()

    def save(self, window: _Window | None = None) -> None:
        """Replace the checkpoint, unless the last step had no finite gradient: then the one before is the good one.

        window: steps since the last log line, so that a resumed run writes the same lines.
        """
        if float(self._bad):
            log.warning("step %d had no finite gradient; the checkpoint before stays", self.step)
            return
        state = RunState(
            self.step, self.elapsed, self.config.seed, self.task.fingerprint, _as_json(asdict(self.config)),
            _as_json(self.task.identity), 0 if window is None else window.steps,
            {} if window is None else {name: float(value) for name, value in window.sums.items()},
        )  # fmt: skip
        moments = [dict(self.optimizer.state[p]) for p in self.parameters]
        self.folder.save(state, self.task.model, self.frozen, self.names, self.ema, moments)

    def draw_samples(self) -> None:
        """A page of predictions with the weights as they are: FOLDER/samples/<step>.png."""
        with torch.no_grad():
            samples = self.task.samples(self.config.seed, self.config.stage(self.progress))
        if samples:
            self.folder.write_sheet(self.step, draw_sheet(samples))

    def averaged(self) -> dict[str, Tensor]:
        """State of the model with the averaged weights."""
        return {**self.task.model.state_dict(), **dict(zip(self.names, self.ema, strict=True))}

    def _step(self, window: _Window) -> None:
        config, progress = self.config, self.progress
        wanted = config.stage(progress)
        while True:
            stage = self._lowered.get(wanted, wanted)
            try:
                for k in range(config.accumulate):
                    self._forward_backward(stage, progress, self.step * config.accumulate + k, window)
                break
            except torch.OutOfMemoryError:
                if stage.clips == 1:
                    raise
                self._lowered[wanted] = Stage(stage.until, stage.size, max(1, stage.clips * 2 // 3), stage.frames)
                log.warning("out of device memory with %d clips; going on with %d", stage.clips, stage.clips * 2 // 3)
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        bad = (~torch.isfinite(norm)).float()
        self._bad = (self._bad + 1) * bad
        self._skipped += bad
        factor = config.rate_factor(progress)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused update leaves everything as it is where this is 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        window.add({"gradient": torch.nan_to_num(norm.detach(), nan=0.0, posinf=0.0)})
        window.steps += 1
        window.frames += stage.clips * stage.frames * config.accumulate

    def _forward_backward(self, stage: Stage, progress: float, number: int, window: _Window) -> None:
        """Add the gradient of batch ``number``."""
        share = 1 / self.config.accumulate
        before, start = self._mark(), time.perf_counter()
        batch = self.task.batch(self.config.seed, number, stage)
        window.waited += time.perf_counter() - start
        middle = self._mark()
        loss, parts = self.task.loss(batch, self.config.seed, number, progress)
        torch.autograd.backward(loss * share)
        window.events.append((before, middle, self._mark()))
        window.add({"loss": loss.detach(), **parts}, share)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _log(self, window: _Window) -> None:
        values = {k: float(v) / window.steps for k, v in window.sums.items()}  # waits for the device
        seconds = time.perf_counter() - window.started
        row = {
            "step": self.step,
            "elapsed": round(self.elapsed, 1),
            "progress": round(self.progress, 4),
            **{k: float(f"{v:.6g}") for k, v in values.items()},
            "rate": float(f"{self.optimizer.param_groups[-1]['lr']:.4g}"),
            "frames_per_second": round(window.frames / seconds, 1),
            "host_data_share": round(window.waited / seconds, 3),
            "device_data_share": round(_share(window.events), 3),
            "skipped": int(self._skipped),
        }
        self.folder.append_log(row)
        log.info(" ".join(f"{k}={v}" for k, v in row.items()))
        if float(self._bad) >= self.config.patience:
            raise InputError(
                f"the gradient was not a finite number for {int(self._bad)} steps up to step {self.step};"
                f" start again from the last checkpoint with a lower rate than {self.config.rate}"
            )

    def _resume(self) -> None:
        state = self.folder.state()
        if state is None:
            return
        self._check_same(state)
        ema, moments = self.folder.load(self.task.model, self.frozen, self.names)
        self.step, self.elapsed = state.step, state.elapsed
        self._unlogged_steps = state.unlogged_steps
        self._unlogged = {name: torch.tensor(value, device=self.device) for name, value in state.unlogged.items()}
        self.folder.cut_log(state.step)
        with torch.no_grad():
            for kept, value in zip(self.ema, ema, strict=True):
                kept.copy_(value)
            for parameter, moment in zip(self.parameters, moments, strict=True):
                if moment:  # in the parameter's memory layout: the fused update walks through both side by side
                    self.optimizer.state[parameter] = {
                        k: v.to(self.device) if v.ndim == 0 else torch.empty_like(parameter).copy_(v)
                        for k, v in moment.items()
                    }

    def _check_same(self, state: RunState) -> None:
        """Raises InputError or CheckpointError where the checkpoint is not one of this run."""
        where = self.folder.path
        if state.fingerprint != self.task.fingerprint or state.seed != self.config.seed:
            raise InputError(
                f"the run in {where} was started with other data or another seed"
                f" (data {state.fingerprint}, seed {state.seed}; now {self.task.fingerprint}, {self.config.seed});"
                " choose another folder"
            )
        if odd := _difference(state.identity, _as_json(self.task.identity)):
            raise CheckpointError(
                f"the checkpoint in {where} is of another configuration: {odd}; choose another folder"
            )
        mine = {k: v for k, v in _as_json(asdict(self.config)).items() if k not in FREE}
        if odd := _difference(state.config, mine):
            raise InputError(f"the run in {where} was started with other settings: {odd}; choose another folder")


def _as_json(value: Any) -> Any:
    """What comes back of a value that is written as JSON and read again."""
    return json.loads(json.dumps(value, default=str))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The first field that both have and that differs, as words; empty where there is none."""
    for name in new:
        if name not in old or old[name] == new[name]:
            continue
        if isinstance(old[name], Mapping) and isinstance(new[name], Mapping):
            if found := _difference(old[name], new[name], f"{prefix}{name}."):
                return found
            continue
        return f"{prefix}{name} was {json.dumps(old[name])}, now {json.dumps(new[name])}"
    return ""


def _share(events: list[tuple[Any, Any, Any]]) -> float:
    """Share of the time that making batches took, by the device's clock where there is one."""

    def between(a: Any, b: Any) -> float:
        return float(b - a if isinstance(a, float) else a.elapsed_time(b))

    whole = sum(between(a, c) for a, _, c in events)
    return sum(between(a, b) for a, b, _ in events) / whole if whole > 0 else 0.0


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a log file as numbers."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
