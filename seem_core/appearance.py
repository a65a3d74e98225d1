"""What tells an object from its surroundings: a linear model per object, fitted to one picture with a mask.

Ridge regression from shallow features at stride 4 to "object" (1) or not (-1), in closed form. It knows nothing of
places, and so it cannot drift as propagated masks do; close to a border it says which side a cell looks like. That a
light model fitted to the first frame helps to follow an object is the idea of FRTM (arXiv:2003.00908).

Shapes: C channels of all levels together, h w cells at stride 4, N objects.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 16  # cells around an object whose surroundings count in full
FAR = 0.05  # how much the rest counts
RIDGE = 1e-4  # penalty, relative to the total weight of the cells
MOST = 2.0  # scores are cut off there: -1 is not the object, 1 is the object


def fit_appearance(half: Tensor, quarter: Tensor, eighth: Tensor, masks: Tensor) -> Tensor:
    """(N, C + 1) float32: weights and offset for each object. half (_, 2 h, 2 w), quarter (_, h, w), eighth
    (_, h / 2, w / 2): features of one picture; masks: (N, h, w) in 0..1. Where a mask is empty or everywhere: zeros."""
    levels = _levels(half, quarter, eighth)
    levels[2] = F.interpolate(levels[2][None], scale_factor=2, mode="bilinear")[0]
    x = torch.cat([torch.cat(levels).flatten(1), masks.new_ones(1, masks[0].numel())]).T  # (h w, C + 1)
    return torch.stack([_fit(x, mask) for mask in masks])


def appearance(half: Tensor, quarter: Tensor, eighth: Tensor, weights: Tensor) -> Tensor:
    """(N, h, w) how much the cells of another picture look like the objects; ``weights`` from `fit_appearance`."""
    levels = half, quarter, eighth
    parts = torch.split(weights[:, :-1], [len(level) for level in levels], dim=1)
    first, second, deep = (_score(level, part) for level, part in zip(levels, parts, strict=True))
    first, deep = F.avg_pool2d(first[None], 2)[0], F.interpolate(deep[None], scale_factor=2, mode="bilinear")[0]
    return (first + second + deep + weights[:, -1, None, None]).clamp(-MOST, MOST)


def _score(level: Tensor, weights: Tensor) -> Tensor:
    """(N, h, w) products of (N, C) weights with the cells of a (C, h, w) level, taken as unit vectors."""
    level = level.float()
    length = torch.linalg.vector_norm(level, dim=0).clamp(min=1e-12)
    score: Tensor = torch.einsum("nc,chw->nhw", weights, level) / length
    return score


def _levels(half: Tensor, quarter: Tensor, eighth: Tensor) -> list[Tensor]:
    """The features that a model is fitted to, with unit length in every cell; the first averaged to stride 4."""
    first = F.avg_pool2d(F.normalize(half.float(), dim=0)[None], 2)[0]
    return [first, F.normalize(quarter.float(), dim=0), F.normalize(eighth.float(), dim=0)]


def _fit(x: Tensor, mask: Tensor) -> Tensor:
    inside = mask > 0.5
    if not inside.any() or inside.all():
        return x.new_zeros(x.shape[1])
    near = F.max_pool2d(inside[None].float(), 2 * NEAR + 1, 1, NEAR)[0]
    outside = torch.where(inside, 0.0, FAR + (1 - FAR) * near)
    weight = (inside / inside.sum() + outside / outside.sum()).flatten()  # both sides count the same
    weighted = x * weight[:, None]
    gram = x.T @ weighted + 2 * RIDGE * torch.eye(x.shape[1], device=x.device)
    solution: Tensor = torch.linalg.solve(gram, weighted.T @ (2 * mask.flatten() - 1))
    return solution
