"""Which frames are most worth a correction: `doubt` of one frame, and `choose` among all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trackers.base import ObjectMasks
from vos.merging import EVEN, Anchors, agreement


def doubt(
    forward: ObjectMasks | None, backward: ObjectMasks | None, merged: ObjectMasks, anchors: Anchors, frame: int
) -> float:
    """How likely a frame's result is wrong, 0..1: of its objects, the most doubtful one.

    An object is as sure as its score times the agreement (IoU) of the two passes where both know it; one that is not
    there is as likely there as not, unless one pass sees it.
    """
    worst = 0.0
    for object_id, score in zip(merged.ids, merged.scores.tolist(), strict=True):
        if 0 in anchors.distances(object_id, frame):
            continue  # the user said what it is
        sure = score if merged.mask(object_id).any() else EVEN
        if forward is not None and backward is not None and object_id in forward.ids and object_id in backward.ids:
            sure *= agreement(forward.mask(object_id), backward.mask(object_id))
        worst = max(worst, 1 - sure)
    return worst


def choose(doubts: Mapping[int, float], prompted: Collection[int], n: int) -> tuple[int, ...]:
    """At most ``n`` frames, the one most worth a correction first.

    A correction also mends what lies near it. So a frame counts less the nearer it is to one that is prompted or chosen
    already, in proportion up to half of the share of the video that falls to each of them.
    """
    chosen: list[int] = []
    taken = list(prompted)
    reach = max(1.0, (max(doubts, default=0) - min(doubts, default=0) + 1) / (2 * (len(taken) + n)))

    def worth(frame: int) -> float:
        nearest = min((abs(frame - other) for other in taken), default=reach)
        return doubts[frame] * min(1.0, nearest / reach)

    for _ in range(min(n, len(doubts))):
        best = max(sorted(doubts), key=worth)
        if worth(best) <= 0:
            break
        chosen.append(best)
        taken.append(best)
    return tuple(chosen)
