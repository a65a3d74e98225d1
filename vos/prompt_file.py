"""Files of prompts over time: `read_prompts` reads our own JSON and those of other tools, `write_prompts` writes ours.

Which format a file has is told by its content: ours begins with a version and has objects (also inside run.json of an
earlier run); DAVIS scribbles, COCO annotations and labelme files are known by their fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from seem_core.errors import PromptError
from vos.coco_prompts import read_coco
from vos.foreign_prompts import read_davis, read_labelme
from vos.frames import VideoSource
from vos.images import list_images
from vos.json_fields import Fields, load_json
from vos.label_files import write_whole
from vos.masks import MaskFormat
from vos.prompt_json import Numbering, Reading, Size, read_document
from vos.prompt_writing import Item, write_document
from vos.prompts import TimedPrompt

SCHEMA_FILE = "prompts.schema.json"
FORMATS = 'begin with {"version": 1, "objects": [...]}, or give DAVIS scribbles, COCO annotations or a labelme file'


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts says.

    names     object id -> name, of objects that have one
    video     the video it says it was made for
    files     pictures and masks that it names and that were read: path -> mask or reference
    warnings  one sentence for each thing that was assumed, such as the format of another tool
    """

    path: Path
    prompts: tuple[TimedPrompt, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    video: Path | None = None
    files: Mapping[Path, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptTarget:
    """What prompts are for: frames of ``size`` (H, W).

    frame_called  name of an image file -> number of the frame that it shows, None where that is not known
    timeless      a single picture, so that there is no moment to name
    """

    size: Size
    frame_called: Callable[[str], int | None] = lambda name: None
    timeless: bool = False

    @classmethod
    def video(cls, source: VideoSource) -> PromptTarget:
        """Frames of a folder of images go by the names of its files, those of a video by the number in a name."""
        info = source.info
        if info.codec != "images":
            return cls((info.height, info.width), frame_number)
        numbers = {file.stem: i for i, file in enumerate(list_images(info.path))}
        return cls((info.height, info.width), lambda name: numbers.get(stem(name)))

    @classmethod
    def picture(cls, path: Path, size: Size) -> PromptTarget:
        return cls(size, lambda name: 0 if stem(name) == path.stem else None, timeless=True)


def read_prompts(
    path: str | PathLike[str],
    target: PromptTarget | VideoSource,
    *,
    mask_format: MaskFormat = "auto",
    numbering: Numbering | None = None,
) -> PromptFile:
    """Read the prompts in ``path`` for a video or a picture.

    mask_format: how the mask files that it names are read. numbering: shared between the files of one run, so that the
    same words mean the same object in all of them.

    Raises PromptError, MaskError or VideoError (for a reference) with one sentence that begins with the file and the
    place in it: ``p.json: objects[2].prompts[0].box: is a list of 4 numbers, not [1, 2]``.
    """
    path = Path(path)
    if not isinstance(target, PromptTarget):
        target = PromptTarget.video(target)
    value = load_json(path)
    reading = Reading(
        f"{path}: ", path, target.size, mask_format, target.timeless, target.frame_called, numbering or Numbering()
    )
    read = _format(value)
    if read is None:
        raise PromptError(f"{path} holds no prompts: {FORMATS}")
    read(value, reading)
    return PromptFile(
        path, tuple(reading.prompts), reading.names, reading.video, reading.files, tuple(reading.warnings)
    )


def holds_prompts(path: Path) -> bool:
    """Whether a JSON file is one that `read_prompts` takes, by its fields; True also where it cannot be read at all."""
    try:
        value = load_json(path)
    except PromptError:
        return True
    return _format(value) is not None


def write_prompts(
    path: str | PathLike[str],
    prompts: Iterable[Item],
    *,
    names: Mapping[int, str] | None = None,
    video: str | PathLike[str] | None = None,
) -> None:
    """Write prompts so that `read_prompts` gives equal ones back. Masks lie in the file; paths beside it are relative.

    Raises OutputError or DiskFullError where the file cannot be written.
    """
    path = Path(path)
    document = write_document(prompts, names=names, video=None if video is None else Path(video), folder=path.parent)
    write_whole(path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def prompts_schema() -> str:
    """The JSON Schema (draft 2020-12) of our own format."""
    return files("vos").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def stem(name: str) -> str:
    """``00040`` of ``frames/00040.jpg``, with slashes of either kind."""
    return re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0]


def frame_number(name: str) -> int | None:
    """40 of ``clip_00040.jpg``: the number at the end, as frames that were cut out of a video are called."""
    match = re.fullmatch(r"(?:.*[^0-9A-Za-z]|.*frame)?([0-9]{1,9})", stem(name), re.DOTALL | re.IGNORECASE)
    return int(match[1]) if match else None


def _format(value: Any) -> Callable[[Any, Reading], None] | None:
    """What reads this content; None where nothing does."""
    if not isinstance(value, dict):
        return None
    if "scribbles" in value:
        return read_davis
    if "shapes" in value:
        return read_labelme
    if "annotations" in value and "images" in value:
        return read_coco
    if "state" in value and "options" in value:
        return _read_run
    return read_document if "version" in value or "objects" in value else None


def _read_run(value: Any, reading: Reading) -> None:
    """The prompts of an earlier run, out of its run.json."""
    options = Fields(value["options"], f"{reading.place}options", "the options of a run")
    document = options.take("prompts")
    reading.place = options.at("prompts")
    read_document(document, reading)
