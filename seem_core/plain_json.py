"""JSON that a program wrote, read back as data that may be damaged or hostile, and its values in messages.

A reader of the result catches ValueError, KeyError, TypeError and OverflowError; nothing else comes up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 256 << 20
MOST_DEPTH = 100
_TOO_DEEP = f"it is nested more than {MOST_DEPTH} deep"


def parse_json(text: str | bytes, *, any_float: bool = False) -> Any:
    """The value that ``text`` says. Raises ValueError where it is no JSON, is nested more than `MOST_DEPTH` deep, or
    holds NaN or an infinity, unless ``any_float``."""
    try:
        value = json.loads(text, parse_constant=None if any_float else _no_number)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    check_depth(value)
    return value


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value in a file. Raises OSError where it cannot be read, ValueError as `parse_json` or for a larger file."""
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes >> 20} MB")
    return parse_json(data)


def brief(value: object) -> str:
    """A value of a file as messages show it: quoted, and not longer than a part of a sentence."""
    return in_a_line(repr(value), 60)


def in_a_line(text: object, most: int = 300) -> str:
    """What a library says as a part of a sentence: without line breaks, at most ``most`` characters."""
    words = " ".join(str(text).split())
    return words if len(words) <= most else f"{words[: most - 3]}..."


def check_depth(value: Any) -> None:
    """Raises ValueError for more than `MOST_DEPTH` lists and objects in one another. Level by level: no recursion."""
    level = [value] if isinstance(value, (list, dict)) else []
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (list, dict))
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
