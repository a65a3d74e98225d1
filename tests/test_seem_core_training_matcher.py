"""Matching queries with objects: exact against every permutation, with nothing to match, and with pairs ruled out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seem_core.training.matcher import MatchWeights, assign, dice_costs, entropy_costs, match_objects

shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
costs = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(-9, 9).map(float)))  # many ties
fine_costs = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-1e3, 1e3)))


def least(cost: np.ndarray) -> float:
    """The total of the best assignment, by trying all."""
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    return min(
        float(cost[range(len(cost)), columns].sum()) for columns in permutations(range(cost.shape[1]), len(cost))
    )


@settings(deadline=None)
@given(costs | fine_costs)
def test_no_assignment_costs_less(cost: np.ndarray) -> None:
    rows, columns = assign(cost)
    assert len(rows) == min(cost.shape) == len(set(rows)) == len(set(columns))
    assert (np.diff(rows) > 0).all()
    assert cost[rows, columns].sum() == pytest.approx(least(cost), abs=1e-6)


@settings(deadline=None)
@given(shapes.flatmap(lambda s: st.tuples(arrays(np.float64, s, elements=st.integers(0, 9)), arrays(np.bool_, s))))
def test_ruled_out_pairs_never_come_and_as_many_others_as_can_be(case: tuple[np.ndarray, np.ndarray]) -> None:
    cost, possible = case
    rows, columns = assign(cost, possible)
    assert possible[rows, columns].all()
    assert len(rows) == min(cost.shape) - least(np.where(possible, 0.0, 1.0))
    if len(rows):
        assert cost[rows, columns].sum() == least(np.where(possible, cost, 1e4)) % 1e4


def test_no_exchange_pays_in_large_ones() -> None:
    """An assignment is best if no cycle of exchanges lowers the total, nor a chain that ends at a free column."""
    generator = np.random.default_rng(0)
    for rows, columns in ((40, 101), (101, 101)):
        cost = generator.normal(size=(rows, columns))
        row, column = assign(cost)
        exchange = cost[:, column] - cost[row, column][:, None]  # what it costs row i to take the column of row j
        through = exchange.copy()
        for k in range(rows):  # shortest chains of exchanges
            through = np.minimum(through, through[:, k, None] + through[None, k])
        assert np.diagonal(through).min() > -1e-9  # no cycle pays
        free = np.setdiff1d(np.arange(columns), column)
        if len(free):
            last = (cost[:, free] - cost[row, column][:, None]).min(axis=1)
            assert (through + last[None]).min() > -1e-9  # nor does a chain that ends at a column nobody has


def test_costs_that_are_not_finite_come_last() -> None:
    cost = np.array([[np.nan, 5.0], [1.0, np.inf]])
    assert [i.tolist() for i in assign(cost)] == [[0, 1], [1, 0]]
    assert len(assign(np.full((2, 3), np.nan))[0]) == 2


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    assert [len(i) for i in assign(np.zeros(shape))] == [0, 0]


def test_no_objects_no_pairs() -> None:
    match = match_objects(torch.zeros(7, 0), torch.zeros(7, 8, 8), torch.zeros(0, 32, 32, dtype=torch.bool))
    assert match.queries.shape == match.objects.shape == (0,)
    assert match.queries.dtype == torch.int64


def test_costs_are_the_plain_formulas() -> None:
    logits, truth = torch.randn(5, 30), (torch.rand(3, 30) > 0.5).float()
    for q in range(5):
        for n in range(3):
            entropy = F.binary_cross_entropy_with_logits(logits[q], truth[n])
            torch.testing.assert_close(entropy_costs(logits, truth)[q, n], entropy)
            p = logits[q].sigmoid()
            dice = 1 - (2 * (p * truth[n]).sum() + 1) / (p.sum() + truth[n].sum() + 1)
            torch.testing.assert_close(dice_costs(logits, truth)[q, n], dice)


def quadrants() -> torch.Tensor:
    """(4, 32, 32): four objects, a quarter of the picture each."""
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    for i in range(4):
        masks[i, 16 * (i // 2) : 16 * (i // 2) + 16, 16 * (i % 2) : 16 * (i % 2) + 16] = True
    return masks


def test_each_object_gets_the_query_with_its_mask() -> None:
    masks, order = quadrants(), torch.tensor([2, 0, 3, 1])
    logits = torch.full((6, 8, 8), -5.0)
    logits[1:5] = F.avg_pool2d(masks[order].float(), 4) * 10 - 5
    match = match_objects(torch.full((6, 4), 0.25), logits, masks, points=400)
    assert match.objects.tolist() == [0, 1, 2, 3]
    assert match.queries.tolist() == (1 + order.argsort()).tolist()


def test_claims_decide_between_equal_masks() -> None:
    masks = quadrants()[:1].expand(2, -1, -1)
    logits = (F.avg_pool2d(masks[:1].float(), 4) * 10 - 5).expand(2, -1, -1)
    claims = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert match_objects(claims, logits, masks, points=100).queries.tolist() == [1, 0]
    no_claims = MatchWeights(claim=0.0)
    assert match_objects(claims, logits, masks, points=100, weights=no_claims).objects.tolist() == [0, 1]


def test_objects_keep_to_their_own_queries() -> None:
    masks = quadrants()[:2]
    logits = F.avg_pool2d(masks[[1, 1, 0, 0]].float(), 4) * 10 - 5  # the best masks lie with the other one's queries
    allowed = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    match = match_objects(torch.zeros(4, 2), logits, masks, allowed=allowed, points=200)
    assert allowed[match.queries, match.objects].all()
    assert len(match.objects) == 2
    allowed[:, 1] = False
    assert match_objects(torch.zeros(4, 2), logits, masks, allowed=allowed, points=200).objects.tolist() == [0]


def test_the_generator_decides_the_points() -> None:
    logits, masks = torch.randn(20, 8, 8), quadrants()
    drawn = [
        match_objects(torch.rand(20, 4, generator=torch.Generator().manual_seed(1)), logits, masks, points=50,
                      generator=torch.Generator().manual_seed(3)).queries.tolist()
        for _ in range(2)
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
