"""Long-term memory: the most used cells of frames that left recent memory, within a fixed number of cells.

How much a cell is used is the sum of its votes per reading, as XMem ranks its prototypes (Cheng and Schwing,
arXiv:2207.07115, 3.3); here cells are kept as they are, not averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trackers.entries import Entry

MULTIPLE = 128  # cells come in multiples of this: kernels are cached for every size they meet
SOURCE = -1  # frame of the entry: of no single one


@dataclass(frozen=True)
class LongTerm:
    """Bounds of the long-term memory.

    cells  kept when it is thinned out; 0 for none
    slack  cells that may come on top before it is thinned out again
    every  one leaving frame in so many gives its cells
    """

    cells: int = 0
    slack: int = 2_000
    every: int = 5

    def __post_init__(self) -> None:
        if self.cells < 0 or self.slack < 0 or self.every < 1:
            raise ValueError(f"long-term memory needs cells >= 0, slack >= 0 and every >= 1, not {self}")

    def absorb(self, store: Entry | None, leaving: Entry) -> Entry | None:
        """``store`` with the cells of ``leaving`` that were used, thinned out where it becomes too large."""
        if leaving.use is None or leaving.frame % self.every:
            return store
        fresh = keep_best(leaving, int((leaving.use[:, 0] > 0).sum()))
        if fresh is None:
            return store
        fresh = replace(fresh, frame=SOURCE, grid=None, tokens={})
        joined = fresh if store is None else _join(store, fresh)
        return keep_best(joined, self.cells) if joined.cells > self.cells + self.slack else joined


def keep_best(entry: Entry, count: int) -> Entry | None:
    """The ``count`` most used cells (rounded down to a multiple of `MULTIPLE`) in their order, or None for no cell."""
    count = min(count, entry.cells) // MULTIPLE * MULTIPLE
    if count == 0 or entry.use is None:
        return None
    rate = entry.use[:, 0] / entry.use[:, 1].clamp(min=1)
    rows = rate.argsort(descending=True, stable=True)[:count].sort().values
    kept = _select(entry, rows)
    return kept if kept.values else None


def _select(entry: Entry, rows: Tensor) -> Entry:
    """Some cells of an entry, with all that belongs to each."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor.view(entry.cells, -1, *tensor.shape[1:])[rows].flatten(0, 1)

    known = {i: k[rows] for i, k in entry.known.items()}
    unknown = {i for i, k in known.items() if not k.any()}
    return replace(
        entry,
        keys=tuple(chosen(k) for k in entry.keys),
        values={i: chosen(v) for i, v in entry.values.items() if i not in unknown},
        known={i: k for i, k in known.items() if i not in unknown and not k.all()},
        use=None if entry.use is None else entry.use[rows],
    )


def _join(a: Entry, b: Entry) -> Entry:
    """Both entries' cells; where an object is unknown to one of them its value is zero and `known` says so."""
    ids = sorted({*a.values, *b.values})
    known = {i: torch.cat([_known(a, i), _known(b, i)]) for i in ids}
    return replace(
        a,
        keys=tuple(torch.cat(pair) for pair in zip(a.keys, b.keys, strict=True)),
        values={i: torch.cat([_value(a, i), _value(b, i)]) for i in ids},
        known={i: k for i, k in known.items() if not k.all()},
        use=torch.cat([u for u in (a.use, b.use) if u is not None]),
    )


def _value(entry: Entry, object_id: int) -> Tensor:
    some = next(iter(entry.values.values()))
    return entry.values.get(object_id, torch.zeros_like(some))


def _known(entry: Entry, object_id: int) -> Tensor:
    if object_id in entry.known:
        return entry.known[object_id]
    flag = object_id in entry.values
    return torch.full((entry.cells,), flag, device=entry.keys[0].device)


def with_use(entry: Entry) -> Entry:
    """The entry with its use counted from zero."""
    return replace(entry, use=torch.zeros(entry.cells, 2, device=entry.keys[0].device))


def used(entry: Entry, votes: Tensor) -> Entry:
    """The entry after one more reading. votes: (L,) what each of its cells had in it."""
    if entry.use is None:
        return entry
    return replace(entry, use=entry.use + torch.stack([votes, torch.ones_like(votes)], 1).to(entry.use))
