"""Two opinions of one frame made one: `merge_passes` joins what the forward and the backward pass say of each object.

A pass drifts the farther it is from the frame on which it was told, and says how sure it is. With d_f and d_b frames
to the prompts before and after, and scores s_f and s_b, the forward pass has the weight

    w = (s_f / d_f) / (s_f / d_f + s_b / d_b)

Where the two masks of an object overlap well, its border is the zero line of w D_f + (1 - w) D_b, D being the signed
distance to a mask's border (positive inside), so that shapes pass into each other without a jump; where they do not,
they speak of different things, and the mask of the greater weight is taken whole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from trackers.base import Labels, ObjectMasks

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice]

AGREEMENT = 0.3  # IoU from which two masks are taken for views of one shape
REACH = 32.0  # pixels beyond which a border is simply far away
EVEN = 0.5  # how sure an empty mask is: that an object is not there has no score of its own


@dataclass(frozen=True)
class Anchors:
    """The frames on which each object was prompted, ascending; ``first`` and ``last`` are the tracked frames' ends."""

    first: int
    last: int
    frames: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, tracked: range, prompted: Iterable[tuple[int, int]]) -> Anchors:
        """From (frame, object id) pairs, in any order."""
        frames: dict[int, set[int]] = {}
        for frame, object_id in prompted:
            frames.setdefault(object_id, set()).add(frame)
        return cls(tracked[0], tracked[-1], {i: tuple(sorted(found)) for i, found in frames.items()})

    def distances(self, object_id: int, frame: int) -> tuple[int, int]:
        """Frames back to the last prompt at or before ``frame``, and on to the first one at or after it.

        Without one (an object of a saved memory) to just beyond the tracked frames' end.
        """
        known = self.frames.get(object_id, ())
        before, after = bisect_right(known, frame) - 1, bisect_left(known, frame)
        last = known[before] if before >= 0 else self.first - 1
        following = known[after] if after < len(known) else self.last + 1
        return frame - last, following - frame


def merge_passes(
    forward: ObjectMasks | None, backward: ObjectMasks | None, anchors: Anchors, frame: int
) -> ObjectMasks | None:
    """One result from the two passes' results of ``frame``, of one size; None where neither pass has one.

    An object that one pass alone knows is taken from it. Scores are weighted as the masks are.
    """
    if forward is None or backward is None or not backward.ids:
        return forward if forward is not None else backward
    weights = {i: _weight(forward, backward, anchors, frame, i) for i in sorted({*forward.ids, *backward.ids})}
    if all(weight == 1 for weight in weights.values()):
        return forward
    if all(weight == 0 for weight in weights.values()):
        return backward
    ids = tuple(weights)
    labels = _assemble(forward, backward, weights)
    scores = [w * _score(forward, i) + (1 - w) * _score(backward, i) for i, w in weights.items()]
    there = set(np.flatnonzero(np.bincount(labels.reshape(-1))).tolist())
    lost = np.array([i not in there for i in ids], np.bool_)
    return ObjectMasks(ids, labels, np.array(scores, np.float32), lost)


def agreement(a: Mask, b: Mask) -> float:
    """IoU of two (H, W) masks, 0..1; two empty ones agree."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def _weight(forward: ObjectMasks, backward: ObjectMasks, anchors: Anchors, frame: int, object_id: int) -> float:
    """0..1 of the forward pass: 0 or 1 where one mask is taken whole."""
    if object_id not in backward.ids:
        return 1.0
    if object_id not in forward.ids:
        return 0.0
    back, on = anchors.distances(object_id, frame)
    if back == 0:
        return 1.0
    if on == 0:
        return 0.0
    one, other = forward.mask(object_id), backward.mask(object_id)
    ours, theirs = _sure(forward, object_id, one) * on, _sure(backward, object_id, other) * back
    weight = ours / (ours + theirs) if ours + theirs > 0 else on / (on + back)
    return weight if agreement(one, other) >= AGREEMENT else float(weight >= 0.5)


def _score(masks: ObjectMasks, object_id: int) -> float:
    return float(masks.scores[masks.ids.index(object_id)]) if object_id in masks.ids else 0.0


def _sure(masks: ObjectMasks, object_id: int, mask: Mask) -> float:
    return _score(masks, object_id) if mask.any() else EVEN


def _assemble(forward: ObjectMasks, backward: ObjectMasks, weights: Mapping[int, float]) -> Labels:
    """(H, W) labels: every pixel to the object inside whose blended border it lies deepest."""
    wide = np.uint16 if max(weights) > 255 else np.uint8
    labels = np.zeros(forward.labels.shape, wide)
    deepest = np.zeros(forward.labels.shape, np.float32)
    for object_id, weight in weights.items():
        masks = [(m.mask(object_id), w) for m, w in ((forward, weight), (backward, 1 - weight)) if w > 0]
        box = _box([mask for mask, _ in masks])
        if box is None:
            continue
        depth = np.sum([np.float32(w) * _signed_distance(mask[box]) for mask, w in masks], axis=0)
        wins = depth > deepest[box]
        deepest[box][wins] = depth[wins]
        labels[box][wins] = object_id
    return labels


def _box(masks: list[Mask]) -> Box | None:
    """The region around all the masks, two pixels wider than they are; None where they are empty."""
    found = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks]
    corners = [(x, y, x + w, y + h) for x, y, w, h in found if w]
    if not corners:
        return None
    x0, y0, x1, y1 = (limit(c[n] for c in corners) for n, limit in enumerate((min, min, max, max)))
    return slice(max(0, y0 - 2), y1 + 2), slice(max(0, x0 - 2), x1 + 2)


def _signed_distance(mask: Mask) -> npt.NDArray[np.float32]:
    """(h, w) pixels to the mask's border, positive inside, within ±`REACH`; everything is far from an empty mask."""
    if not mask.any():
        return np.full(mask.shape, -REACH, np.float32)
    inside = mask.view(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    return np.clip(np.asarray(depth, np.float32), -REACH, REACH)
