"""A run in writing: `RunRecord` (run.json) and `FrameRecord` (one line of frames.jsonl), and how they are read back.

docs/output.md describes the two files; a test holds the JSON Schema there against what is written.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import cv2
import numpy as np

from seem_core.errors import InputError
from seem_core.plain_json import brief, in_a_line, parse_json, read_json
from trackers.base import ObjectMasks
from vos.frames import FrameResult, VideoInfo

RUN_FILE = "run.json"
FRAMES_FILE = "frames.jsonl"
MASKS_FOLDER = "masks"
FORMAT = 1  # rises when a reader of the files has to change

_MIN_DIGITS = 5  # DAVIS names its frames so
_MOST_LINE = 64 << 20  # bytes; a frame of 65,535 objects has a tenth of it

State: TypeAlias = Literal["running", "interrupted", "done"]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_PACKAGES = ("seem-vos", "torch", "numpy", "opencv-python-headless", "av", "pillow")


@dataclass(frozen=True)
class InputRecord:
    """A file or folder that the run read: ``role`` is video, mask, prompts, reference, memory or weights."""

    role: str
    path: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, role: str, path: str | PathLike[str]) -> InputRecord:
        """Read and hash ``path``: a file's bytes; for a folder, the names and bytes of the files in it, by name.

        Raises InputError where it cannot be read.
        """
        place = Path(path).absolute()
        digest, size = hashlib.sha256(), 0
        try:
            files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
            for file in files:
                if place.is_dir():
                    digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
                        size += len(block)
        except OSError as error:
            raise InputError(
                f"cannot read {place}: {error.strerror or error}; check the path and its rights"
            ) from error
        return cls(role, str(place), digest.hexdigest(), size)


@dataclass(frozen=True)
class ObjectRecord:
    """One object on one frame.

    score  0..1, rounded to four digits
    area   pixels
    box    x0, y0, x1, y1 in pixels of the source, x1 and y1 excluded (x1 - x0 is the width); None for an empty mask
    """

    id: int
    score: float
    area: int
    box: tuple[int, int, int, int] | None
    lost: bool


@dataclass(frozen=True)
class FrameRecord:
    """One frame: its number in the source, its time in seconds, its mask file relative to the results folder."""

    frame: int
    seconds: float
    mask: str
    objects: tuple[ObjectRecord, ...]

    @classmethod
    def of(cls, result: FrameResult, mask: str) -> FrameRecord:
        """Measure the objects of a result. Raises ValueError for a score that is no number."""
        frame = result.frame
        return cls(frame.index, round(frame.seconds, 6), mask, tuple(_measure(result.masks)))

    def line(self) -> bytes:
        """The record as one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class RunRecord:
    """A run: what went in, how it was done, how far it came.

    video       the source as it was found
    tracked     (start, stop, step) of the source's frames
    ids         objects that were prompted
    options     option name -> plain value
    warnings    one sentence each
    gaps        frames in the tracked range that could not be decoded; they have no mask
    frames_done masks written
    started     UTC, ISO 8601; ``finished`` likewise, None while running
    seconds     wall-clock time from start to finish
    rendered    files made from the masks afterwards, relative to the folder
    error       the sentence that stopped the run, if one did
    class_names object id -> its class, of objects that the tracker's model has a class for
    """

    video: VideoInfo
    tracked: tuple[int, int, int]
    ids: tuple[int, ...] = ()
    inputs: tuple[InputRecord, ...] = ()
    options: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    warnings: tuple[str, ...] = ()
    gaps: tuple[int, ...] = ()
    frames_done: int = 0
    state: State = "running"
    started: str = ""
    finished: str | None = None
    seconds: float = 0.0
    rendered: tuple[str, ...] = ()
    error: str | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def mask_digits(self) -> int:
        """Digits of a frame's number in its mask's name."""
        return max(_MIN_DIGITS, len(str(max(0, self.video.frames - 1))))

    def text(self) -> bytes:
        """run.json's content."""
        plain = asdict(self) | {"options": _plain(self.options), "versions": dict(self.versions)}
        plain["class_names"] = {str(i): name for i, name in self.class_names.items()}
        plain["video"] |= {"path": str(self.video.path), "rate": str(self.video.rate)}
        return (
            json.dumps({"format": FORMAT, **plain}, allow_nan=False, indent=2, ensure_ascii=False).encode(
                "utf-8", "backslashreplace"
            )
            + b"\n"
        )


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about the masks, without importing them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_run(folder: str | PathLike[str]) -> RunRecord:
    """The record of a run from its results folder. Raises InputError if there is none, or it is damaged or newer."""
    path = Path(folder) / RUN_FILE
    try:
        plain = read_json(path)
        if plain["format"] != FORMAT:
            raise InputError(
                f"{path} has format {brief(plain['format'])}, this version reads {FORMAT}; update seem-vos"
            )
        return _run_from(plain)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} is no results folder: it has no {RUN_FILE}; give the folder of an earlier run"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {in_a_line(error)}); track the video again"
        ) from error


def read_frames(folder: str | PathLike[str]) -> Iterator[FrameRecord]:
    """The frames that are done, in order, one at a time. Raises InputError where the file is missing or damaged.

    A last line that was cut off when a run was killed is left out.
    """
    path = Path(folder) / FRAMES_FILE
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MOST_LINE), b""), start=1):
                if len(line) == _MOST_LINE:
                    raise InputError(f"line {number} of {path} is longer than any frame's; track the video again")
                if not line.endswith(b"\n"):
                    return
                try:
                    yield _frame_from(parse_json(line))
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise InputError(f"line {number} of {path} is damaged; track the video again") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; is {folder} a results folder?") from error


def _measure(masks: ObjectMasks) -> Iterator[ObjectRecord]:
    for object_id, score, lost in zip(masks.ids, masks.scores, masks.lost, strict=True):
        mask = (masks.labels == object_id).view(np.uint8)  # (H, W)
        area = cv2.countNonZero(mask)
        x, y, w, h = cv2.boundingRect(mask)
        if not math.isfinite(score):
            raise ValueError(f"the score of object {object_id} is {score}")
        box = (x, y, x + w, y + h) if area else None
        yield ObjectRecord(object_id, round(float(score), 4), area, box, bool(lost))


def _plain(value: object) -> Json:
    """Options as JSON holds them: paths and fractions become text, tuples lists."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return str(value)


def _run_from(plain: dict[str, Any]) -> RunRecord:
    video = {**plain["video"], "path": Path(plain["video"]["path"]), "rate": Fraction(plain["video"]["rate"])}
    if plain["state"] not in get_args(State):
        raise ValueError(f"state {plain['state']!r}")
    start, stop, step = map(int, plain["tracked"])
    if step < 1:
        raise ValueError(f"step {step}")
    return RunRecord(
        video=VideoInfo(**video),
        tracked=(start, stop, step),
        ids=tuple(map(int, plain["ids"])),
        inputs=tuple(InputRecord(**item) for item in plain["inputs"]),
        options=dict(plain["options"]),
        versions=dict(plain["versions"]),
        warnings=tuple(plain["warnings"]),
        gaps=tuple(map(int, plain["gaps"])),
        frames_done=int(plain["frames_done"]),
        state=cast(State, plain["state"]),
        started=str(plain["started"]),
        finished=plain["finished"],
        seconds=float(plain["seconds"]),
        rendered=tuple(plain["rendered"]),
        error=plain["error"],
        class_names={int(i): str(name) for i, name in plain.get("class_names", {}).items()},
    )


def _frame_from(plain: dict[str, Any]) -> FrameRecord:
    objects = tuple(
        ObjectRecord(o["id"], o["score"], o["area"], None if o["box"] is None else _box(o["box"]), o["lost"])
        for o in plain["objects"]
    )
    return FrameRecord(int(plain["frame"]), float(plain["seconds"]), _mask_place(plain["mask"]), objects)


def _mask_place(name: object) -> str:
    """``masks/00012.png`` as it is. Raises ValueError for any other place: what a line says never leads elsewhere."""
    parts = Path(name).parts if isinstance(name, str) and "\0" not in name else ()
    if len(parts) != 2 or parts[0] != MASKS_FOLDER or parts[1] == "..":
        raise ValueError(f"a mask lies in {MASKS_FOLDER}/, not at {name!r}")
    return str(name)


def _box(values: Sequence[int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
