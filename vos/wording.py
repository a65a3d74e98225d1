"""Text as messages hold it: lists short, however long they are, and names without what a terminal would obey."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Controls (among them the escape that terminals obey), invisible marks that reorder or join text, line separators,
# halves of pairs (bytes of a file name that is no text), and unassigned or private characters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


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


def printable(text: str, keep: str = "") -> str:
    """Text with every character that is not visible shown as its code, ``\\x1b``; those in ``keep`` stay.

    File names and what files say are others' text: printed as they are, they could move the cursor, change what was
    printed before, or turn its order around. Bytes of a file name that are no text are shown as ``\\xff``.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _HIDDEN else _code(c) for c in text)


def _code(character: str) -> str:
    value = ord(character)
    if 0xDC80 <= value <= 0xDCFF:  # how Python holds such a byte (PEP 383)
        value -= 0xDC00
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"
