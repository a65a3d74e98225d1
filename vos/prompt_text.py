"""Prompts in writing, as on the command line. ``@`` says when, ``#`` says which object.

    148,170          a click on the object          148,170:-       a click beside it ("this is not the object")
    148,170@40#2     object 2, on frame 40          148,170@1.5s    on the frame shown 1.5 seconds into the video
    90,120,210,260   a box x0,y0,x1,y1              cat.png@40      a mask file, on frame 40
    10,20,40,25,60,9 a scribble or a polygon through (10, 20), (40, 25) and (60, 9); with :- what the object is not
    the black cat#2  object 2, in words             2@90            object 2 ends on frame 90
    other.mp4@12     another picture that shows the object: frame 12 of a video

Without ``@`` a prompt applies to the first frame that is tracked; without ``#`` it speaks of object 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from seem_core.errors import PromptError
from seem_core.prompts import BoxPrompt, PointPrompt, PolygonPrompt, ScribblePrompt, TextPrompt
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.prompts import Forget, Seconds, TimedPrompt, When

__all__ = [
    "MaskFile",
    "parse_box",
    "parse_forget",
    "parse_mask",
    "parse_point",
    "parse_polygon",
    "parse_prompts",
    "parse_references",
    "parse_scribble",
    "parse_when",
    "parse_words",
]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WHEN = r"@(?P<when>\d+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?s)"
_ID = r"#(?P<id>\d+)"
_POINT = re.compile(rf"(?P<x>{_NUMBER}),(?P<y>{_NUMBER})(?::(?P<sign>[+-]))?(?:{_WHEN})?(?:{_ID})?")
_BOX = re.compile(rf"(?P<box>{_NUMBER}(?:,{_NUMBER}){{3}})(?:{_WHEN})?(?:{_ID})?")
_POINTS = re.compile(rf"(?P<points>{_NUMBER}(?:,{_NUMBER})*)(?::(?P<sign>[+-]))?(?:{_WHEN})?(?:{_ID})?")
_WORDS = re.compile(rf"(?P<text>.+?)(?:{_WHEN})?(?:{_ID})?", re.DOTALL)
_FORGET = re.compile(rf"#?(?P<id>\d+){_WHEN}")
_MASK_SUFFIX = re.compile(rf"(?P<path>.+?)(?:{_WHEN})?(?:{_ID})?", re.DOTALL)


def parse_prompts(
    *,
    points: Iterable[str] = (),
    boxes: Iterable[str] = (),
    scribbles: Iterable[str] = (),
    polygons: Iterable[str] = (),
    texts: Iterable[str] = (),
    forgets: Iterable[str] = (),
    width: float = 3.0,
) -> tuple[TimedPrompt, ...]:
    """All that options of a command say, kind by kind. width: of the scribbles, in pixels. Raises PromptError."""
    return (
        *map(parse_point, points),
        *map(parse_box, boxes),
        *(parse_scribble(text, width) for text in scribbles),
        *map(parse_polygon, polygons),
        *map(parse_words, texts),
        *map(parse_forget, forgets),
    )


def parse_when(text: str) -> int | Seconds:
    """``40`` is a frame number, ``1.5s`` a moment. Raises PromptError for anything else."""
    match = re.fullmatch(_WHEN, f"@{text}")
    if match is None:
        raise PromptError(f"{text!r} is not a frame number such as 40 or a time such as 1.5s")
    return _when(match) or 0


def parse_point(text: str) -> TimedPrompt:
    """``x,y[:+|-][@FRAME|@SECONDSs][#ID]``. Raises PromptError for anything else."""
    match = _POINT.fullmatch(text.strip())
    if match is None:
        raise PromptError(
            f"{text!r} is not a point; write x,y or x,y:- with an optional @FRAME and #ID, such as 148,170@40#2"
        )
    x, y = float(match["x"]), float(match["y"])
    return TimedPrompt(PointPrompt(x, y, match["sign"] != "-", _object_id(match) or 1), _when(match))


def parse_box(text: str) -> TimedPrompt:
    """``x0,y0,x1,y1[@FRAME|@SECONDSs][#ID]``: two corners, not a size. Raises PromptError for anything else."""
    match = _BOX.fullmatch(text.strip())
    if match is None:
        raise PromptError(
            f"{text!r} is not a box; write x0,y0,x1,y1 with an optional @FRAME and #ID, such as 90,120,210,260@40#2"
        )
    x0, y0, x1, y1 = (float(number) for number in match["box"].split(","))
    return TimedPrompt(BoxPrompt(x0, y0, x1, y1, _object_id(match) or 1), _when(match))


def parse_scribble(text: str, width: float = 3.0) -> TimedPrompt:
    """``x,y,x,y,...[:+|-][@FRAME|@SECONDSs][#ID]``: a stroke, ``width`` pixels wide. Raises PromptError."""
    points, match = _points(text, "scribble")
    return TimedPrompt(ScribblePrompt(points, width, match["sign"] != "-", _object_id(match) or 1), _when(match))


def parse_polygon(text: str) -> TimedPrompt:
    """``x,y,x,y,x,y,...[:+|-][@FRAME|@SECONDSs][#ID]``: an area by its corners. Raises PromptError."""
    points, match = _points(text, "polygon")
    return TimedPrompt(PolygonPrompt(points, match["sign"] != "-", _object_id(match) or 1), _when(match))


def parse_words(text: str) -> TimedPrompt:
    """``WORDS[@FRAME|@SECONDSs][#ID]``. Raises PromptError where there are no words."""
    match = _WORDS.fullmatch(text)
    if match is None:
        raise PromptError("a text prompt is empty")
    return TimedPrompt(TextPrompt(match["text"], _object_id(match) or 1), _when(match))


def parse_forget(text: str) -> TimedPrompt:
    """``ID@FRAME|ID@SECONDSs``: from there on the object is not followed. Raises PromptError for anything else."""
    match = _FORGET.fullmatch(text.strip())
    if match is None:
        raise PromptError(f"{text!r} is not the end of an object; write ID@FRAME, such as 2@90 or 2@3.5s")
    return TimedPrompt(Forget(_object_id(match) or 1), _when(match))


def parse_references(pictures: Sequence[str], masks: Sequence[str]) -> tuple[ReferenceFile, ...]:
    """``PICTURE[@FRAME|@SECONDSs]`` each with its ``MASK[#ID]``; @ says which frame of a video shows the object.

    Raises PromptError where the two lists do not belong together, or a mask has a moment.
    """
    if len(pictures) != len(masks):
        raise PromptError(
            f"{len(pictures)} --reference and {len(masks)} --reference-mask were given; give one mask for each"
        )
    found = []
    for picture, mask in zip(map(parse_mask, pictures), map(parse_mask, masks), strict=True):
        if picture.object_id is not None:
            raise PromptError(f"#{picture.object_id} after {picture.path} says nothing; put it after its mask")
        if mask.when is not None:
            raise PromptError(f"{mask.path} is a mask on {picture.path}; put @ after that")
        found.append(ReferenceFile(picture.path, mask.path, picture.when, None, mask.object_id))
    return tuple(found)


def _points(text: str, what: str) -> tuple[tuple[tuple[float, float], ...], re.Match[str]]:
    match = _POINTS.fullmatch(text.strip())
    numbers = [] if match is None else [float(number) for number in match["points"].split(",")]
    if match is None or len(numbers) % 2:
        raise PromptError(
            f"{text!r} is not a {what}; write x,y,x,y,... with an optional @FRAME and #ID, such as 10,20,40,25,60,9#2"
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True)), match


def parse_mask(text: str) -> MaskFile:
    """``PATH[@FRAME|@SECONDSs][#ID]``. A file whose whole name matches is taken as it is, ``@`` and ``#`` included."""
    match = _MASK_SUFFIX.fullmatch(text)
    if not text or match is None:
        raise PromptError("a file has an empty name")
    if os.path.exists(text):  # False, and no error, where that cannot be found out
        return MaskFile(Path(text))
    return MaskFile(Path(match["path"]), _when(match), _object_id(match))


def _when(match: re.Match[str]) -> When:
    text = match["when"]
    if text is None:
        return None
    return Seconds(float(text[:-1])) if text.endswith("s") else int(text)


def _object_id(match: re.Match[str]) -> int | None:
    if match["id"] is None:
        return None
    if int(match["id"]) == 0:
        raise PromptError("object id 0 is the background; objects are numbered from 1")
    return int(match["id"])
