"""`run_interactive`: a simulated user marks objects and corrects a predictor's masks, round by round.

The first mark is a click in the depth of the object, its exact box, or a scribble, polygon or circled area drawn at
random (`vos.benchmarks.first_marks`). Every later one is a click in the depth of the larger error, missing or surplus
(SPEC §8, mode ``best``). Pixels that clicks and strokes cover are not clicked on again; a box covers none. Clicks are
chosen and IoU is measured at the picture's own size; the published evaluation chooses them at the network's padded
size.

A user stops early where nothing is worth a click: from an IoU of 0.925 on (`clicks.GOOD_ENOUGH`), or where marks cover
all errors. The IoU is then repeated for the rounds that are left. Since 0.925 lies above every threshold of NoC, the
first kind of stop changes none of them; after the second a further round could only bring the same marks. Void pixels
count neither as right nor as wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seem_core.errors import DatasetError, InputError
from seem_core.prompts import Prompt
from seem_core.training.clicks import next_click, overlap
from seem_core.training.strokes import SMALLEST, MarkKind
from vos.benchmarks.first_marks import click_prompt, first_mark, generator_for
from vos.benchmarks.predictors import Answer, Mask, OraclePredictor, Predictor
from vos.benchmarks.stills import Still, StillObject, read_still
from vos.metrics.interactive import InteractiveScores, Ious, interactive_scores

Progress = Callable[[int, int], None]  # objects done, objects in all
ROUNDS = 20


@dataclass(frozen=True, eq=False)
class InteractiveRun:
    """What was measured.

    objects: those that count, N. ious: (N, R). left_out: objects too small to be marked. seconds: in the predictor
    alone, pictures' encoding included; predictions: how often it was asked.
    """

    predictor: str
    kind: MarkKind
    seed: int
    objects: tuple[StillObject, ...]
    ious: Ious
    left_out: tuple[StillObject, ...]
    seconds: float
    predictions: int

    @property
    def scores(self) -> InteractiveScores:
        """NoC, 1-IoU and IoU per round over all objects."""
        return interactive_scores(self.ious)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        scores = self.scores
        return {
            "model": self.predictor,
            "prompt": self.kind.value,
            "seed": self.seed,
            "objects": scores.objects,
            "rounds": scores.rounds,
            "1-IoU": scores.first_iou,
            "NoC": {f"{100 * t:g}": clicks for t, clicks in scores.clicks.items()},
            **scores.capped,
            "failures": {f"{100 * t:g}": count for t, count in scores.failures.items()},
            "IoU_per_round": list(scores.per_round),
            "IoU": {item.label: row for item, row in zip(self.objects, self.ious.tolist(), strict=True)},
            "left_out": [item.label for item in self.left_out],
            "seconds_per_prediction": self.seconds / max(self.predictions, 1),
        }


def run_interactive(
    objects: Sequence[StillObject],
    predictor: Predictor,
    kind: MarkKind,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> InteractiveRun:
    """Measure `predictor` on `objects`, each in up to `rounds` rounds after a first mark of `kind`.

    Objects of one picture are done together, so that it is read and encoded once. An object's marks depend on `seed`,
    its name and its id, and on nothing else. Objects of fewer than 10 pixels are left out.

    Raises DatasetError for an object that is not in its mask, or where all are left out; VideoError and MaskError for
    files that cannot be used; InputError for fewer than one round.
    """
    if rounds < 1:
        raise InputError(f"at least one round is measured, not {rounds}")
    rows: dict[StillObject, list[float]] = {}
    left_out: list[StillObject] = []
    timed = _Timed(predictor)
    for group in _by_picture(objects):
        still = read_still(group[0])
        timed.begin(still)
        for item in group:
            truth = still.labels == item.object_id
            if not truth.any():
                raise DatasetError(f"there is no object {item.object_id} in {item.masks}")
            if np.count_nonzero(truth) < SMALLEST:
                left_out.append(item)
            else:
                rows[item] = _one_object(timed, truth, still.void, kind, rounds, generator_for(seed, item.label))
            if progress is not None:
                progress(len(rows) + len(left_out), len(objects))
    if not rows:
        raise DatasetError(f"all objects have fewer than {SMALLEST} pixels; give larger ones")
    counted = tuple(item for item in objects if item in rows)
    ious = np.array([rows[item] for item in counted], np.float64)  # (N, R)
    return InteractiveRun(predictor.name, kind, seed, counted, ious, tuple(left_out), timed.seconds, timed.predictions)


class _Timed:
    """A predictor whose time is taken."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.seconds = 0.0
        self.predictions = 0

    def begin(self, still: Still) -> None:
        began = time.perf_counter()
        self.predictor.begin(still.image)
        self.seconds += time.perf_counter() - began

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        began = time.perf_counter()
        answer = self.predictor.predict(prompts, previous)
        self.seconds += time.perf_counter() - began
        self.predictions += 1
        return answer


def _by_picture(objects: Sequence[StillObject]) -> list[list[StillObject]]:
    groups: dict[tuple[str, str], list[StillObject]] = {}
    for item in dict.fromkeys(objects):  # an object that is named twice is measured once
        groups.setdefault((str(item.image), str(item.masks)), []).append(item)
    return list(groups.values())


def _one_object(
    timed: _Timed, truth: Mask, void: Mask, kind: MarkKind, rounds: int, generator: np.random.Generator
) -> list[float]:
    """IoU after each round, (rounds,)."""
    if isinstance(timed.predictor, OraclePredictor):
        timed.predictor.show(truth)
    prompts, marks = first_mark(truth, kind, generator)
    ious: list[float] = []
    answer: Answer | None = None
    while len(ious) < rounds:
        answer = timed.predict(prompts, answer)
        seen = answer.mask & ~void
        ious.append(overlap(truth, seen))
        click = next_click(truth, seen, marks)
        if click is None:
            break
        prompts, marks = [*prompts, click_prompt(click)], marks.with_click(click)
    return ious + ious[-1:] * (rounds - len(ious))
