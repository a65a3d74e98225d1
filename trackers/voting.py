"""Voting: the cells of remembered entries that have a say in a cell of a frame, and what they say.

Cells of all entries are numbered one after the other, coarse cells from 0 to M - 1, fine cells from 0 to 4 M - 1 (see
`trackers.quadtree`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trackers.entries import Entry

NEVER = -4.0  # less than any cosine
ENOUGH = 64  # candidates for each of those that are wanted


@dataclass(frozen=True, eq=False)
class Pick:
    """Cells of one entry for each of R cells of this frame. index: (R, k). counts: (R, k), False where a cell has no
    vote, None where all have one."""

    entry: int
    index: Tensor
    counts: Tensor | None = None

    def at(self, rows: Tensor) -> Pick:
        return Pick(self.entry, self.index[rows], None if self.counts is None else self.counts[rows])

    def touches(self, carries: Tensor) -> Tensor:
        """(R,) whether any cell with a vote carries an object. carries: (L,) of the entry."""
        there = carries[self.index]
        return (there if self.counts is None else there & self.counts).any(1)


@dataclass(frozen=True, eq=False)
class Voters:
    """The values of some entries one after the other, M coarse cells in all.

    starts: first coarse cell of each entry. values: (N V, 4 M, 4), V versions of each object's mask. known: (N V, M), 0
    where nothing is known of an object, or None if every cell speaks of every object.
    """

    entries: tuple[Entry, ...]
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    values: Tensor
    known: Tensor | None

    @staticmethod
    def of(entries: tuple[Entry, ...], ids: tuple[int, ...], versions: int = 1) -> Voters:
        """versions: how many of each mask are read; where an entry holds fewer, its first stands for the others."""
        starts = tuple(sum(e.cells for e in entries[:n]) for n in range(len(entries)))
        device = entries[0].keys[0].device
        nothing = torch.zeros(4 * max(e.cells for e in entries), 4, dtype=torch.float16, device=device)
        of_ids = [[e.values.get(i, nothing[: 4 * e.cells]) for e in entries] for i in ids]
        values = torch.stack([torch.cat([_version(v, n) for v in own]) for own in of_ids for n in range(versions)])
        known = None
        if any(i in e.known or i not in e.values for e in entries for i in ids):
            known = torch.stack([torch.cat([_known(e, i) for e in entries]) for i in ids])
            known = known.repeat_interleave(versions, 0)
        return Voters(entries, ids, starts, values, known)

    def objects(self) -> list[Tensor]:
        """Per entry (L,) bool: the coarse cells that carry any object."""
        carries = (self.values.amax((0, 2)) > 0).view(-1, 4).any(1)  # (M,)
        return list(torch.split(carries, [e.cells for e in self.entries]))

    def missed(self) -> list[tuple[int, Tensor]]:
        """Entries with an object that the newest entry does not show, with (L,) bool: the cells that carry such."""
        last = self.entries[-1]
        missing = [n for n, i in enumerate(self.ids) if i not in last.values or not (last.values[i] > 0).any()]
        if not missing:
            return []
        values = self.values.view(len(self.ids), -1, *self.values.shape[1:])[missing]
        carries = (values.amax((0, 1, 3)) > 0).view(-1, 4).any(1)  # (M,)
        found = enumerate(torch.split(carries, [e.cells for e in self.entries]))
        return [(e, cells) for e, cells in found if cells.any()]

    def votes(self, weights: Tensor, voters: Tensor) -> list[Tensor]:
        """Per entry (L,) the sum of the weights that its cells had; weights, voters (fine cells): (R, 4, K)."""
        total = torch.zeros(sum(e.cells for e in self.entries), device=weights.device)
        total.index_add_(0, (voters // 4).flatten(), weights.flatten())
        return list(torch.split(total, [e.cells for e in self.entries]))

    def labels(self, weights: Tensor, voters: Tensor) -> Tensor:
        """(N, ...) labels by weighted vote of fine cells; weights, voters: (..., K)."""
        return self._voted(self.values.float().mean(2), weights, voters, 4)

    def labels_finest(self, weights: Tensor, voters: Tensor) -> Tensor:
        return self._voted(self.values.flatten(1), weights, voters, 16)

    def _voted(self, values: Tensor, weights: Tensor, voters: Tensor, per_cell: int) -> Tensor:
        flat = voters.flatten()
        masks = torch.stack([(weights * v.index_select(0, flat).view(voters.shape)).sum(-1) for v in values])
        if self.known is None:
            return masks
        cell = voters // per_cell
        seen = torch.stack([(weights * k[cell]).sum(-1) for k in self.known])
        return masks / seen.clamp(min=1e-6)


def _version(value: Tensor, n: int) -> Tensor:
    """(4 L, 4) of the n-th version of a mask in (4 L, 4 V)."""
    return value[:, 4 * n : 4 * n + 4] if value.shape[1] > 4 * n else value[:, :4]


def _known(entry: Entry, object_id: int) -> Tensor:
    """(L,) 1 where a cell knows an object, else 0."""
    if object_id in entry.known:
        return entry.known[object_id].float()
    return torch.full((entry.cells,), float(object_id in entry.values), device=entry.keys[0].device)


def most_alike(affinity: Tensor, k: int) -> Tensor:
    """Indices (R, k) of the largest of (R, L) affinities, L a multiple of four.

    Where there are many candidates, they are compared in two or four groups that lie a part of the frame apart, and
    only the best of each group goes on: a search among fewer that loses next to nothing. With fewer than `ENOUGH` for
    each of the k, PyTorch sorts in another way that takes longer than the grouping saves.
    """
    parts = next((n for n in (4, 2) if affinity.shape[1] // n >= ENOUGH * k), 1)
    if parts == 1:
        return affinity.topk(min(k, affinity.shape[1]), dim=1, sorted=False).indices
    groups = affinity.view(len(affinity), parts, affinity.shape[1] // parts)  # R may be 0
    best = groups[:, 0]
    for part in range(1, parts):
        best = torch.maximum(best, groups[:, part])
    found = best.topk(k, dim=1, sorted=False)
    members = groups.gather(2, found.indices[:, None].expand(-1, parts, -1))  # (R, parts, k)
    before = (members == found.values[:, None]).cumsum(1) == 0  # those before the first that is the largest
    return before.sum(1) * groups.shape[2] + found.indices


def positions(flags: Tensor, multiple: int = 128) -> Tensor:
    """Where ``flags`` (M,) is True; if anywhere, the first position is repeated until there are a ``multiple`` of them.

    Matrix kernels are compiled and cached for every size they meet: with few sizes, memory stays flat over a video.
    """
    found = flags.nonzero()[:, 0]
    return torch.cat([found, found[:1].expand(-len(found) % multiple)]) if len(found) else found


def strongest(affinity: Tensor, voters: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax weights and voters of the ``k`` largest affinities. affinity: (R, 4, M), voters: (R, M)."""
    best = affinity.topk(min(k, affinity.shape[2]), dim=2, sorted=False)
    weights = (best.values.float() / temperature).softmax(2)
    return weights, voters[:, None].expand(-1, affinity.shape[1], -1).gather(2, best.indices)


def gather_entries(tensors: list[Tensor], index: Tensor) -> Tensor:
    """Rows ``index`` of the concatenation of ``tensors`` ((M_e, C) each), without concatenating them."""
    flat, start = index.flatten(), 0
    out = tensors[0].new_empty(len(flat), tensors[0].shape[1])
    for tensor in tensors:
        here = ((flat >= start) & (flat < start + len(tensor))).nonzero()[:, 0]
        out.index_copy_(0, here, tensor.index_select(0, flat.index_select(0, here) - start))
        start += len(tensor)
    return out
