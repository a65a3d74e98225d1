"""Plain text tables: aligned columns, names to the left and figures to the right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> Iterator[str]:
    """Lines of a table; the first ``names`` columns are aligned to the left."""
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]
    for row in (head, *rows):
        cells = [
            text.ljust(w) if c < names else text.rjust(w) for c, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def figure(value: float | None) -> str:
    """Three decimals; a dash for what is not a number."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
