"""Plain text tables: aligned columns, names to the left and figures to the right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> Iterator[str]:
    """Lines of a table; the first ``names`` columns are aligned to the left."""
    widths = _widths([head, *rows])
    for row in (head, *rows):
        cells = (t.ljust(w) if c < names else t.rjust(w) for c, (t, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cells).rstrip()


def grouped_table(
    name: str, groups: Sequence[str], head: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[str]]]]
) -> Iterator[str]:
    """Lines of a table whose columns ``head`` come once for each of ``groups``, which are named above them.

    A row is its name and, for each group, its cells.
    """
    flat = [[label, *(cell for group in cells for cell in group)] for label, cells in rows]
    titles = [name, *(list(head) * len(groups))]
    widths = _widths([titles, *flat])
    k = len(head)
    spans = [sum(widths[1 + k * g : 1 + k * (g + 1)]) + 2 * (k - 1) for g in range(len(groups))]
    yield "   ".join(
        [" " * widths[0], *(f" {group} ".center(span, "-") for group, span in zip(groups, spans, strict=True))]
    )
    for row in (titles, *flat):
        parts = [
            "  ".join(t.rjust(w) for t, w in zip(row[i : i + k], widths[i : i + k], strict=True))
            for i in range(1, len(row), k)
        ]
        yield "   ".join([row[0].ljust(widths[0]), *parts]).rstrip()


def figure(value: float | None) -> str:
    """Three decimals; a dash for what is not a number."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def elided(text: str, width: int) -> str:
    """Text no longer than ``width``, without its middle where it is longer: names often differ at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 3) // 2
    return f"{text[: width - 3 - tail]}...{text[len(text) - tail :]}"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
