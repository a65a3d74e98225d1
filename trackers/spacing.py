"""Which remembered frame may leave, so that those that stay are close together now and farther apart in the past.

With only the last frames in memory, every mask is read from masks that are a few frames old, and a mistake is read
again within a second. Frames from further back, of which each mistake has had fewer steps to grow, hold against that;
spaced as here, few of them reach far.
"""

from __future__ import annotations

from collections.abc import Sequence

NEWEST = 2  # that always stay


def least_needed(frames: Sequence[int], now: int, span: int) -> int:
    """Index of the one of ``frames`` (ascending) that leaves when frame ``now`` comes: the oldest, if it lies more than
    ``span`` back, else the one whose neighbours are closest together for its age. The oldest too where there are too
    few to choose from."""
    if now - frames[0] > span or len(frames) < NEWEST + 2:
        return 0
    inner = range(1, len(frames) - NEWEST)
    return min(inner, key=lambda i: (frames[i + 1] - frames[i - 1]) / max(1, now - frames[i]))
