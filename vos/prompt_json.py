"""Our own JSON format of prompts over time, read; docs/prompts.md describes it, prompts.schema.json defines it.

{"version": 1,
 "objects": [{"id": 1, "name": "cat",
              "prompts": [{"frame": 0, "mask": "cat.png"},
                          {"frame": 40, "point": [148, 170], "positive": false},
                          {"seconds": 9.5, "forget": true}]}]}
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seem_core.coco_masks import decode_rle
from seem_core.errors import MaskError, PromptError, VideoError, VosError
from seem_core.prompts import (
    MAX_OBJECT_ID,
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from trackers.base import Image
from vos.json_fields import Fields, shown
from vos.masks import MaskFormat, PromptMask, read_prompt_mask
from vos.picture_limit import open_picture
from vos.prompt_sources import one_object, read_picture
from vos.prompts import Forget, Origin, Seconds, TimedPrompt, When, at_place

VERSION = 1
KINDS = ("mask", "point", "box", "scribble", "polygon", "text", "reference", "forget")
Mask: TypeAlias = npt.NDArray[np.bool_]
Size: TypeAlias = tuple[int, int]  # (H, W)


class Numbering:
    """Ids for objects that files know by words; the same words mean the same object in every file of a run."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, int] = {}

    def of(self, words: Hashable) -> int:
        """The object's id; a new one is the smallest that is free."""
        if words not in self._ids:
            taken = set(self._ids.values())
            self._ids[words] = next(i for i in range(1, MAX_OBJECT_ID + 2) if i not in taken)
        return self._ids[words]

    def reserve(self, object_id: int, name: str | None = None) -> None:
        """Objects of files with ids of their own; words that name one of them mean it."""
        self._ids.setdefault(name if name is not None else ("id", object_id), object_id)


@dataclass
class Reading:
    """What reading one file gathers, whatever its format.

    place         how messages name the file: ``p.json: `` and the places in it follow
    path          the file; paths in it are relative to its folder
    size          (H, W) of the frames that the prompts are for
    timeless      the prompts are for a single picture
    frame_called  name of an image file -> number of the frame that it shows, None where that is not known
    numbering     ids of objects that files name by words
    """

    place: str
    path: Path
    size: Size
    mask_format: MaskFormat = "auto"
    timeless: bool = False
    frame_called: Callable[[str], int | None] = lambda name: None
    numbering: Numbering = field(default_factory=Numbering)
    prompts: list[TimedPrompt] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)  # path -> mask or reference
    warnings: list[str] = field(default_factory=list)
    video: Path | None = None
    _masks: dict[tuple[Path, Size], PromptMask] = field(default_factory=dict)
    _pictures: dict[tuple[Path, When], tuple[Image, int | None]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def mask_file(self, path: Path, size: Size) -> PromptMask:
        """A mask file, read once however many objects lie in it."""
        if (path, size) not in self._masks:
            self._masks[path, size] = found = read_prompt_mask(path, size=size, mask_format=self.mask_format)
            self.files.setdefault(path, "mask")
            self.warnings += found.warnings
        return self._masks[path, size]

    def picture(self, path: Path, shown: When) -> tuple[Image, int | None]:
        """An image, or a frame of a video and its number, read once however many objects it shows."""
        if (path, shown) not in self._pictures:
            self.files.setdefault(path, "reference")
            self._pictures[path, shown] = read_picture(path, shown)
        return self._pictures[path, shown]


def read_document(value: Any, reading: Reading) -> None:
    """Read a document of this format into ``reading``. Raises VosError, one sentence that begins with the place."""
    top = Fields(value, reading.place, "a file of prompts")
    version = top.take("version")
    if version != VERSION or isinstance(version, bool):
        raise top.refuse("version", f"this program reads version {VERSION}, not {shown(version)}; update seem-vos")
    if "video" in top:
        reading.video = reading.folder / top.text("video")
    for i, item in enumerate(top.items("objects")):
        _read_object(Fields(item, top.at(f"objects[{i}]"), "an object"), reading)
    top.end()


def _read_object(fields: Fields, reading: Reading) -> None:
    object_id = fields.whole("id", least=1)
    if object_id > MAX_OBJECT_ID:
        raise fields.refuse("id", f"is a whole number from 1 to {MAX_OBJECT_ID}, not {object_id}")
    if "name" in fields:
        reading.names[object_id] = fields.text("name")
    reading.numbering.reserve(object_id, reading.names.get(object_id))
    for i, item in enumerate(fields.items("prompts", 1)):
        _read_prompt(Fields(item, fields.at(f"prompts[{i}]"), "a prompt"), object_id, reading)
    fields.end()


def _read_prompt(fields: Fields, object_id: int, reading: Reading) -> None:
    kinds = [kind for kind in KINDS if kind in fields]
    if len(kinds) != 1:
        given = f"not {' and '.join(kinds)} together" if kinds else "it has none"
        raise PromptError(f"{fields.place}: a prompt has one of {', '.join(KINDS)}; {given}")
    place = fields.at(kinds[0])
    when = _when(fields, reading)
    try:
        prompt, origin = _READ[kinds[0]](fields, object_id, reading)
    except VosError as error:
        raise at_place(error, place) from error
    fields.end()
    reading.prompts.append(TimedPrompt(prompt, when, Origin(place, origin.picture, origin.frame)))


def _when(fields: Fields, reading: Reading) -> When:
    given = [name for name in ("frame", "seconds") if name in fields]
    if reading.timeless and (given or "forget" in fields):
        raise PromptError(f"{fields.place}: a picture has no frames; leave out {(*given, 'forget')[0]!r}")
    if len(given) == 2:
        raise PromptError(f"{fields.place}: give 'frame' or 'seconds', not both")
    return _moment(fields)


def _moment(fields: Fields) -> When:
    if "frame" in fields:
        return fields.whole("frame")
    if "seconds" not in fields:
        return None
    seconds = fields.number("seconds")
    if seconds < 0:
        raise fields.refuse("seconds", f"is a number from 0 on, not {seconds:g}")
    return Seconds(seconds)


_Read: TypeAlias = "tuple[Prompt | Forget, Origin]"
_NOWHERE = Origin()


def _point(fields: Fields, object_id: int, reading: Reading) -> _Read:
    x, y = fields.numbers("point", 2)
    return PointPrompt(x, y, fields.flag("positive", True), object_id), _NOWHERE


def _box(fields: Fields, object_id: int, reading: Reading) -> _Read:
    x0, y0, x1, y1 = fields.numbers("box", 4)
    return BoxPrompt(x0, y0, x1, y1, object_id), _NOWHERE


def _scribble(fields: Fields, object_id: int, reading: Reading) -> _Read:
    points, width = fields.points("scribble"), fields.number("width", 3.0)
    if width <= 0:
        raise fields.refuse("width", f"is a number of pixels above 0, not {width:g}")
    return ScribblePrompt(points, width, fields.flag("positive", True), object_id), _NOWHERE


def _polygon(fields: Fields, object_id: int, reading: Reading) -> _Read:
    return PolygonPrompt(fields.points("polygon", 3), fields.flag("positive", True), object_id), _NOWHERE


def _text(fields: Fields, object_id: int, reading: Reading) -> _Read:
    return TextPrompt(fields.text("text"), object_id), _NOWHERE


def _forget(fields: Fields, object_id: int, reading: Reading) -> _Read:
    if not fields.flag("forget", True):
        raise fields.refuse("forget", "is true, or left out")
    return Forget(object_id), _NOWHERE


def _mask(fields: Fields, object_id: int, reading: Reading) -> _Read:
    return MaskPrompt(_read_mask(fields, object_id, reading, reading.size), object_id), _NOWHERE


def _reference(fields: Fields, object_id: int, reading: Reading) -> _Read:
    inner = Fields(fields.take("reference"), fields.at("reference"), "a reference")
    pixels, origin = _read_shown(inner, reading)
    mask = _read_mask(inner, object_id, reading, (pixels.shape[0], pixels.shape[1]))
    inner.end()
    return ReferencePrompt(pixels, mask, object_id), origin


_READ: Mapping[str, Callable[[Fields, int, Reading], _Read]] = {
    "mask": _mask, "point": _point, "box": _box, "scribble": _scribble, "polygon": _polygon, "text": _text,
    "reference": _reference, "forget": _forget,
}  # fmt: skip


def _read_mask(fields: Fields, object_id: int, reading: Reading, size: Size) -> Mask:
    """``"mask"``: a path, a path and a value in that file, or run lengths."""
    place, value = fields.at("mask"), fields.take("mask")
    try:
        mask = _mask_of(value, place, object_id, reading, size)
        if not mask.any():
            raise MaskError("the mask is empty; mark at least one pixel of the object")
        return mask
    except VosError as error:
        raise at_place(error, place) from error


def _mask_of(value: Any, place: str, object_id: int, reading: Reading, size: Size) -> Mask:
    if isinstance(value, str):
        path = reading.folder / value
        return one_object(reading.mask_file(path, size), path, object_id)
    inner = Fields(value, place, "a mask")
    if "path" in inner:
        path, wanted = reading.folder / inner.text("path"), inner.whole("value", least=1) if "value" in inner else None
        inner.end()
        return one_object(reading.mask_file(path, size), path, object_id, wanted)
    height, width = inner.numbers("size", 2)
    counts = inner.take("counts")
    inner.end()
    if (height, width) != size:
        raise MaskError(f"the mask is {width:g}x{height:g} (size is [height, width]), the picture {size[1]}x{size[0]}")
    if not isinstance(counts, str) and not (isinstance(counts, list) and all(type(run) is int for run in counts)):
        raise MaskError(f"counts is a text or a list of whole numbers, not {shown(counts)}")
    return decode_rle(size, counts)


def _read_shown(fields: Fields, reading: Reading) -> tuple[Image, Origin]:
    """The picture of a reference: ``image`` (a path, or the PNG itself), or ``video`` with ``frame`` or ``seconds``."""
    if "image" in fields:
        place, value = fields.at("image"), fields.take("image")
        if isinstance(value, dict):
            inner = Fields(value, place, "an image")
            png = inner.text("png")
            inner.end()
            return _decode_png(png, place), _NOWHERE
        if not isinstance(value, str) or not value:
            raise PromptError(f'{place}: is a path, or the picture as {{"png": BASE64}}, not {shown(value)}')
        path, moment = reading.folder / value, None
    else:
        place = fields.at("video") if "video" in fields else fields.place
        if "video" not in fields:
            raise PromptError(f"{place}: a reference needs the field 'image' or 'video'")
        path = reading.folder / fields.text("video")
        if "frame" in fields and "seconds" in fields:
            raise PromptError(f"{fields.place}: give 'frame' or 'seconds', not both")
        moment = _moment(fields) or 0
    try:
        pixels, frame = reading.picture(path, moment)
    except VosError as error:
        raise at_place(error, place) from error
    return pixels, Origin(picture=path, frame=frame)


def _decode_png(text: str, place: str) -> Image:
    try:
        with open_picture(io.BytesIO(base64.b64decode(text, validate=True)), place, VideoError) as picture:
            return np.array(picture.convert("RGB"))
    except VideoError:
        raise
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise VideoError(f"{place}: is not a PNG picture in base64 ({error})") from error
