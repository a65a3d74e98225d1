"""Others' text for a terminal or a page: `printable` shows what would be obeyed, or not be seen, as codes."""

from __future__ import annotations

import unicodedata

# Controls (among them the escape that terminals obey), invisible marks that reorder or join text, line separators,
# halves of pairs (bytes of a file name that is no text), and unassigned or private characters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


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
