"""Prompts of one round on a picture, in a JSON file: `read_round`.

    {"format": 1,
     "prompts": [{"type": "point", "x": 148, "y": 170, "positive": false, "object": 1},
                 {"type": "box", "corners": [90, 120, 210, 260]},
                 {"type": "scribble", "points": [[10, 20], [40, 25]], "width": 3, "positive": true},
                 {"type": "polygon", "points": [[10, 20], [40, 25], [60, 9]], "positive": true},
                 {"type": "mask", "path": "cat.png"},
                 {"type": "text", "text": "the black cat"},
                 {"type": "reference", "image": "other.jpg", "mask": "other.png"}]}

Coordinates are pixels of the picture. ``positive`` is true where it is left out, ``object`` is 1, or what a mask file
says. Paths are relative to the file. A field that is not known here is refused, since it may have been meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seem_core.errors import PromptError, VosError
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from vos.images import read_image
from vos.masks import MaskFormat, read_prompt_mask

ROUND_FORMAT = 1
_MOST_BYTES = 64 << 20
_MOST_POINTS = 100_000


def read_round(path: Path, size: tuple[int, int], mask_format: MaskFormat = "auto") -> tuple[Prompt, ...]:
    """The prompts in ``path`` for a picture of ``size`` (H, W). Raises PromptError or MaskError with one sentence."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PromptError(f"{path} has more than {_MOST_BYTES >> 20} MB; a round of prompts is a small JSON file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptError(f"round file {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"round file {path} is not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != ROUND_FORMAT:
        raise PromptError(f'round file {path} does not begin with "format": {ROUND_FORMAT}; see vos segment --help')
    if unknown := sorted(set(value) - {"format", "prompts"}):
        raise PromptError(f"round file {path} has the unknown field {unknown[0]!r}; it holds format and prompts")
    items = value.get("prompts")
    if not isinstance(items, list) or not items:
        raise PromptError(f"round file {path} has no prompts; list at least one")
    prompts: list[Prompt] = []
    for number, item in enumerate(items, 1):
        try:
            prompts += _prompts(_Fields(item), path.parent, size, mask_format)
        except VosError as error:
            raise type(error)(f"prompt {number} of {path}: {error}") from error
    return tuple(prompts)


class _Fields:
    """One JSON object whose fields are taken one by one, so that what is left over is known."""

    def __init__(self, item: Any) -> None:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise PromptError('a prompt is an object with a "type", such as {"type": "point", "x": 148, "y": 170}')
        self._left: dict[str, Any] = dict(item)
        self.type: str = self._left.pop("type")
        self.given_id = self._id()  # None: not given
        self.object_id = 1 if self.given_id is None else self.given_id

    def number(self, name: str, default: float | None = None) -> float:
        value = self._left.pop(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise PromptError(f"a {self.type} needs a number {name!r}, not {json.dumps(value)[:40]}")
        return float(value)

    def words(self, name: str) -> str:
        value = self._left.pop(name, None)
        if not isinstance(value, str):
            raise PromptError(f"a {self.type} needs a text {name!r}, not {json.dumps(value)[:40]}")
        return value

    def positive(self) -> bool:
        value = self._left.pop("positive", True)
        if not isinstance(value, bool):
            raise PromptError(f"'positive' is true or false, not {json.dumps(value)[:40]}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        return _numbers(self._left.pop(name, None), count, f"{name!r} of a {self.type}")

    def points(self, name: str = "points") -> tuple[tuple[float, float], ...]:
        value = self._left.pop(name, None)
        if not isinstance(value, list) or not 0 < len(value) <= _MOST_POINTS:
            raise PromptError(f"a {self.type} needs {name!r}, a list of 1 to {_MOST_POINTS} pairs [x, y]")
        pairs = (_numbers(point, 2, f"a point of a {self.type}") for point in value)
        return tuple((x, y) for x, y in pairs)

    def end(self) -> None:
        """Refuse what nobody took."""
        if self._left:
            raise PromptError(f"a {self.type} has no field {sorted(self._left)[0]!r}")

    def _id(self) -> int | None:
        value = self._left.pop("object", None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise PromptError(f"'object' is a whole number, not {json.dumps(value)[:40]}")
        return value


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    fits = isinstance(value, list) and len(value) == count
    if not fits or any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in value):
        raise PromptError(f"{what} is a list of {count} numbers, not {json.dumps(value)[:40]}")
    return tuple(float(n) for n in value)


def _point(fields: _Fields) -> Prompt:
    return PointPrompt(fields.number("x"), fields.number("y"), fields.positive(), fields.object_id)


def _box(fields: _Fields) -> Prompt:
    x0, y0, x1, y1 = fields.numbers("corners", 4)
    return BoxPrompt(x0, y0, x1, y1, fields.object_id)


def _scribble(fields: _Fields) -> Prompt:
    return ScribblePrompt(fields.points(), fields.number("width", 3.0), fields.positive(), fields.object_id)


def _polygon(fields: _Fields) -> Prompt:
    return PolygonPrompt(fields.points(), fields.positive(), fields.object_id)


def _text(fields: _Fields) -> Prompt:
    return TextPrompt(fields.words("text"), fields.object_id)


_PLAIN: Mapping[str, Callable[[_Fields], Prompt]] = {
    "point": _point,
    "box": _box,
    "scribble": _scribble,
    "polygon": _polygon,
    "text": _text,
}


def _prompts(fields: _Fields, folder: Path, size: tuple[int, int], mask_format: MaskFormat) -> list[Prompt]:
    """What one entry means; a mask file may hold several objects."""
    if fields.type in _PLAIN:
        prompts = [_PLAIN[fields.type](fields)]
    elif fields.type == "mask":
        path = folder / fields.words("path")
        prompts = [*masks_of(path, size, fields.given_id, mask_format)]
    elif fields.type == "reference":
        image, mask = folder / fields.words("image"), folder / fields.words("mask")
        prompts = [*references_of(image, mask, fields.given_id, mask_format)]
    else:
        raise PromptError(f"type {fields.type!r} is unknown; use {', '.join(_PLAIN)}, mask or reference")
    fields.end()
    return prompts


def masks_of(
    path: Path, size: tuple[int, int], object_id: int | None = None, mask_format: MaskFormat = "auto"
) -> tuple[MaskPrompt, ...]:
    """One prompt per object of a mask file, which is known by its own id there.

    object_id: the id of the object, where the file holds a single one.
    """
    found = read_prompt_mask(path, size=size, mask_format=mask_format)
    return tuple(MaskPrompt(found.labels == i, _id(i, len(found.ids), object_id)) for i in found.ids)


def references_of(
    image: Path, mask: Path, object_id: int | None = None, mask_format: MaskFormat = "auto"
) -> tuple[ReferencePrompt, ...]:
    """One prompt per object of another picture's mask file; ids as in `masks_of`."""
    pixels = read_image(image)
    found = read_prompt_mask(mask, size=(pixels.shape[0], pixels.shape[1]), mask_format=mask_format)
    return tuple(ReferencePrompt(pixels, found.labels == i, _id(i, len(found.ids), object_id)) for i in found.ids)


def _id(in_file: int, count: int, wanted: int | None) -> int:
    return wanted if wanted is not None and count == 1 else in_file
