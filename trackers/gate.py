"""The write gate: whether what was found of an object on a frame is worth remembering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Gate:
    """Bounds beyond which a mask is doubtful; the defaults let everything pass.

    min_score            of 0..1, the least score
    min_area, max_area   of the ratio of the mask's area to the median of the last areas
    min_agreement        of 0..1, the least IoU of two opinions on the mask, where there are two
    """

    min_score: float = 0.0
    min_area: float = 0.0
    max_area: float = math.inf
    min_agreement: float = 0.0


@dataclass(frozen=True)
class Observation:
    """One object on one frame. area: of its mask; areas: of its masks on the last frames, in the same unit;
    agreement: IoU of two opinions on the mask, None where there is one."""

    score: float
    area: float
    areas: Sequence[float] = ()
    agreement: float | None = None


def is_doubtful(seen: Observation, gate: Gate) -> bool:
    """Whether a mask should not be remembered. An object that never had an area has no ratio to keep to."""
    if seen.score < gate.min_score:
        return True
    if seen.agreement is not None and seen.agreement < gate.min_agreement:
        return True
    usual = median(seen.areas) if seen.areas else 0.0
    return usual > 0 and not gate.min_area <= seen.area / usual <= gate.max_area
