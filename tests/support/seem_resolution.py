"""Compare what a scenario makes with its recording, and tell rounding from error.

Two things may set a right result apart from a recording that was itself rounded to float32: cells of attention masks
within rounding of zero (`seem_ties`), and, where a backbone amplifies rounding, plain noise. The first is decided as
recorded, if a few single cells explain the whole difference. The second must vanish in float64, and be small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from seem_fixtures import Golden, largest_differences, resolved_ties, rounded_keys
from seem_scenarios import Bench, Named
from seem_ties import Ties
from torch import Tensor

TRIALS = 16
"""Cells tried for each one that is decided."""
MOST_TIES = 6
"""Cells decided in one scenario; every one must take away at least half of what is left of the worst difference."""
MOST_ROUNDING = 4.0
"""Tolerances by which float32 may miss what float64 meets."""


@dataclass(frozen=True)
class Miss:
    """A key out of tolerance, and by how many tolerances."""

    key: str
    message: str
    size: float


def misses(golden: Golden, values: Mapping[str, Tensor | np.ndarray]) -> list[Miss]:
    """The keys of `values` that are in the file and do not agree, the worst first."""
    found = []
    for key in golden.keys:
        if key in values:
            try:
                golden.compare(key, values[key])
            except AssertionError as error:
                found.append(Miss(key, str(error), _size(golden, key, values[key])))
    return sorted(found, key=lambda miss: -miss.size)


def _size(golden: Golden, key: str, value: Tensor | np.ndarray) -> float:
    """Largest difference in tolerances, infinite for what cannot be subtracted."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    recorded = golden.arrays[key].astype(np.float64).reshape(-1)
    if array.shape != golden.shape(key):
        return float("inf")
    stride = int(golden.arrays.get(f"{key}__stride", 1))
    error = np.abs(array.astype(np.float64).reshape(-1)[::stride] - recorded)
    return float(error.max()) / golden.tolerance(key)[0] if np.isfinite(error).all() else float("inf")


def remaining_misses(bench: Bench, scenario: Callable[[Bench], Named]) -> list[Miss]:
    """What is wrong with a scenario beyond ties and rounding."""
    failures = resolve_ties(bench, scenario)
    if failures and failures[0].size <= MOST_ROUNDING:
        in_double = resolve_ties(bench.in_double(), scenario)
        if not in_double:
            rounded_keys.extend(f"{bench.golden.name} {m.key}: {m.size:.2f} tolerances in float32" for m in failures)
        return in_double
    return failures


def resolve_ties(bench: Bench, scenario: Callable[[Bench], Named]) -> list[Miss]:
    """What remains wrong with a scenario after cells within rounding of zero have been decided as recorded."""
    ties = Ties()
    failures = first = _run(bench, scenario, ties)
    while failures and len(ties.flipped) < MOST_TIES:
        found = _next_tie(bench, scenario, ties, failures[0].size / 2)
        if found is None:
            break
        ties, failures = found
    if first:
        failures = _run(bench, scenario, ties)  # once more, so that the differences reported are of the last state
        names = [
            f"{bench.golden.name} {scenario.__name__}: {tie} {ties.near[tie]:+.1e}" for tie in sorted(ties.flipped)
        ]
        resolved_ties.extend(names)
    return failures


def _next_tie(
    bench: Bench, scenario: Callable[[Bench], Named], ties: Ties, target: float
) -> tuple[Ties, list[Miss]] | None:
    """The cell, of the undecided ones nearest to zero, that brings the worst difference furthest below `target`."""
    best: tuple[Ties, list[Miss]] | None = None
    for tie in ties.candidates(TRIALS):
        trial = Ties(ties.flipped | {tie})
        left = _run(bench, scenario, trial)
        if not left:
            return trial, left
        if left[0].size < target:
            best, target = (trial, left), left[0].size
    return best


def _run(bench: Bench, scenario: Callable[[Bench], Named], ties: Ties) -> list[Miss]:
    for key in bench.made.get(scenario, ()):  # the last run counts, not the worst of all trials
        largest_differences.pop((bench.golden.name, key), None)
    with ties.watch():
        values = dict(scenario(bench))
    bench.made[scenario] = tuple(values)
    return misses(bench.golden, values)
