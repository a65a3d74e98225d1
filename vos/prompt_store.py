"""Prompts on disk, each under a number: `PromptStore`. Masks and pictures stay there until they are needed.

12.json                     kind, frame, values
12-mask.png, 12-image.png   the mask of a mask or reference prompt, the reference's picture
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.errors import InputError, VosError
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
from vos.label_files import encode_labels, read_labels, write_whole
from vos.prompts import Forget, FramePrompt
from vos.writing import writing

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (PointPrompt, BoxPrompt, ScribblePrompt, PolygonPrompt, MaskPrompt, ReferencePrompt, TextPrompt, Forget)
}


class PromptStore:
    """Prompts by number in ``folder``, which is made. A prompt is whole or not there; none is held in memory.

    Raises OutputError where the folder cannot be made or written, DiskFullError without room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, number: int, item: FramePrompt) -> None:
        """Keep a prompt; its pictures first, so that one with a ``.json`` is whole."""
        plain: dict[str, Any] = {"kind": type(item.prompt).__name__, "frame": item.frame}
        for field in dataclasses.fields(item.prompt):
            value = getattr(item.prompt, field.name)
            if isinstance(value, np.ndarray):
                write_whole(self._picture(number, field.name), _encode(value))
            else:
                plain[field.name] = value
        write_whole(self.folder / f"{number}.json", json.dumps(plain).encode())

    def get(self, number: int) -> FramePrompt:
        """Read a prompt. Raises InputError where it is missing or damaged."""
        path = self.folder / f"{number}.json"
        try:
            plain = json.loads(path.read_bytes())
            kind, frame = _KINDS[plain.pop("kind")], int(plain.pop("frame"))
            values = {name: _tuples(value) for name, value in plain.items()}
            for field in dataclasses.fields(kind):
                if field.name in ("mask", "image"):
                    values[field.name] = self._read(number, field.name)
            return FramePrompt(frame, cast("Prompt | Forget", kind(**values)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, VosError) as error:
            raise InputError(f"prompt {number} in {self.folder} cannot be read ({error}); remove it") from error

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove prompts; what is not there is passed over."""
        for number in numbers:
            for path in (self.folder / f"{number}.json", *(self._picture(number, n) for n in ("mask", "image"))):
                with writing(path):
                    path.unlink(missing_ok=True)

    def numbers(self) -> tuple[int, ...]:
        """The numbers that are there, ascending."""
        stems = (path.stem for path in self.folder.glob("*.json"))
        return tuple(sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit()))

    def _picture(self, number: int, field: str) -> Path:
        return self.folder / f"{number}-{field}.png"

    def _read(self, number: int, field: str) -> npt.NDArray[Any]:
        path = self._picture(number, field)
        return read_image(path) if field == "image" else np.asarray(read_labels(path) > 0)


def _encode(value: npt.NDArray[Any]) -> bytes:
    """PNG of an (H, W) bool mask or an (H, W, 3) uint8 picture."""
    if value.dtype == np.bool_:
        return encode_labels(value.astype(np.uint8))
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(value)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that prompts hold."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
