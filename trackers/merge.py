"""One owner per pixel: independent opinions on objects become shares that add up to one, or masks that are apart."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-4


def soft_aggregate(masks: Tensor) -> Tensor:
    """Shares of background and objects: the softmax of their log-odds, background being where no object is (soft
    aggregation; Oh et al., "Fast Video Object Segmentation by Reference-Guided Mask Propagation", CVPR 2018).

    masks: (N, ...) probabilities of the objects, each on its own. Returns (N + 1, ...), background first; the order
    of the objects does not matter.
    """
    p = masks.clamp(EPSILON, 1 - EPSILON)
    background = (1 - p).prod(0, keepdim=True).clamp(EPSILON, 1 - EPSILON)
    return torch.logit(torch.cat([background, p])).softmax(0)


def one_owner(logits: Tensor) -> Tensor:
    """(N, ...) log-odds of objects, made disjoint: where another object's are positive and larger, an object has their
    negative. A tie goes to the first."""
    if len(logits) < 2:
        return logits
    largest, owner = logits.max(0, keepdim=True)
    others = torch.minimum(logits, -largest.clamp(min=0))
    return others.scatter(0, owner, logits.gather(0, owner))
