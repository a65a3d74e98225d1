"""What tracking takes in time, memory and disk, as benchmarks/estimates.py measured it; `vos batch -n` reckons with it.

Seconds are processor time of one thread on the machine that `MEASURED_ON` names; those of `propagate` and `lite` are of
before frames were encoded in less time, by up to a fifth, and memory of after it. Another machine may take three times
as long or half as long; `vos.batch.estimate` scales by what finished videos really took.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

MEASURED_ON = "one thread of an Intel Xeon with AMX, November 2026"
SIZES = (0.0576, 0.40992, 2.0736)  # megapixels that were measured: 320x180, 854x480, 1920x1080


@dataclass(frozen=True)
class Curve:
    """Something that grows with megapixels and objects, through measured points.

    one      with one object, at each of `SIZES`
    further  what each further object adds, at the two larger of them
    """

    one: tuple[float, float, float]
    further: tuple[float, float] = (0.0, 0.0)

    def at(self, megapixels: float, objects: int) -> float:
        """On straight lines between the points and on from the last one; below the smallest size as there."""
        return _between(SIZES, self.one, megapixels) + max(0, objects - 1) * _between(
            SIZES[1:], self.further, megapixels
        )


def _between(places: tuple[float, ...], values: tuple[float, ...], place: float) -> float:
    if place <= places[0]:
        return values[0]
    i = min(bisect_right(places, place), len(places) - 1)
    share = (place - places[i - 1]) / (places[i] - places[i - 1])
    return max(0.0, values[i - 1] + share * (values[i] - values[i - 1]))


@dataclass(frozen=True)
class TrackerRate:
    """One tracker. start: seconds before its first frame. seconds: per frame, beyond reading and writing, by the size
    that is worked on. memory: most bytes resident in its process, by the size of the video."""

    start: float
    seconds: Curve
    memory: Curve


def rate_of(tracker: str, model: str | None, *, fast: bool = False) -> TrackerRate | None:
    """None where this tracker was not measured with this model (`fused` without one is `lite`)."""
    if tracker == "fused" and model is None:
        tracker = "lite"
    return _RATES.get((tracker + (" fast" if fast else ""), model))


READ_AND_WRITE = Curve((0.00145, 0.00717, 0.0228), (0, 0.0016))
OVERLAY_SECONDS = Curve((0.00587, 0.0278, 0.135))
MASK_BYTES = Curve((1950, 5560, 17000), (270, 910))
LINE_BYTES = Curve((138, 139, 141), (70, 73))
OVERLAY_BYTES = Curve((3410, 17500, 64900), (270, 540))
CONTACT_BYTES = Curve((1.75e6, 2.03e6, 2.04e6))

_RATES: dict[tuple[str, str | None], TrackerRate] = {
    ("copy", None): TrackerRate(0.17, Curve((0, 0, 0)), Curve((3.2e8, 3.4e8, 4.0e8))),
    ("flow", None): TrackerRate(
        0.26, Curve((0.00947, 0.0701, 0.0852), (0.0038, 0.0075)), Curve((3.2e8, 3.4e8, 4.1e8), (0, 5.3e7))
    ),
    ("propagate", None): TrackerRate(
        2.6, Curve((0.0986, 0.158, 0.254), (0.010, 0)), Curve((4.3e8, 5.3e8, 8.2e8), (2.7e6, 3.9e6))
    ),
    ("lite", None): TrackerRate(
        2.5, Curve((0.120, 0.380, 0.389), (0.10, 0.11)), Curve((4.4e8, 8.2e8, 9.4e8), (3.7e7, 4.1e7))
    ),
    ("lite fast", None): TrackerRate(
        2.4, Curve((0.104, 0.202, 0.208), (0.060, 0.057)), Curve((4.5e8, 5.7e8, 8.3e8), (2.4e7, 1.5e7))
    ),
}
