"""Prompts over time, written in our own JSON format: `write_document` makes what `vos.prompt_json` reads."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from PIL import Image as Pictures

from seem_core.coco_masks import encode_rle
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
from vos.prompt_json import VERSION, Mask
from vos.prompts import Forget, FramePrompt, Origin, Seconds, TimedPrompt, When
from vos.run_record import Json

Item: TypeAlias = TimedPrompt | FramePrompt


def write_document(
    prompts: Iterable[Item],
    *,
    names: Mapping[int, str] | None = None,
    video: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Json]:
    """The document that `read_document` reads back to equal prompts in an equal order on every frame.

    Masks become run lengths; the picture of a reference stays in its file, or becomes a PNG where it has none. Paths
    are absolute, or relative to ``folder`` where they lie in it.
    """
    items = list(prompts)
    groups = _by_object(items)
    left = dict(names or {})
    objects: list[Json] = []
    for group in groups:
        object_id = group[0].prompt.object_id
        head: dict[str, Json] = {"id": object_id}
        if object_id in left:
            head["name"] = left.pop(object_id)
        objects.append({**head, "prompts": [_write_prompt(item, folder) for item in group]})
    start: dict[str, Json] = {"version": VERSION}
    return start | ({} if video is None else {"video": _path(video, folder)}) | {"objects": objects}


def _by_object(items: list[Item]) -> list[list[Item]]:
    """One group per object where that keeps the order of prompts on every frame, else one per run of an object."""
    whole: dict[int, list[Item]] = {}
    runs: list[list[Item]] = []
    for item in items:
        whole.setdefault(item.prompt.object_id, []).append(item)
        if runs and runs[-1][0].prompt.object_id == item.prompt.object_id:
            runs[-1].append(item)
        else:
            runs.append([item])
    grouped = [item for group in whole.values() for item in group]
    return list(whole.values()) if _by_time(grouped) == _by_time(items) else runs


def _by_time(items: Iterable[Item]) -> dict[When, list[int]]:
    """Moment -> identities of its prompts, in order. Moments of different kinds may be one frame, so they count as one
    where both occur."""
    found: dict[When, list[int]] = {}
    items = list(items)
    mixed = len({type(_moment_of(item)) for item in items}) > 1
    for item in items:
        found.setdefault(None if mixed else _moment_of(item), []).append(id(item))
    return found


def _moment_of(item: Item) -> When:
    return item.frame if isinstance(item, FramePrompt) else item.when


def _write_prompt(item: Item, folder: Path | None) -> dict[str, Json]:
    when = _moment_of(item)
    time: dict[str, Json] = {}
    if isinstance(when, Seconds):
        time["seconds"] = _number(when.seconds)
    elif when is not None:
        time["frame"] = when
    return time | _write_kind(item.prompt, item.origin, folder)


def _write_kind(prompt: Prompt | Forget, origin: Origin, folder: Path | None) -> dict[str, Json]:
    sign: dict[str, Json] = {} if getattr(prompt, "positive", True) else {"positive": False}
    match prompt:
        case Forget():
            return {"forget": True}
        case PointPrompt(x=x, y=y):
            return {"point": [_number(x), _number(y)], **sign}
        case BoxPrompt():
            return {"box": [_number(v) for v in (prompt.x0, prompt.y0, prompt.x1, prompt.y1)]}
        case ScribblePrompt(points=points, width=width):
            return {"scribble": _list(points), "width": _number(width), **sign}
        case PolygonPrompt(points=points):
            return {"polygon": _list(points), **sign}
        case TextPrompt(text=text):
            return {"text": text}
        case MaskPrompt(mask=mask):
            return {"mask": _runs(mask)}
        case ReferencePrompt(mask=mask):
            return {"reference": {**_write_shown(prompt, origin, folder), "mask": _runs(mask)}}


def _list(points: Sequence[tuple[float, float]]) -> Json:
    return [[_number(x), _number(y)] for x, y in points]


def _number(value: float) -> int | float:
    """148.0 as 148, so that files read as people write them."""
    return int(value) if value == int(value) and abs(value) < 1e15 else float(value)


def _runs(mask: Mask) -> Json:
    return {"size": [*mask.shape], "counts": encode_rle(mask)}


def _write_shown(prompt: ReferencePrompt, origin: Origin, folder: Path | None) -> dict[str, Json]:
    if origin.picture is None:
        buffer = io.BytesIO()
        Pictures.fromarray(prompt.image).save(buffer, "PNG", compress_level=3)
        return {"image": {"png": base64.b64encode(buffer.getvalue()).decode()}}
    path = _path(origin.picture, folder)
    return {"image": path} if origin.frame is None else {"video": path, "frame": origin.frame}


def _path(path: Path, folder: Path | None) -> str:
    absolute = path.absolute()
    if folder is not None:
        with suppress(ValueError):
            return absolute.relative_to(folder.absolute()).as_posix()
    return str(absolute)
