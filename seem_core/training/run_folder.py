"""What a training run leaves on disk: a log and one checkpoint, replaced as a whole.

    log.csv                    a row per log line
    samples/<step>.png         a page of predictions now and then
    last/state.json            step, seconds, seed, fingerprint of the data, configuration
    last/model.safetensors     weights as trained; those that training leaves alone are not repeated
    last/averaged.safetensors  averaged weights of what is trained
    last/first_moments.safetensors, last/second_moments.safetensors   the optimizer

A checkpoint is written beside the old one and takes its place by renaming, so that a run that is killed at any moment
leaves a whole one. Checkpoints carry no device: a run may go on on another kind of machine.
"""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seem_core.disk import is_no_room
from seem_core.errors import CheckpointError, DiskFullError, OutputError


@dataclass(frozen=True)
class RunState:
    """Where a run stands. elapsed: seconds of training, all sittings. config: of the loop; identity: of the task.
    unlogged: sums over the steps since the last log line."""

    step: int
    elapsed: float
    seed: int
    fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    unlogged_steps: int = 0
    unlogged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Frozen:
    """Weights that training leaves as they are: their names, and a checksum of their values."""

    names: frozenset[str]
    checksum: str

    @classmethod
    def of(cls, model: nn.Module) -> Frozen:
        """The parameters of `model` without gradient."""
        names, checksum = [], 0
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                names.append(name)
                values = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                checksum = zlib.crc32(values.data, checksum)
        return cls(frozenset(names), f"{checksum:08x}")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last"

    def save(
        self, state: RunState, model: nn.Module, frozen: Frozen, names: list[str], ema: list[Tensor],
        moments: list[dict[str, Tensor]],
    ) -> None:  # fmt: skip
        """Replace the checkpoint. Raises DiskFullError or OutputError; the one before then stays."""
        fresh, old = self.path / "last.new", self.path / "last.old"
        try:
            self._clear(fresh)
            fresh.mkdir(parents=True)
            kept = {k: v for k, v in model.state_dict().items() if k not in frozen.names}
            save_file(_plain(kept), fresh / "model.safetensors")
            save_file(_plain(dict(zip(names, ema, strict=True))), fresh / "averaged.safetensors")
            for file, key in (("first_moments", "exp_avg"), ("second_moments", "exp_avg_sq")):
                kept = {n: m[key] for n, m in zip(names, moments, strict=True) if key in m}
                save_file(_plain(kept), fresh / f"{file}.safetensors")
            updates = {n: float(m["step"]) for n, m in zip(names, moments, strict=True) if "step" in m}
            content = {**asdict(state), "updates": updates, "frozen": frozen.checksum}
            (fresh / "state.json").write_text(json.dumps(content, indent=1))
            self._clear(old)
            if self.last.exists():
                self.last.rename(old)
            fresh.rename(self.last)
            self._clear(old)
        except (OSError, SafetensorError) as error:
            raise _failed(
                f"a checkpoint cannot be written to {self.path}: {error}; the one before stays", error
            ) from error

    def state(self) -> RunState | None:
        """Where the run stands, or None if the folder holds no checkpoint. Raises CheckpointError for a damaged one."""
        content = self._content()
        if content is None:
            return None
        try:
            return RunState(**{f.name: content[f.name] for f in fields(RunState) if f.name in content})
        except TypeError as error:
            raise CheckpointError(f"the checkpoint in {self._place()} cannot be used: {error}") from error

    def load(self, model: nn.Module, frozen: Frozen, names: list[str]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Fill what is trained of ``model``; returns (averaged weights, moments).

        Raises CheckpointError for a checkpoint that does not fit the model, or other weights under the frozen names.
        """
        place, content = self._place(), self._content() or {}
        try:
            weights = load_file(place / "model.safetensors")
            ema = load_file(place / "averaged.safetensors")
            first, second = (load_file(place / f"{f}_moments.safetensors") for f in ("first", "second"))
            averaged = [ema[n] for n in names]
            updates = content["updates"]
            if not isinstance(updates, dict):  # as it was written once: of all weights
                updates = dict.fromkeys(first, updates)
            steps = {n: torch.tensor(float(updates[n])) for n in first}
            lacking = set(model.state_dict()) - set(weights) - frozen.names
            if lacking:
                raise KeyError(f"{sorted(lacking)[0]} is missing")
            if (extra := set(weights) - set(model.state_dict())) or set(ema) != set(names):
                raise KeyError(f"it trains other weights, such as {sorted(extra | (set(ema) ^ set(names)))[0]}")
            model.load_state_dict(weights, strict=False)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint in {place} cannot be used: {error}") from error
        recorded = content.get("frozen", frozen.checksum)
        if recorded != frozen.checksum:
            raise CheckpointError(
                f"the run in {self.path} was started from other weights (checksum {recorded}, now {frozen.checksum});"
                " give those, or choose another folder"
            )
        moments = [
            {"step": steps[n], "exp_avg": first[n], "exp_avg_sq": second[n]} if n in first else {} for n in names
        ]
        return averaged, moments

    def _place(self) -> Path:
        """The newest whole checkpoint; a run that died while replacing it left the one before beside it."""
        return self.last if self.last.exists() else self.path / "last.old"

    def _content(self) -> dict[str, Any] | None:
        place = self._place()
        if not place.exists():
            return None
        try:
            content: dict[str, Any] = json.loads((place / "state.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the checkpoint in {place} cannot be used: {error}") from error
        return content

    def write_sheet(self, step: int, sheet: npt.NDArray[np.uint8]) -> None:
        """samples/<step>.png of an (H, W, 3) RGB picture. Raises OutputError or DiskFullError."""
        path = self.path / "samples" / f"{step:07d}.png"
        data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise _failed(f"the samples {path} cannot be written: {error.strerror}", error) from error

    def append_log(self, row: dict[str, Any]) -> None:
        path = self.path / "log.csv"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise _failed(f"the log {path} cannot be written: {error.strerror}", error) from error

    def cut_log(self, step: int) -> None:
        """Drop rows later than ``step``: they are about to be written again."""
        path = self.path / "log.csv"
        if not path.exists():
            return
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        kept = [rows[0], *(row for row in rows[1:] if row and int(row[0]) <= step)]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(kept)

    @staticmethod
    def _clear(path: Path) -> None:
        if path.exists():
            shutil.rmtree(path)


def _failed(sentence: str, error: Exception) -> DiskFullError | OutputError:
    return DiskFullError(sentence) if is_no_room(error) else OutputError(sentence)


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state.items()}
