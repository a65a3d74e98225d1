"""Masks within rounding of zero: which of two runs of the same network is right about them cannot be said.

A query may look at a cell if its mask logit there is not negative. Where the logit is smaller than the tolerance of
mask logits, two correct implementations may decide differently, and everything after that layer differs visibly
(WEIGHT_FILL §6). `Ties` records such cells while the decoder runs, and can decide chosen ones the other way, so that a
parity test can show that a difference is due to *these* cells and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest.mock import patch

from seem_fixtures import MASK_LOGIT_ATOL
from torch import Tensor

from seem_core.mask_heads import MaskHeads


class Tie(NamedTuple):
    """One cell: the how manieth mask of the run, batch item, query, row, column."""

    call: int
    item: int
    query: int
    row: int
    column: int


@dataclass
class Ties:
    """Cells decided the other way (`flipped`), and those of the last run that might be (`near`, with their logits)."""

    flipped: set[Tie] = field(default_factory=set)
    near: dict[Tie, float] = field(default_factory=dict)
    calls: int = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Everything decoded inside is recorded, from call 0."""
        self.near, self.calls = {}, 0
        original = MaskHeads.level_logits

        def level_logits(heads: MaskHeads, embeddings: Tensor, level: int) -> Tensor:
            return self._decide(original(heads, embeddings, level).clone())

        with patch.object(MaskHeads, "level_logits", level_logits):
            yield

    def _decide(self, logits: Tensor) -> Tensor:
        """(B, Q, h, w) logits, those of flipped cells with the other sign."""
        for place in (logits.abs() < MASK_LOGIT_ATOL).nonzero().tolist():
            tie = Tie(self.calls, *place)
            self.near[tie] = float(logits[tuple(place)])
            if tie in self.flipped:
                logits[tuple(place)] = -1.0 if logits[tuple(place)] >= 0 else 1.0
        self.calls += 1
        return logits

    def candidates(self, limit: int) -> list[Tie]:
        """Undecided cells, nearest to zero first."""
        return sorted(self.near.keys() - self.flipped, key=lambda tie: abs(self.near[tie]))[:limit]
