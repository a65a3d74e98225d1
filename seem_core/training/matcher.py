"""Which query answers for which object: the assignment of least total cost (DETR, arXiv:2005.12872; SPEC §9).

The cost of a pair adds how little the query claims the object's class (or text, or marks), and how far its mask is from
the object's by binary cross-entropy and by dice, at points drawn once for all pairs. The assignment is exact
(Hungarian method by shortest augmenting paths; Jonker and Volgenant, Computing 38, 1987), written here because it is
the one thing for which SciPy would be needed; 40 objects among 101 queries take a third of a millisecond.

Q queries, N objects, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.training.mask_points import PUBLISHED_SAMPLING, read_points, uniform_points

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MatchWeights:
    """Shares of the three costs. The defaults hold for every task: the published code does not use its setting of other
    ones for marks."""

    claim: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass(frozen=True, eq=False)
class Match:
    """Pairs: queries[i] answers for objects[i]; int64 (n,) on the device of the logits, objects ascending."""

    queries: Tensor
    objects: Tensor


@torch.no_grad()
def match_objects(
    claims: Tensor,
    mask_logits: Tensor,
    objects: Tensor,
    *,
    allowed: Tensor | None = None,
    weights: MatchWeights | None = None,
    points: int = PUBLISHED_SAMPLING.points,
    generator: torch.Generator | None = None,
) -> Match:
    """The best one-to-one pairs of queries and objects, as many as there can be; none if there is nothing to match.

    claims: (Q, N) in 0..1, how much each query claims each object. mask_logits: (Q, h, w). objects: (N, H, W) bool.
    allowed: (Q, N) bool, pairs that may be (in `v1` an object's own three queries); an object without any stays alone.
    """
    Q, N = claims.shape
    if Q == 0 or N == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=claims.device)
        return Match(nothing, nothing)
    weights = weights or MatchWeights()
    places = uniform_points(1, points, mask_logits.device, generator)
    logits = read_points(mask_logits.float(), places.expand(Q, -1, -1))  # (Q, P)
    truth = read_points(objects.float(), places.expand(N, -1, -1))  # (N, P)
    with torch.autocast(logits.device.type, enabled=False):  # half precision would add up to too few digits
        cost = weights.mask * entropy_costs(logits, truth) + weights.dice * dice_costs(logits, truth)
    cost = cost - weights.claim * claims.float()
    possible = None if allowed is None else allowed.T.cpu().numpy()
    objects_matched, queries = assign(cost.T.double().cpu().numpy(), possible)
    return Match(*(torch.from_numpy(i).to(claims.device) for i in (queries, objects_matched)))


def entropy_costs(logits: Tensor, truth: Tensor) -> Tensor:
    """(Q, N) mean binary cross-entropy between logits (Q, P) and masks (N, P) in 0..1."""
    yes, no = F.softplus(-logits), F.softplus(logits)  # of saying so where it is right, and where it is not
    return (yes @ truth.T + no @ (1 - truth).T) / logits.shape[1]


def dice_costs(logits: Tensor, truth: Tensor) -> Tensor:
    """(Q, N) one minus dice, smoothed by 1, between logits (Q, P) and masks (N, P)."""
    p = logits.sigmoid()
    return 1 - (2 * (p @ truth.T) + 1) / (p.sum(1)[:, None] + truth.sum(1) + 1)


def assign(cost: Floats, possible: npt.NDArray[np.bool_] | None = None) -> tuple[Indices, Indices]:
    """Rows and columns of the pairs of least total cost, (R, C) float; each row has one if R <= C, else each column.

    `possible`, (R, C) bool, rules out pairs: of all sets of pairs without them the largest, then the cheapest is given.
    A cost that is not finite counts as worse than all finite ones. Rows come in ascending order.
    """
    if 0 in cost.shape:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cost = _with_rank(cost, possible)
    if cost.shape[0] <= cost.shape[1]:
        row, column = np.arange(len(cost)), _least_rows(cost)
    else:
        row_of = _least_rows(cost.T)
        column = np.argsort(row_of)
        row = row_of[column]
    if possible is not None:
        kept = possible[row, column]
        row, column = row[kept], column[kept]
    return row.astype(np.int64), column.astype(np.int64)


def _with_rank(cost: Floats, possible: npt.NDArray[np.bool_] | None) -> Floats:
    """The same costs from 0 up; one that is not finite, then one that is ruled out, is dearer than any set without."""
    finite = np.isfinite(cost)
    lowest, highest = (cost[finite].min(), cost[finite].max()) if finite.any() else (0.0, 0.0)
    pairs, step = min(cost.shape), max(highest - lowest, 1.0)
    cost = np.where(finite, cost - lowest, (pairs + 1) * step)
    if possible is None:
        return cost
    return np.where(possible, cost, (pairs + 1) ** 2 * step)


def _least_rows(cost: Floats) -> Indices:
    """Column of every row at least total cost, for (R, C) finite cost with R <= C."""
    rows, columns = cost.shape
    owner = np.full(columns, -1)
    row_price, column_price = cost.min(axis=1), np.zeros(columns)
    waiting = []
    for row, column in enumerate(cost.argmin(axis=1)):  # whoever is alone in wanting its best column has it
        if owner[column] < 0:
            owner[column] = row
        else:
            waiting.append(row)
    for row in waiting:
        _augment(cost, row, owner, row_price, column_price)
    result = np.empty(rows, np.int64)
    taken = np.flatnonzero(owner >= 0)
    result[owner[taken]] = taken
    return result


def _augment(cost: Floats, start: int, owner: Indices, row_price: Floats, column_price: Floats) -> None:
    """Give `start` a column along the cheapest chain of exchanges; Dijkstra's search on reduced costs.

    Prices stay such that cost - row price - column price is never negative, and zero for pairs.
    """
    columns = cost.shape[1]
    distance, before = np.full(columns, np.inf), np.full(columns, start)
    done = np.zeros(columns, bool)
    row, reached = start, 0.0
    while True:
        through = reached + cost[row] - row_price[row] - column_price
        closer = ~done & (through < distance)
        distance[closer], before[closer] = through[closer], row
        column = int(np.where(done, np.inf, distance).argmin())
        reached = float(distance[column])
        done[column] = True
        if owner[column] < 0:
            break
        row = int(owner[column])
    row_price[start] += reached
    passed = done.copy()
    passed[column] = False
    gain = reached - distance[passed]
    row_price[owner[passed]] += gain
    column_price[passed] -= gain
    while True:  # hand the columns on along the chain
        row = int(before[column])
        held = np.flatnonzero(owner == row)
        owner[column] = row
        if row == start:
            return
        column = int(held[0])
