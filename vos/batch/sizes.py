"""Amounts of memory and disk as people write them: ``6G``, ``1.5 GB``."""

from __future__ import annotations

import re

from seem_core.errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


def amount(size: float) -> str:
    """``size`` bytes in words: ``640 B``, ``12 MB``, ``1.5 GB``."""
    for unit, factor in reversed(_UNITS.items()):
        if unit and size >= 0.9995 * factor:
            value = size / factor
            return f"{value:.1f} {_unit(unit)}" if value < 9.95 else f"{value:.0f} {_unit(unit)}"
    return f"{size:.0f} B"


def parse_amount(text: str) -> int:
    """Bytes of ``6G``, ``1.5 GB``, ``512MiB`` or ``1000000``. Raises InputError for anything else, and for nothing."""
    found = _WRITTEN.fullmatch(text.strip())
    size = 0
    if found is not None:
        factor = _UNITS[found[2].upper()]
        if found[3]:
            factor = 1024 ** list(_UNITS).index(found[2].upper())
        size = int(float(found[1]) * factor)
    if size < 1:
        raise InputError(f"{text!r} is no amount of memory or disk; write it like 6G, 1.5GB or 512M")
    return size


def _unit(unit: str) -> str:
    return f"{unit.lower() if unit == 'K' else unit}B"
