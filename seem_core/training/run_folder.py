"""What a training run leaves on disk: a log and one checkpoint, replaced as a whole.

    log.csv                    a row per log line
    last/state.json            step, seconds, seed, fingerprint of the data, configuration
    last/model.safetensors     all weights as trained
    last/averaged.safetensors  averaged weights of what is trained
    last/first_moments.safetensors, last/second_moments.safetensors   the optimizer

A checkpoint is written beside the old one and takes its place by renaming, so that a run that is killed at any moment
leaves a whole one. Checkpoints carry no device: a run may go on on another kind of machine.
"""

from __future__ import annotations

import csv
import errno
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seem_core.errors import CheckpointError, DiskFullError, OutputError


@dataclass(frozen=True)
class RunState:
    step: int
    elapsed: float  # seconds of training, all sittings
    seed: int
    fingerprint: str


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last"

    def save(
        self, state: RunState, model: nn.Module, names: list[str], ema: list[Tensor],
        moments: list[dict[str, Tensor]], config: str,
    ) -> None:  # fmt: skip
        """Replace the checkpoint. Raises DiskFullError or OutputError; the one before then stays."""
        fresh, old = self.path / "last.new", self.path / "last.old"
        try:
            self._clear(fresh)
            fresh.mkdir(parents=True)
            save_file(_plain(model.state_dict()), fresh / "model.safetensors")
            save_file(_plain(dict(zip(names, ema, strict=True))), fresh / "averaged.safetensors")
            for file, key in (("first_moments", "exp_avg"), ("second_moments", "exp_avg_sq")):
                kept = {n: m[key] for n, m in zip(names, moments, strict=True) if key in m}
                save_file(_plain(kept), fresh / f"{file}.safetensors")
            updates = [float(m["step"]) for m in moments if "step" in m]
            content = {**asdict(state), "updates": updates[0] if updates else 0.0, "config": json.loads(config)}
            (fresh / "state.json").write_text(json.dumps(content, indent=1))
            self._clear(old)
            if self.last.exists():
                self.last.rename(old)
            fresh.rename(self.last)
            self._clear(old)
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
            kind = DiskFullError if full else OutputError
            raise kind(f"a checkpoint cannot be written to {self.path}: {error}; the one before stays") from error

    def load(self, model: nn.Module, names: list[str]) -> tuple[RunState, list[Tensor], list[dict[str, Tensor]]] | None:
        """Fill ``model`` and return (state, averaged weights, moments), or None if the folder holds no checkpoint.

        Raises CheckpointError for one that does not fit the model.
        """
        place = self.last if self.last.exists() else self.path / "last.old"
        if not place.exists():
            return None
        try:
            content = json.loads((place / "state.json").read_text())
            model.load_state_dict(load_file(place / "model.safetensors"), strict=True)
            ema = load_file(place / "averaged.safetensors")
            first, second = (load_file(place / f"{f}_moments.safetensors") for f in ("first", "second"))
            state = RunState(content["step"], content["elapsed"], content["seed"], content["fingerprint"])
            updates = torch.tensor(float(content["updates"]))
            averaged = [ema[n] for n in names]
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint in {place} cannot be used: {error}") from error
        moments = [
            {"step": updates.clone(), "exp_avg": first[n], "exp_avg_sq": second[n]} if n in first else {} for n in names
        ]
        return state, averaged, moments

    def elapsed(self) -> float:
        """Seconds of training in the checkpoint; 0 without one."""
        try:
            return float(json.loads((self.last / "state.json").read_text())["elapsed"])
        except (OSError, ValueError, KeyError):
            return 0.0

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
            raise OutputError(f"the log {path} cannot be written: {error.strerror}") from error

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


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state.items()}
