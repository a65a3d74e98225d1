"""Which remembered cells have a say: the search among many, and rows of several entries."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from trackers.voting import ENOUGH, gather_entries, most_alike, positions


@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_few_candidates_are_searched_one_by_one(seed: int, quarter: int, k: int) -> None:
    affinity = torch.rand(5, 4 * quarter, generator=torch.Generator().manual_seed(seed))
    assume(2 * quarter < ENOUGH * k)
    found = most_alike(affinity, k)
    best = affinity.topk(min(k, 4 * quarter), 1).values
    torch.testing.assert_close(affinity.gather(1, found).sort(1, descending=True).values, best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("parts", "candidates"), [(2, 3 * ENOUGH * 2), (4, ENOUGH * 2 * 4 + 8)])
def test_of_many_candidates_the_best_of_every_group_is_found(parts: int, candidates: int, dtype: torch.dtype) -> None:
    affinity = torch.randn(50, candidates, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = most_alike(affinity, 2)
    assert found.shape == (50, 2)
    assert (affinity.gather(1, found).amax(1) == affinity.amax(1)).all()
    best = affinity.view(50, parts, -1).amax(1).topk(2, 1).values
    assert torch.equal(affinity.gather(1, found).sort(1, descending=True).values, best)
    assert (found % (candidates // parts)).unique().numel() > 20


def test_equal_candidates_are_found_where_they_are() -> None:
    affinity = torch.zeros(3, 8 * ENOUGH)
    affinity[:, 5] = affinity[:, 5 + 2 * ENOUGH] = 1
    assert (most_alike(affinity, 1) == 5).all()


def test_no_rows() -> None:
    """Objects that nothing on a frame looks like, and that were not there lately, leave no cell to search for."""
    assert most_alike(torch.zeros(0, 8), 4).shape == (0, 4)
    assert most_alike(torch.zeros(0, 4096), 4).shape == (0, 4)


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.integers(1, 64))
@settings(deadline=None)
def test_positions_come_in_few_sizes(flags: list[bool], multiple: int) -> None:
    found = positions(torch.tensor(flags), multiple).tolist()
    assert sorted(set(found)) == [i for i, flag in enumerate(flags) if flag]
    assert len(found) % multiple == 0
    assert len(found) < sum(flags) + multiple


def test_rows_are_gathered_from_the_right_entry() -> None:
    tensors = [torch.arange(12.0).view(4, 3) + 100 * e for e in range(3)]
    index = torch.tensor([[0, 11], [5, 5]])
    torch.testing.assert_close(gather_entries(tensors, index), torch.cat(tensors)[index.flatten()])
