"""How few corrections a segmenter needs: NoC@t, 1-IoU and mean IoU per round, from a table of IoUs.

The table is (N, R) float, N objects, R >= 1 rounds: entry (n, r) is the IoU of object n after the user's mark r + 1, in
0..1. These are the usual measures of interactive segmentation (Sofiiuk et al., arXiv:2102.06583), which SEEM reports
too (arXiv:2304.06718 table 3; SPEC §8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ious = npt.NDArray[np.float64]

THRESHOLDS = (0.5, 0.8, 0.85, 0.9)
"""IoUs at which rounds are counted."""
CAPS = (5, 10, 20)
"""Caps at which papers give NoC: 5-NoC85 is the mean number of rounds until IoU 0.85, or 5."""


@dataclass(frozen=True)
class InteractiveScores:
    """What a table of IoUs comes to.

    objects, rounds: N and R. per_round: R mean IoUs; the first is 1-IoU. clicks: threshold -> mean NoC, in 1..R.
    failures: threshold -> objects that never reach it; NoC counts them as R. capped: "5-NoC85" -> mean NoC with cap 5,
    for those of `CAPS` up to R.
    """

    objects: int
    rounds: int
    per_round: tuple[float, ...]
    clicks: Mapping[float, float]
    failures: Mapping[float, int]
    capped: Mapping[str, float]

    @property
    def first_iou(self) -> float:
        """1-IoU: mean IoU after the first mark."""
        return self.per_round[0]


def interactive_scores(ious: Ious, thresholds: tuple[float, ...] = THRESHOLDS) -> InteractiveScores:
    """All measures of an (N, R) table. Raises ValueError for one that is empty, not (N, R), or outside 0..1."""
    per_round = mean_iou_per_round(ious)
    clicks = {t: float(number_of_clicks(ious, t).mean()) for t in thresholds}
    failures = {t: int((~(ious >= t).any(axis=1)).sum()) for t in thresholds}
    capped = {
        f"{cap}-NoC{100 * t:g}": float(number_of_clicks(ious, t, cap).mean())
        for cap in CAPS
        if cap <= ious.shape[1]
        for t in thresholds
    }
    return InteractiveScores(len(ious), ious.shape[1], tuple(per_round.tolist()), clicks, failures, capped)


def number_of_clicks(ious: Ious, threshold: float, cap: int | None = None) -> npt.NDArray[np.int64]:
    """NoC@threshold with a cap, of an (N, R) table -> (N,): the first round, counted from 1, whose IoU is >= threshold.

    An object that does not get there within `cap` rounds (by default all R) counts as `cap`. A later fall below the
    threshold changes nothing. Raises ValueError as `interactive_scores` does, and for a cap outside 1..R.
    """
    _check(ious)
    cap = ious.shape[1] if cap is None else cap
    if not 1 <= cap <= ious.shape[1]:
        raise ValueError(f"cap is one of the {ious.shape[1]} rounds, not {cap}")
    reached = ious[:, :cap] >= threshold  # (N, cap)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, cap).astype(np.int64)


def mean_iou_per_round(ious: Ious) -> Ious:
    """(R,): mean over the objects of an (N, R) table. Raises ValueError as `interactive_scores` does."""
    _check(ious)
    mean: Ious = ious.mean(axis=0)
    return mean


def _check(ious: Ious) -> None:
    if ious.ndim != 2 or 0 in ious.shape:
        raise ValueError(f"IoUs are (objects, rounds), at least one of each, not {ious.shape}")
    if not ((ious >= 0) & (ious <= 1)).all():
        raise ValueError("an IoU lies outside 0..1")
