"""The results of one pass on disk, a file for each frame: `MaskSpool`.

    00012.png   label map, with a text chunk "vos": ids, scores, lost, and what the result was made from

One file holds everything of a frame and appears under its name only when whole, so a killed process leaves frames that
are done and frames that are not, and nothing in between.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seem_core.errors import MaskError
from seem_core.plain_json import parse_json
from trackers.base import Labels, ObjectMasks
from vos.label_files import encode_labels, read_labels, write_whole
from vos.writing import refuse_link, writing

_HEADER = 8 + 25  # PNG signature and IHDR chunk (ISO/IEC 15948, sections 5.2 and 11.2.2)
_KEYWORD = b"vos\0"


@dataclass(frozen=True)
class _Note:
    """What the text chunk says. ``made_from`` is any text that names the inputs of the result."""

    made_from: str
    ids: tuple[int, ...]
    scores: tuple[float, ...]
    lost: tuple[bool, ...]


class MaskSpool:
    """Results by frame number, kept in ``folder``, which is made. Memory: one short text per frame.

    Raises OutputError where the folder cannot be made or written, DiskFullError without room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        refuse_link(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink(missing_ok=True)
        self._made_from = {int(p.stem): n.made_from for p in self._files() if (n := _read_note(p)) is not None}

    def __len__(self) -> int:
        return len(self._made_from)

    def __contains__(self, frame: int) -> bool:
        return frame in self._made_from

    def made_from(self, frame: int) -> str | None:
        """What a frame's result was made from, as `put` was told; None where there is no result."""
        return self._made_from.get(frame)

    def put(self, frame: int, masks: ObjectMasks, made_from: str = "") -> None:
        """Keep a result in place of an earlier one."""
        note = {
            "made_from": made_from,
            "ids": list(masks.ids),
            "scores": [float(score) for score in masks.scores],
            "lost": [bool(lost) for lost in masks.lost],
        }
        picture = encode_labels(masks.labels)
        chunk = _chunk(b"tEXt", _KEYWORD + json.dumps(note).encode("ascii"))
        write_whole(self._path(frame), picture[:_HEADER] + chunk + picture[_HEADER:])
        self._made_from[frame] = made_from

    def get(self, frame: int) -> ObjectMasks | None:
        """A frame's result; None where there is none, or its file is damaged (it then counts as not there)."""
        if frame not in self._made_from:
            return None
        note, labels = _read_note(self._path(frame)), self._labels(frame)
        if note is None or labels is None:
            del self._made_from[frame]
            return None
        return ObjectMasks(note.ids, labels, np.array(note.scores, np.float32), np.array(note.lost, np.bool_))

    def summary(self, frame: int) -> dict[int, tuple[float, bool]]:
        """Object id -> (score, lost) without decoding the masks; empty where there is no result."""
        note = _read_note(self._path(frame)) if frame in self._made_from else None
        if note is None:
            return {}
        return {i: (s, lost) for i, s, lost in zip(note.ids, note.scores, note.lost, strict=True)}

    def drop(self, frames: Iterable[int]) -> None:
        """Remove results; what is not there is passed over."""
        for frame in list(frames):
            with writing(self._path(frame)):
                self._path(frame).unlink(missing_ok=True)
            self._made_from.pop(frame, None)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._made_from.clear()

    def _files(self) -> Iterable[Path]:
        return (path for path in self.folder.glob("*.png") if path.stem.isascii() and path.stem.isdigit())

    def _path(self, frame: int) -> Path:
        return self.folder / f"{frame:05d}.png"

    def _labels(self, frame: int) -> Labels | None:
        try:
            return read_labels(self._path(frame))
        except MaskError:
            return None


def _chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk: length, type, data, CRC (ISO/IEC 15948, section 5.3)."""
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _read_note(path: Path) -> _Note | None:
    """The note in a file of ours; None for any other file, and a missing or damaged one."""
    try:
        with path.open("rb") as file:
            file.seek(_HEADER)
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind != b"tEXt":
                return None
            body = file.read(length)
            (crc,) = struct.unpack(">I", file.read(4))
        if crc != zlib.crc32(body, zlib.crc32(kind)) or not body.startswith(_KEYWORD):
            return None
        plain = parse_json(body[len(_KEYWORD) :], any_float=True)
        return _Note(plain["made_from"], tuple(plain["ids"]), tuple(plain["scores"]), tuple(plain["lost"]))
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return None
