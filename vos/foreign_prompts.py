"""Prompts as annotation tools write them: DAVIS interactive scribbles and labelme files (COCO has a file of its own).

DAVIS: ``scribbles`` is a list per frame of strokes; a stroke has ``object_id`` and ``path``, points as fractions of the
width and height less one pixel; object 0 is the background, that is, what no object is.
labelme: ``shapes`` have ``label``, ``group_id``, ``shape_type`` and ``points`` in pixels from the image's corner.

Fields that are not needed are passed over, as those tools add some from version to version.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import MAX_OBJECT_ID, BoxPrompt, MaskPrompt, PointPrompt, Prompt, ScribblePrompt
from vos.areas import Mask, Points, Scaling, fill_polygons
from vos.json_fields import Fields, shown
from vos.picture_limit import open_picture
from vos.prompt_json import Reading
from vos.prompts import Origin, TimedPrompt, When
from vos.wording import some

_AREAS = ("polygon", "rectangle", "circle", "mask", "oriented_rectangle", "rotation")
_MARKS = ("point", "line", "linestrip", "points")
_CIRCLE_CORNERS = 72


@dataclass(frozen=True)
class _Stroke:
    frame: int
    place: str
    points: Points
    object_id: int


def read_davis(value: Any, reading: Reading) -> None:
    """Read DAVIS interactive scribbles. Raises PromptError."""
    top = Fields(value, reading.place, "a file of DAVIS scribbles")
    strokes = []
    for frame, lines in enumerate(top.items("scribbles")):
        place = top.at(f"scribbles[{frame}]")
        if not isinstance(lines, list):
            raise PromptError(f"{place}: is a list of strokes, not {shown(lines)}")
        strokes += [_stroke(frame, Fields(line, f"{place}[{i}]", "a stroke"), reading) for i, line in enumerate(lines)]
    first: dict[int, int] = {}  # object -> the first frame it is drawn on
    for stroke in strokes:
        if stroke.object_id:
            first.setdefault(stroke.object_id, stroke.frame)
    if not first:
        raise PromptError(f"{top.at('scribbles')}: no stroke lies on an object; draw at least one")
    frames = sorted({stroke.frame for stroke in strokes})
    if reading.timeless and len(frames) > 1:
        raise PromptError(f"{top.at('scribbles')}: strokes lie on frames {some(frames)}, but a picture has no frames")
    for stroke in strokes:
        ids = [stroke.object_id] if stroke.object_id else [i for i, begun in first.items() if begun <= stroke.frame]
        when = None if reading.timeless else stroke.frame
        for object_id in ids:
            prompt = ScribblePrompt(stroke.points, positive=stroke.object_id > 0, object_id=object_id)
            reading.prompts.append(TimedPrompt(prompt, when, Origin(stroke.place)))
    reading.warnings.append(
        f"{reading.path.name} was read as DAVIS scribbles: objects {some(sorted(first))} on frames {some(frames)}"
    )


def _stroke(frame: int, fields: Fields, reading: Reading) -> _Stroke:
    path, object_id = fields.points("path"), fields.whole("object_id")
    if object_id > MAX_OBJECT_ID:
        raise fields.refuse("object_id", f"is a whole number up to {MAX_OBJECT_ID}, not {object_id}")
    if any(not 0 <= v <= 1 for point in path for v in point):
        raise fields.refuse("path", "has coordinates outside 0..1; DAVIS scribbles are fractions of width and height")
    h, w = reading.size
    return _Stroke(frame, fields.place, tuple((x * (w - 1), y * (h - 1)) for x, y in path), object_id)


@dataclass(frozen=True)
class _Shape:
    """A labelme shape: what it marks is in ``prompt`` (object id not set yet), an area that is added up in ``area``."""

    label: str
    group: Hashable
    place: str
    prompt: Prompt | None
    area: Mask | None


def read_labelme(value: Any, reading: Reading) -> None:
    """Read a labelme file: areas become masks, rectangles boxes, points and lines marks.

    Shapes of one label are one object, unless they have different group ids, or are several areas without any.
    Labels that are all numbers are object ids. Raises PromptError or MaskError.
    """
    top = Fields(value, reading.place, "a labelme file")
    name = top.take("imagePath", None)
    scaling = Scaling.of(_size(top, reading), reading.size, reading.place)
    shapes = [
        _shape(Fields(item, top.at(f"shapes[{i}]"), "a shape"), scaling)
        for i, item in enumerate(top.items("shapes", 1))
    ]
    frame = reading.frame_called(name) if isinstance(name, str) and not reading.timeless else None
    ids = _ids(shapes, reading)
    for object_id, label in sorted({(i, shape.label) for i, shape in zip(ids, shapes, strict=True)}):
        if not label.isdigit():
            reading.names.setdefault(object_id, label)
    _add(ids, shapes, frame, reading)
    said = ", ".join(
        f"{reading.names[i]} = object {i}" if i in reading.names else f"object {i}" for i in sorted({*ids})
    )
    place = "" if reading.timeless else " on the first tracked frame" if frame is None else f" on frame {frame}"
    reading.warnings.append(f"{reading.path.name} was read as labelme shapes{place}: {said}")


def _add(ids: Sequence[int], shapes: Sequence[_Shape], when: When, reading: Reading) -> None:
    """Prompts in the order of the shapes; all areas of one object are one mask, where the first of them stands."""
    masks: dict[int, Mask] = {}
    for object_id, shape in zip(ids, shapes, strict=True):
        if shape.area is not None:
            masks[object_id] = shape.area | masks[object_id] if object_id in masks else shape.area
    for object_id, shape in zip(ids, shapes, strict=True):
        prompt = shape.prompt
        if shape.area is not None:
            if object_id not in masks:
                continue
            prompt = MaskPrompt(masks.pop(object_id), object_id)
        assert prompt is not None
        reading.prompts.append(TimedPrompt(_with_id(prompt, object_id), when, Origin(shape.place)))


def _with_id(prompt: Prompt, object_id: int) -> Prompt:
    return prompt if prompt.object_id == object_id else replace(prompt, object_id=object_id)


def _ids(shapes: Sequence[_Shape], reading: Reading) -> list[int]:
    if all(shape.label.isdigit() and 1 <= int(shape.label) <= MAX_OBJECT_ID for shape in shapes):
        for shape in shapes:
            reading.numbering.reserve(int(shape.label))
        return [int(shape.label) for shape in shapes]
    alone = Counter(shape.label for shape in shapes if shape.group is None and _is_area(shape))
    ids, seen = [], Counter[str]()
    for shape in shapes:
        words: Hashable = shape.label if shape.group is None else (shape.label, shape.group)
        if shape.group is None and alone[shape.label] > 1:
            if not _is_area(shape):
                what = f"{alone[shape.label]} areas are labelled {shape.label!r}"
                raise PromptError(f"{shape.place}: {what}, and this does not say which one it marks; set group_id")
            seen[shape.label] += 1
            words = (str(reading.path), shape.label, seen[shape.label])
        ids.append(reading.numbering.of(words))
    return ids


def _is_area(shape: _Shape) -> bool:
    return shape.area is not None or isinstance(shape.prompt, BoxPrompt)


def _size(top: Fields, reading: Reading) -> tuple[int, int]:
    """(H, W) of the image that the shapes were drawn on; that of the frames where the file does not say."""
    height, width = top.take("imageHeight", None), top.take("imageWidth", None)
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return reading.size


def _shape(fields: Fields, scaling: Scaling) -> _Shape:
    label, kind = fields.text("label"), fields.take("shape_type", "polygon") or "polygon"
    group = fields.take("group_id", None)
    if not isinstance(group, (int, str, type(None))):
        raise fields.refuse("group_id", f"is a whole number or null, not {shown(group)}")
    if kind not in _AREAS + _MARKS:
        raise fields.refuse("shape_type", f"{shown(kind)} is not known; use {', '.join(_AREAS + _MARKS)}")
    least = {"polygon": 3, "oriented_rectangle": 4, "rotation": 4, "point": 1, "points": 1, "linestrip": 1}.get(kind, 2)
    raw = fields.points("points", least)
    if kind == "mask":
        return _Shape(label, group, fields.place, None, _pasted(fields, raw, scaling))
    if kind == "circle":
        raw = _circle(raw)
    points = scaling.points(raw)
    prompt: Prompt | None = None
    area = None
    if kind == "rectangle":
        xs, ys = zip(*points, strict=True)
        if min(xs) == max(xs) or min(ys) == max(ys):
            raise fields.refuse("points", "the rectangle is empty")
        prompt = BoxPrompt(min(xs), min(ys), max(xs), max(ys))
    elif kind == "point":
        prompt = PointPrompt(*points[0])
    elif kind in _MARKS:
        prompt = ScribblePrompt(points)
    else:
        area = fill_polygons([points], scaling.target)
        if not area.any():
            raise fields.refuse("points", "the area is empty")
    return _Shape(label, group, fields.place, prompt, area)


def _circle(points: Points) -> Points:
    """labelme's circle, a centre and a point on the rim, as a polygon."""
    (cx, cy), (px, py) = points[:2]
    radius = math.hypot(px - cx, py - cy)
    turns = (2 * math.pi * i / _CIRCLE_CORNERS for i in range(_CIRCLE_CORNERS))
    return tuple((cx + radius * math.cos(turn), cy + radius * math.sin(turn)) for turn in turns)


def _pasted(fields: Fields, points: Points, scaling: Scaling) -> Mask:
    """A mask shape: a PNG in base64, laid with its corner on the first point."""
    try:
        data = io.BytesIO(base64.b64decode(fields.text("mask"), validate=True))
        with open_picture(data, f"{fields.at('mask')}: the picture", MaskError) as picture:
            patch = np.asarray(picture.convert("L")) > 0
    except MaskError:
        raise
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise MaskError(f"{fields.at('mask')}: is not a picture in base64 ({error})") from error
    height, width = scaling.source
    x, y = (round(v) for v in points[0])
    whole = np.zeros((height, width), np.bool_)
    top, left = max(0, y), max(0, x)
    part = patch[top - y : height - y, left - x : width - x] if y < height and x < width else patch[:0, :0]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    if not (mask := scaling.mask(whole)).any():
        raise MaskError(f"{fields.at('mask')}: the mask is empty")
    return mask
