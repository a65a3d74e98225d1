"""The search within a window finds what a search of the whole frame finds there."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from trackers.local_search import LocalSearch, local_search

CPU = torch.device("cpu")


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator), dim=1)


def within(h: int, w: int, radius: float) -> Tensor:
    """(L, L) bool: whether two cells are at most ``radius`` apart."""
    y, x = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 <= radius**2


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 21),
    st.integers(1, 21),
    st.sampled_from([2.0, 2.5, 3.0]),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=40)
def test_the_best_cells_of_every_window_are_found(seed: int, h: int, w: int, radius: float, frames: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, keys = unit(generator, h * w, 8), [unit(generator, h * w, 8) for _ in range(frames)]
    rows = torch.randint(0, h * w, (int(torch.randint(0, h * w + 1, (), generator=generator)),), generator=generator)
    found = LocalSearch(h, w, radius, CPU, torch.float32).nearest(query, rows, keys, 2)
    assert len(found) == frames
    near = within(h, w, radius)[rows]
    for index, of_frame in zip(found, keys, strict=True):
        assert index.shape == (len(rows), 2)
        affinity = query[rows] @ of_frame.T
        wanted = affinity.masked_fill(~near, -9.0).topk(min(2, h * w), 1).values
        there = (wanted > -9).sum(1)  # a window may hold fewer
        got = affinity.gather(1, index)
        for n in range(len(rows)):
            count = int(there[n])
            torch.testing.assert_close(got[n].sort(descending=True).values[:count], wanted[n, :count])
            assert near[n][index[n]].sum() >= count


def test_the_window_is_a_circle() -> None:
    """The one cell that looks alike is found at a distance of 3, not at one of 3.2."""
    h, w = 9, 11
    query = torch.tensor([[1.0, 0.0]]).expand(h * w, 2)
    for (y, x), inside in {(4, 8): True, (7, 5): True, (7, 6): False, (6, 7): True, (8, 5): False}.items():
        keys = torch.tensor([[0.0, 1.0]]).repeat(h * w, 1)
        keys[y * w + x] = torch.tensor([1.0, 0.0])
        (found,) = LocalSearch(h, w, 3.0, CPU, torch.float32).nearest(query, torch.tensor([4 * w + 5]), [keys], 1)
        assert (int(found) == y * w + x) == inside


def test_usual_sizes_lose_next_to_nothing() -> None:
    """Where candidates are grouped, the best is always found and the fourth nearly always."""
    h, w, radius = 40, 72, 9.0
    generator = torch.Generator().manual_seed(0)
    maps = F.avg_pool2d(torch.randn(2, 16, h + 4, w + 4, generator=generator), 5, 1)  # neighbours look alike
    query, keys = (F.normalize(m.flatten(1).T, dim=1) for m in maps)
    rows = torch.arange(h * w)
    (found,) = local_search(h, w, radius, CPU, torch.float32).nearest(query, rows, [keys], 4)
    affinity = (query @ keys.T).masked_fill(~within(h, w, radius), -9.0)
    wanted = affinity.topk(4, 1).values
    got = affinity.gather(1, found).sort(1, descending=True).values
    torch.testing.assert_close(got[:, 0], wanted[:, 0])
    assert (got[:, 3] >= wanted[:, 3] - 1e-5).float().mean() > 0.95
    assert local_search(h, w, radius, CPU, torch.float32) is local_search(h, w, radius, CPU, torch.float32)
