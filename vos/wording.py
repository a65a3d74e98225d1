"""Text as messages hold it: lists short, however long they are, and names without what a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable

from seem_core.printable import printable

__all__ = ["printable", "ranges", "some"]


def some(values: Iterable[object], most: int = 8) -> str:
    """The first values: ``1, 2, 3, ... (40 in all)``."""
    words = [str(value) for value in values]
    return ", ".join(words[:most]) + (f", ... ({len(words)} in all)" if len(words) > most else "")


def ranges(indices: tuple[int, ...]) -> str:
    """Increasing indices as a person writes them: ``3, 7-9``; the first eight groups."""
    groups: list[list[int]] = []
    for index in indices:
        if groups and groups[-1][-1] == index - 1:
            groups[-1][1:] = [index]
        else:
            groups.append([index])
    texts = ["-".join(map(str, group)) for group in groups[:8]]
    return ", ".join(texts) + (", ..." if len(groups) > 8 else "")
