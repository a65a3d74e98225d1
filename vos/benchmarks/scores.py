"""What a scoring run comes to: `Scores` of objects, sequences and the whole set, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vos.metrics.statistics import Statistics, statistics


@dataclass(frozen=True, eq=False)
class ObjectScore:
    """One object of one sequence. ``J`` and ``F`` are (T,) float64 for the T counted frames named by ``frames``."""

    sequence: str
    object_id: int
    frames: tuple[str, ...]
    J: npt.NDArray[np.float64]
    F: npt.NDArray[np.float64]
    wrapped_bins: bool = False

    def __repr__(self) -> str:
        return f"ObjectScore({self.name!r}, J={self.region.mean:.3f}, F={self.contour.mean:.3f})"

    @property
    def name(self) -> str:
        """As the official tool names it: sequence and id joined by an underscore."""
        return f"{self.sequence}_{self.object_id}"

    @cached_property
    def region(self) -> Statistics:
        return statistics(self.J, wrapped_bins=self.wrapped_bins)

    @cached_property
    def contour(self) -> Statistics:
        return statistics(self.F, wrapped_bins=self.wrapped_bins)

    @property
    def j_and_f(self) -> float:
        return (self.region.mean + self.contour.mean) / 2


@dataclass(frozen=True)
class SequenceScore:
    """Mean over the objects of one sequence."""

    sequence: str
    J: float
    F: float

    @property
    def j_and_f(self) -> float:
        return (self.J + self.F) / 2


@dataclass(frozen=True, eq=False)
class Scores:
    """Every object that counted, in the order of sequences and ids, and what was noticed on the way."""

    protocol: str
    objects: tuple[ObjectScore, ...]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Scores({self.protocol}, {len(self.objects)} objects, J&F={self.j_and_f:.4f})"

    @cached_property
    def region(self) -> Statistics:
        """Means over objects of the objects' mean, recall and decay of J."""
        return _mean_statistics([score.region for score in self.objects])

    @cached_property
    def contour(self) -> Statistics:
        """Means over objects of the objects' mean, recall and decay of F."""
        return _mean_statistics([score.contour for score in self.objects])

    @property
    def j_and_f(self) -> float:
        """(mean J + mean F) / 2."""
        return (self.region.mean + self.contour.mean) / 2

    @cached_property
    def sequences(self) -> tuple[SequenceScore, ...]:
        """Per sequence: the mean over its objects. (The global mean is over objects, not over these.)"""
        names = dict.fromkeys(score.sequence for score in self.objects)
        return tuple(self._sequence(name) for name in names)

    def _sequence(self, name: str) -> SequenceScore:
        own = [score for score in self.objects if score.sequence == name]
        J, F = (float(np.mean([getattr(s, key).mean for s in own])) for key in ("region", "contour"))
        return SequenceScore(name, J, F)

    def to_json(self, *, per_frame: bool = False) -> dict[str, Any]:
        """``global`` and ``objects`` as the official figures are laid out, with ``protocol`` and ``warnings``.

        A value that is not a number is None. ``per_frame`` adds, for each object, frame name -> [J, F].
        """
        result: dict[str, Any] = {
            "global": {
                "J": {"M": _plain(self.region.mean), "R": _plain(self.region.recall), "D": _plain(self.region.decay)},
                "F": {
                    "M": _plain(self.contour.mean),
                    "R": _plain(self.contour.recall),
                    "D": _plain(self.contour.decay),
                },
                "J&F": _plain(self.j_and_f),
            },
            "objects": {
                score.name: {"J": _statistics_json(score.region), "F": _statistics_json(score.contour)}
                for score in self.objects
            },
            "protocol": self.protocol,
            "warnings": list(self.warnings),
        }
        if per_frame:
            result["per_frame"] = {
                score.name: {f: [float(j), float(b)] for f, j, b in zip(score.frames, score.J, score.F, strict=True)}
                for score in self.objects
            }
        return result

    def to_csv(self) -> str:
        """One line for each object and a last line, GLOBAL; columns as in the official tool's files, all digits."""
        rows = [
            (o.sequence, o.object_id, len(o.frames), o.j_and_f, *_columns(o.region), *_columns(o.contour))
            for o in self.objects
        ]
        frames = sum(len(score.frames) for score in self.objects)
        total = ("GLOBAL", "", frames, self.j_and_f, *_columns(self.region), *_columns(self.contour))
        statistics_names = [f"{measure}-{s}" for measure in "JF" for s in ("Mean", "Recall", "Decay")]
        return _csv(("Sequence", "Object", "Frames", "J&F-Mean", *statistics_names), [*rows, total])

    def per_frame_csv(self) -> str:
        """One line for each object and frame."""
        rows = (
            (o.sequence, o.object_id, frame, float(j), float(f))
            for o in self.objects
            for frame, j, f in zip(o.frames, o.J, o.F, strict=True)
        )
        return _csv(("Sequence", "Object", "Frame", "J", "F"), rows)


def _mean_statistics(parts: Sequence[Statistics]) -> Statistics:
    mean, recall, decay = np.mean([(s.mean, s.recall, s.decay) for s in parts], axis=0)
    return Statistics(float(mean), float(recall), float(decay))


def _columns(s: Statistics) -> tuple[float, float, float]:
    return s.mean, s.recall, s.decay


def _statistics_json(s: Statistics) -> dict[str, float | None]:
    return {"mean": _plain(s.mean), "recall": _plain(s.recall), "decay": _plain(s.decay)}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
