"""Tables of videos (CSV, TSV, JSONL) and plain lists of paths, read strictly: `read_table`, `read_list`.

A row names its video and what is to be followed in it, written as the options of ``vos track`` are. Paths are relative
to the table, or URLs. An unknown column may have been meant, so it is refused. Bytes of a path that are not UTF-8
stay as they are (``surrogateescape``; in JSON a lone ``\\udcXX``).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

from seem_core.errors import InputError
from vos.batch.urls import url_of
from vos.directions import Direction
from vos.json_fields import MOST_BYTES, parse_json, shown
from vos.masks import MaskFormat
from vos.prompt_gathering import GivenPrompt
from vos.prompt_sources import MaskFile
from vos.prompt_text import parse_mask, parse_prompts, parse_references
from vos.wording import some

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})

_ONE = ("video", "name", "memory", "start", "end", "stride", "max_side", "direction", "mask_format")
_SEVERAL = (
    "mask", "prompts", "text", "point", "box", "scribble", "polygon", "forget", "reference", "reference_mask",
)  # fmt: skip
COLUMNS = (*_ONE, *_SEVERAL)
_ALIASES = {"out": "name"}
_WHOLE = ("start", "end", "stride", "max_side")
_CHOICES: Mapping[str, tuple[str, ...]] = {"direction": get_args(Direction), "mask_format": get_args(MaskFormat)}

Cells: TypeAlias = Mapping[str, Sequence[str]]  # column -> what its cells hold, empty ones left out


@dataclass(frozen=True)
class Row:
    """One video of a table.

    place    as messages name the row, ``clips.csv line 3``
    name     of its folder of results, None where the video's own name is to be taken
    prompts  files of prompts, references and prompts in writing; masks: mask files
    changes  fields of `vos.pipeline.TrackOptions` in which this video differs
    """

    place: str
    video: Path
    name: str | None = None
    prompts: tuple[GivenPrompt, ...] = ()
    masks: tuple[MaskFile, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


def read_table(path: Path) -> tuple[Row, ...]:
    """The rows of a table, in order; blank lines are passed over.

    CSV, TSV: the first line names the columns; the separator is the comma, semicolon or tab that splits it. A column
    may come several times (``mask,mask``). JSONL: one object per line; several values are a list.

    Raises InputError that names the line where the table cannot be read, a column is unknown, or a cell makes no sense.
    """
    text = _text(path)
    found = _csv_rows(text, path) if path.suffix.lower() in (".csv", ".tsv") else _json_rows(text, path)
    rows = tuple(_row(cells, place, path.parent) for place, cells in found)
    if not rows:
        raise InputError(f"{path} has no rows; write one per video, with the columns {', '.join(COLUMNS)}")
    return rows


def read_list(path: Path) -> tuple[Path, ...]:
    """Paths of a text file, one a line, relative to that file; separated by NUL bytes if there are any, as
    ``find -print0`` writes them, so that names may hold line breaks. Raises InputError."""
    data = _bytes(path)
    if b"\0" in data:
        names = data.split(b"\0")
    else:
        names = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if all(name.endswith(b"\r") for name in names[:-1]):  # written on Windows
            names = [name.removesuffix(b"\r") for name in names]
    found = tuple(_path(os.fsdecode(name), path.parent) for name in names if name)
    if not found:
        raise InputError(f"{path} is empty; write one path of a video a line")
    return found


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES >> 20} MB; a table of videos is smaller")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); give a table or a list of videos") from error


def _text(path: Path) -> str:
    data = _bytes(path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path} is written in UTF-16; save it as CSV in UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


_Found: TypeAlias = "Iterator[tuple[str, Cells]]"


def _csv_rows(text: str, path: Path) -> _Found:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    head: list[str] | None = None
    while True:
        try:
            line = next(lines, None)
        except csv.Error as error:
            raise InputError(f"{path} line {lines.line_num}: is not CSV ({error})") from error
        if line is None:
            return
        if not any(cell.strip() for cell in line):
            continue
        place = f"{path} line {lines.line_num}"
        if head is None:
            head = [_column(cell.strip().lower(), place) for cell in line]
            _check_head(head, place)
            continue
        if len(line) > len(head):
            raise InputError(f"{place}: has {len(line)} cells, the first line names {len(head)} columns")
        cells: dict[str, list[str]] = {}
        for column, cell in zip(head, line, strict=False):
            if cell.strip():
                cells.setdefault(column, []).append(cell)
        yield place, cells


def _separator(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    for separator in (",", ";", "\t"):
        if "video" in (cell.strip().strip('"').lower() for cell in first.split(separator)):
            return separator
    return ","


def _check_head(head: Sequence[str], place: str) -> None:
    if "video" not in head:
        raise InputError(f"{place}: no column is called video; the first line names the columns, such as video,mask")
    for column in _ONE:
        if head.count(column) > 1:
            raise InputError(f"{place}: column {column!r} is there twice; a video has one")


def _column(name: str, place: str) -> str:
    name = _ALIASES.get(name, name)
    if name not in COLUMNS:
        raise InputError(f"{place}: there is no column {name!r}; use {', '.join(COLUMNS)}")
    return name


def _json_rows(text: str, path: Path) -> _Found:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            value = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise InputError(f'{place}: a row is an object such as {{"video": "a.mp4", "mask": "a.png"}}')
        cells: dict[str, list[str]] = {}
        for key, item in value.items():
            column = _column(key, place)
            if column in cells:
                raise InputError(f"{place}: column {column!r} is there twice; a video has one")
            if item is not None:
                cells[column] = [_cell(one, column, place) for one in (item if isinstance(item, list) else [item])]
        for column in _ONE:
            if len(cells.get(column, ())) > 1:
                raise InputError(f"{place}: {column!r} is one value, not a list")
        yield place, {column: found for column, found in cells.items() if found}


def _cell(value: Any, column: str, place: str) -> str:
    wanted: type = int if column in _WHOLE else str
    if type(value) is not wanted or value == "":
        raise InputError(
            f"{place}: {column!r} is {'a whole number' if wanted is int else 'a text'}, not {shown(value)}"
        )
    return str(value)


def _row(cells: Cells, place: str, folder: Path) -> Row:
    """Raises InputError that begins with ``place``."""
    if "video" not in cells:
        raise InputError(f"{place}: names no video")
    try:
        return Row(
            place,
            _path(cells["video"][0], folder),
            cells["name"][0] if "name" in cells else None,
            _prompts(cells, folder),
            tuple(_located(text, folder, parse_mask) for text in cells.get("mask", ())),
            _changes(cells, folder),
        )
    except InputError as error:
        raise type(error)(f"{place}: {error}") from error


def _path(text: str, folder: Path) -> Path:
    if "\0" in text:
        raise InputError(f"{text!r} cannot be a path, it holds a NUL character")
    return Path(text) if url_of(text) is not None else folder / text


def _located(text: str, folder: Path, parse: Callable[[str], MaskFile]) -> MaskFile:
    return parse(str(_path(text, folder)))


def _prompts(cells: Cells, folder: Path) -> tuple[GivenPrompt, ...]:
    def paths(column: str) -> list[str]:
        return [str(_path(text, folder)) for text in cells.get(column, ())]

    for column in ("text", "point", "box", "scribble", "polygon", "forget"):
        for text in cells.get(column, ()):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"{column} {text!a} is not UTF-8; save the table in UTF-8")
    references, masks = paths("reference"), paths("reference_mask")
    if len(references) != len(masks):
        raise InputError(f"{len(references)} in column reference and {len(masks)} in reference_mask; give one for each")
    return (
        *(Path(path) for path in paths("prompts")),
        *parse_references(references, masks),
        *parse_prompts(
            points=cells.get("point", ()), boxes=cells.get("box", ()), scribbles=cells.get("scribble", ()),
            polygons=cells.get("polygon", ()), texts=cells.get("text", ()), forgets=cells.get("forget", ()),
        ),
    )  # fmt: skip


def _changes(cells: Cells, folder: Path) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for column in _WHOLE:
        if column in cells:
            text = cells[column][0].strip()
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise InputError(f"{column} is a whole number such as 40, not {text!r}")
            changes[column] = int(text)
    for column, choices in _CHOICES.items():
        if column in cells:
            if cells[column][0].strip() not in choices:
                raise InputError(f"{column} is one of {some(choices)}, not {cells[column][0]!r}")
            changes[column] = cells[column][0].strip()
    if "memory" in cells:
        changes["memory"] = str(_path(cells["memory"][0], folder))
    return changes
