"""From all queries of one image to a panoptic, semantic or instance segmentation (SPEC §8).

Mask2Former's inference rules (arXiv:2112.01527 section 4 and its supplement), on class logits (Q, K + 1) whose last
class is "no object", and mask logits (Q, H, W) at the size at which the answer is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic map: its value there, its class, whether it is countable, and its class score."""

    id: int
    class_index: int
    is_thing: bool
    score: float


@dataclass(frozen=True, eq=False)
class Panoptic:
    """ids: (H, W) int32, 0 where nothing is. segments: what the other values are, in order of their ids."""

    ids: Tensor
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class Instances:
    """scores: (n,). classes: (n,) int64. masks: (n, H, W) bool. queries: (n,) int64, whose masks they are."""

    scores: Tensor
    classes: Tensor
    masks: Tensor
    queries: Tensor


def panoptic_segmentation(
    class_logits: Tensor, mask_logits: Tensor, things: Set[int], *, object_threshold: float, overlap_threshold: float
) -> Panoptic:
    """Every pixel to the query with the largest class score times mask probability.

    A query counts if its best class is one and its score is above `object_threshold` (official: 0.8; demo 0.4), and if
    at least `overlap_threshold` (0.8) of its own mask remains its. Regions of one uncountable class are merged.
    """
    return panoptic_segmentation_of(
        class_logits,
        lambda query: mask_logits[query],
        things,
        (mask_logits.shape[1], mask_logits.shape[2]),
        object_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
    )


def panoptic_segmentation_of(
    class_logits: Tensor,
    mask_of: Callable[[int], Tensor],
    things: Set[int],
    size: tuple[int, int],
    *,
    object_threshold: float,
    overlap_threshold: float,
) -> Panoptic:
    """`panoptic_segmentation` with masks made one at a time: `mask_of` gives the (H, W) logits of one query.

    Four maps of `size` exist at a time, however many queries there are. The first query wins ties.
    """
    scores, classes = class_logits.softmax(dim=-1).max(dim=-1)
    kept = ((classes != class_logits.shape[-1] - 1) & (scores > object_threshold)).nonzero()[:, 0].tolist()
    ids = torch.zeros(size, dtype=torch.int32, device=class_logits.device)
    best = torch.full(size, -1.0, device=ids.device)
    sure = torch.zeros(size, dtype=torch.bool, device=ids.device)  # the owner's own mask covers the pixel
    owner = torch.full(size, -1, dtype=torch.int32, device=ids.device)
    own_pixels = []
    for k, query in enumerate(kept):
        probability = mask_of(query).sigmoid()
        own = probability >= 0.5
        own_pixels.append(int(own.sum()))
        claim = scores[query] * probability
        better = claim > best
        owner[better] = k
        sure = torch.where(better, own, sure)
        best = torch.where(better, claim, best)
    segments: list[Segment] = []
    merged: dict[int, int] = {}  # uncountable class -> id
    for k, query in enumerate(kept):
        class_index = int(classes[query])
        won = owner == k
        region = won & sure
        if not region.any() or int(won.sum()) / own_pixels[k] < overlap_threshold:
            continue
        if class_index in merged:
            ids[region] = merged[class_index]
            continue
        segments.append(Segment(len(segments) + 1, class_index, class_index in things, float(scores[query])))
        ids[region] = len(segments)
        if class_index not in things:
            merged[class_index] = len(segments)
    return Panoptic(ids, tuple(segments))


def semantic_segmentation(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """(K, H, W) score of every class at every pixel: class probability times mask probability, summed over queries."""
    return torch.einsum("qk,qhw->khw", class_logits.softmax(dim=-1)[:, :-1], mask_logits.sigmoid())


def instance_segmentation(
    class_logits: Tensor, mask_logits: Tensor, *, top: int, things: Set[int] | None = None
) -> Instances:
    """The `top` (official: 100) best pairs of query and class, each scored by class and by how sure its mask is.

    things: keep only these classes (after the cut to `top`); None keeps all.
    """
    scores = class_logits.softmax(dim=-1)[:, :-1]
    best, flat = scores.flatten().topk(min(top, scores.numel()), sorted=False)
    query, classes = flat // scores.shape[1], flat % scores.shape[1]
    if things is not None:
        countable = torch.tensor([c in things for c in classes.tolist()], dtype=torch.bool, device=classes.device)
        best, query, classes = best[countable], query[countable], classes[countable]
    logits = mask_logits[query]
    masks = logits > 0
    certainty = (logits.sigmoid() * masks).sum(dim=(1, 2)) / (masks.sum(dim=(1, 2)) + 1e-6)
    return Instances(best * certainty, classes, masks, query)
