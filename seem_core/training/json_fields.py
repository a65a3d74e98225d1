"""Frozen dataclasses from JSON, field by field: whatever is unknown or of another type is named.

A configuration is written by hand, so that a misspelt field must not be taken for a default. Supported are bool, int,
float, str, `Path`, `Literal`, tuples of one type or of fixed length, dataclasses, and unions of these with None.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

from seem_core.errors import InputError

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError where there is none or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"configuration {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); mend it at that place") from error


def parse_fields(kind: type[T], values: Any, where: str, base: Path | None = None) -> T:
    """An instance of the dataclass `kind` from the JSON object `values`.

    where: how messages call it. base: folder that relative paths start from; None leaves them as they are.
    Raises InputError for an unknown or missing field and for a value of another type.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be an object of fields, not {_shown(values)}")
    hints = typing.get_type_hints(kind)
    known = [field for field in fields(cast(Any, kind)) if field.init]
    names = [field.name for field in known]
    for name in values:
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(names)}"
            raise InputError(f"{where} has an unknown field {name!r}; {hint}")
    missing = [f.name for f in known if f.name not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise InputError(f"{where} lacks the field {missing[0]!r}; add it")
    found = {name: parse_value(hints[name], value, f"{where}: {name}", base) for name, value in values.items()}
    return kind(**found)


def parse_value(hint: Any, value: Any, where: str, base: Path | None = None) -> Any:
    """`value` from JSON as the type `hint`. Raises InputError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return parse_value(inner, value, where, base)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} is one of {', '.join(map(str, arguments))}, not {_shown(value)}")
        return value
    if origin is tuple:
        return _parse_tuple(arguments, value, where, base)
    if is_dataclass(hint):
        return parse_fields(cast(Any, hint), value, where, base)
    if hint is Path and isinstance(value, str) and value:
        path = Path(value).expanduser()
        return path if base is None else base / path
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise InputError(f"{where} must be {_type_name(hint)}, not {_shown(value)}")


def _parse_tuple(arguments: tuple[Any, ...], value: Any, where: str, base: Path | None) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} must be a list, not {_shown(value)}")
    each = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(each) != len(value):
        raise InputError(f"{where} has {len(each)} entries, not {len(value)}")
    return tuple(
        parse_value(hint, item, f"{where}[{i}]", base) for i, (hint, item) in enumerate(zip(each, value, strict=True))
    )


def _type_name(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint, str(hint))


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
