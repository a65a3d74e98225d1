"""JSON that people write by hand, read strictly: `load_json`, `parse_json`, and `Fields`, which names wrong places.

A field that nobody knows may have been meant, so it is refused, as are fields given twice and numbers without value.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from seem_core.errors import PromptError
from seem_core.plain_json import check_depth

MOST_BYTES = 256 << 20
MOST_POINTS = 100_000
_MISSING = object()


def load_json(path: Path) -> Any:
    """The value in a JSON file. Raises PromptError, one sentence, where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PromptError(f"prompts {path} cannot be read ({error.strerror or error}); give a JSON file") from error
    if len(data) > MOST_BYTES:
        raise PromptError(f"{path} has more than {MOST_BYTES >> 20} MB; a file of prompts is smaller")
    try:
        return parse_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PromptError(f"prompts {path} is not JSON (it is not text)") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"prompts {path} is not JSON ({error})") from error


def parse_json(text: str) -> Any:
    """The value of one JSON text. Raises ValueError, also for NaN, for fields given twice and for very deep nesting, or
    RecursionError."""
    value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    check_depth(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the field {next(name for name, count in counts.items() if count > 1)!r} is given twice")
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


class Fields:
    """One JSON object whose fields are taken one by one, so that what is left over is known.

    place: as messages name the object, ``p.json: objects[2]``. Every method raises PromptError that begins with one.
    """

    def __init__(self, value: Any, place: str, what: str) -> None:
        self.place, self._what = place, what
        if not isinstance(value, dict):
            raise PromptError(f"{place}: {what} is an object {{...}}, not {shown(value)}")
        self._left: dict[str, Any] = dict(value)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def at(self, name: str) -> str:
        """The place of a field, or of an item: ``at("prompts[0]")``."""
        return f"{self.place}{'' if self.place.endswith(': ') else '.'}{name}"

    def refuse(self, name: str, why: str) -> PromptError:
        return PromptError(f"{self.at(name)}: {why}")

    def take(self, name: str, default: Any = _MISSING) -> Any:
        value = self._left.pop(name, default)
        if value is _MISSING:
            raise PromptError(f"{self.place}: {self._what} needs the field {name!r}")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        value = self.take(name, default)
        if not _is_number(value):
            raise self.refuse(name, f"is a number, not {shown(value)}")
        return float(value)

    def whole(self, name: str, default: Any = _MISSING, least: int = 0) -> int:
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.refuse(name, f"is a whole number from {least} on, not {shown(value)}")
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or not value.strip():
            raise self.refuse(name, f"is a text that is not empty, not {shown(value)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, f"is true or false, not {shown(value)}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        return self._numbers(self.take(name), count, self.at(name))

    def points(self, name: str, least: int = 1) -> tuple[tuple[float, float], ...]:
        """A list of ``least`` or more pairs [x, y]."""
        value = self.items(name, least)
        if len(value) > MOST_POINTS:
            raise self.refuse(name, f"has {len(value)} points, more than {MOST_POINTS}")
        pairs = (self._numbers(point, 2, f"{self.at(name)}[{i}]") for i, point in enumerate(value))
        return tuple((x, y) for x, y in pairs)

    def items(self, name: str, least: int = 0) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) < least:
            wanted = "a list" if least == 0 else f"a list of at least {least}"
            raise self.refuse(name, f"is {wanted}, not {shown(value)}")
        return value

    def end(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            raise PromptError(f"{self.place}: {self._what} has no field {next(iter(self._left))!r}")

    def _numbers(self, value: Any, count: int, place: str) -> tuple[float, ...]:
        if not (isinstance(value, list) and len(value) == count and all(map(_is_number, value))):
            raise PromptError(f"{place}: is a list of {count} numbers, not {shown(value)}")
        return tuple(map(float, value))


def shown(value: Any) -> str:
    """A value as messages hold it: short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_number(value: Any) -> bool:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fits and abs(value) < 1e300 and math.isfinite(value)
