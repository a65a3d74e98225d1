"""What the values of one object over its frames come to: mean, recall, decay (DAVIS, CVPR 2016, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RECALL_THRESHOLD = 0.5
_QUARTERS = 4


@dataclass(frozen=True)
class Statistics:
    """Mean, recall (share of frames above 0.5) and decay (first quarter's mean minus the last quarter's)."""

    mean: float
    recall: float
    decay: float


def statistics(values: npt.NDArray[np.float64], *, wrapped_bins: bool = False) -> Statistics:
    """Statistics of (T,) values, one for each frame, T >= 1. ``wrapped_bins``: see `decay`. Raises ValueError."""
    _check(values)
    return Statistics(mean=float(values.mean()), recall=recall(values), decay=decay(values, wrapped_bins=wrapped_bins))


def recall(values: npt.NDArray[np.float64]) -> float:
    """Share of (T,) values above 0.5. Raises ValueError for another shape, or no values."""
    _check(values)
    return float((values > RECALL_THRESHOLD).mean())


def decay(values: npt.NDArray[np.float64], *, wrapped_bins: bool = False) -> float:
    """Mean of the first quarter of (T,) values minus the mean of the last; neighbouring quarters share their end.

    ``wrapped_bins`` repeats what the official DAVIS-2017 tool does from 257 values on: it keeps the quarters' ends in
    8 bits, so that they wrap round; the result is then meaningless, or NaN. Raises ValueError for another shape, or no
    values.
    """
    _check(values)
    ends = (np.round(np.linspace(1, len(values), _QUARTERS + 1) + 1e-10) - 1).astype(np.int64)  # (5,)
    if wrapped_bins:
        ends %= 256
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return float(first.mean() - last.mean()) if first.size and last.size else float("nan")


def _check(values: npt.NDArray[np.float64]) -> None:
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"statistics need (T,) values of at least one frame, not {values.shape}")
