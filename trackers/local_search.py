"""The cells of a remembered frame that look most like the cells of this one, within a circular window around each.

Cells are searched in blocks: all cells of a block share one patch of candidates, the block and its surroundings, and a
bias that leaves to each of them what lies in its own window. Compared with all cells of the frame, a fourth of the work
remains for the usual sizes.

L = h w cells of a grid, row by row.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from trackers.voting import NEVER, most_alike

SIDE = 8  # cells of a block, along each axis
ROUND = 4  # blocks are searched in multiples of it: kernels are compiled and cached for every size they meet


class LocalSearch:
    """The search over grids of h x w cells within ``radius``. Use `local_search`, which keeps the last few."""

    def __init__(self, h: int, w: int, radius: float, device: torch.device, dtype: torch.dtype) -> None:
        reach = int(radius)
        self._side = SIDE + 2 * reach  # of a patch
        across = -(-w // SIDE)
        number = torch.arange(-(-h // SIDE) * across)
        top, left = number // across * SIDE, number % across * SIDE  # of each block

        patch = torch.arange(self._side**2)
        y, x = top[:, None] - reach + patch // self._side, left[:, None] - reach + patch % self._side  # (B, P)
        outside = (y < 0) | (y >= h) | (x < 0) | (x >= w)
        self._candidates = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).to(device)

        inner = torch.arange(SIDE * SIDE)
        dy = inner[:, None] // SIDE + reach - patch // self._side  # (SIDE^2, P)
        dx = inner[:, None] % SIDE + reach - patch % self._side
        far = dy**2 + dx**2 > radius**2
        self._bias = ((outside[:, None] | far[None]).to(dtype) * NEVER).to(device)  # (B, SIDE^2, P)

        cell = torch.arange(h * w)
        row, column = cell // w, cell % w
        self._block = (row // SIDE * across + column // SIDE).to(device)  # (L,) of each cell
        self._place = (row % SIDE * SIDE + column % SIDE).to(device)  # (L,) of each cell in its block
        queries = (top[:, None] + inner // SIDE).clamp(max=h - 1) * w + (left[:, None] + inner % SIDE).clamp(max=w - 1)
        self._queries = queries.to(device)  # (B, SIDE^2)

    def nearest(self, query: Tensor, rows: Tensor, keys: list[Tensor], k: int) -> list[Tensor]:
        """For each of some remembered frames, indices (R, k) of the cells most like the cells ``rows`` (R,) of this
        one. query: (L, C) keys of this frame; keys: (L, C) of each remembered one. Where a window holds fewer than k
        cells, others fill up."""
        block = self._block[rows]
        blocks = torch.unique(block)
        blocks = torch.cat([blocks, blocks[:1].expand(-len(blocks) % ROUND)])
        rank = torch.zeros(len(self._queries), dtype=torch.long, device=rows.device)
        rank[blocks] = torch.arange(len(blocks), device=rows.device)
        number = rank[block]  # (R,) of the block, among those that are searched
        at = number * SIDE * SIDE + self._place[rows]
        candidates, bias = self._candidates[blocks].flatten(), self._bias.index_select(0, blocks)
        queries = query.index_select(0, self._queries[blocks].flatten()).view(len(blocks), SIDE * SIDE, query.shape[1])
        first = (number * self._side**2)[:, None]
        found = []
        for of_frame in keys:
            near = of_frame.index_select(0, candidates).view(len(blocks), self._side**2, query.shape[1])
            affinity = torch.baddbmm(bias, queries, near.transpose(1, 2)).flatten(0, 1)
            found.append(candidates[first + most_alike(affinity, k)[at]])
        return found


@lru_cache(maxsize=2)
def local_search(h: int, w: int, radius: float, device: torch.device, dtype: torch.dtype) -> LocalSearch:
    """The search over grids of h x w cells. radius: in cells; dtype: of keys."""
    return LocalSearch(h, w, radius, device, dtype)
