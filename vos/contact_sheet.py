"""One picture that shows how a run went: frames evenly spaced, with objects, times and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trackers.base import Labels
from vos.drawing import bright_colour_of, draw_objects, paste, text_on, text_picture
from vos.run_record import FrameRecord, ObjectRecord

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)

MAX_CELLS = 20
_MAX_WIDTH = 1600  # pixels of the sheet
_LARGEST_CELL, _SMALLEST_CELL = 480, 150  # pixels across one frame
_ASPECT = 1.9  # of all frames together; captions make the sheet itself less wide
_GAP = 10
_TEXT = 13  # height of letters
_LINE = _TEXT + 10
_CHIP_LINES = 2
_PAPER, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)
_LOST = (60, 60, 60)


@dataclass(frozen=True, eq=False)
class Cell:
    """One frame as it goes on the sheet: drawn picture (h, w, 3), and what is written below."""

    picture: Rgb
    record: FrameRecord


def evenly(count: int, most: int = MAX_CELLS) -> list[int]:
    """At most ``most`` of the positions 0..count-1, evenly spaced, first and last among them."""
    return sorted({round(i * (count - 1) / max(1, min(count, most) - 1)) for i in range(min(count, most))})


def columns_for(count: int, height: int, width: int) -> int:
    """How many frames go side by side, so that the sheet is a little wider than high and no frame is tiny."""
    wanted = round(math.sqrt(count * _ASPECT * height / width))
    return max(1, min(count, wanted, (_MAX_WIDTH - _GAP) // (_SMALLEST_CELL + _GAP)))


def make_cell(image: Rgb, labels: Labels, record: FrameRecord, width: int, alpha: float) -> Cell:
    """Shrink (or mildly enlarge) a frame to ``width`` and draw its objects."""
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    shrinks = width < image.shape[1]
    small = np.ascontiguousarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), dtype=np.uint8
    )
    rows = (np.arange(size[1]) * labels.shape[0]) // size[1]
    columns = (np.arange(size[0]) * labels.shape[1]) // size[0]
    draw_objects(small, labels[rows[:, None], columns], alpha=alpha)
    return Cell(small, record)


def cell_width(count: int, height: int, width: int) -> int:
    """Pixels across one frame on a sheet of ``count`` frames of (height, width)."""
    columns = columns_for(count, height, width)
    return max(16, min(_LARGEST_CELL, 2 * width, (_MAX_WIDTH - _GAP) // columns - _GAP))


def make_sheet(cells: Sequence[Cell], title: str, columns: int) -> Rgb:
    """Put cells in rows under a title. All pictures have one size; at least one cell is needed."""
    height, width = cells[0].picture.shape[:2]
    lines = max(len(_chip_rows(cell.record.objects, width)) for cell in cells)
    step_x, step_y = width + _GAP, height + _LINE * (1 + lines) + _GAP
    rows = math.ceil(len(cells) / columns)
    head = _LINE + _GAP
    sheet = np.full((head + rows * step_y + _GAP, _GAP + columns * step_x, 3), _PAPER, np.uint8)
    _write(sheet, title, _GAP, _GAP // 2, _TEXT + 1, _INK, sheet.shape[1] - 2 * _GAP)
    for i, cell in enumerate(cells):
        left, top = _GAP + (i % columns) * step_x, head + (i // columns) * step_y
        sheet[top : top + height, left : left + width] = cell.picture
        _caption(sheet, cell.record, left, top + height, width)
    return sheet


def _caption(sheet: Rgb, record: FrameRecord, left: int, top: int, width: int) -> None:
    _write(sheet, f"frame {record.frame}   {record.seconds:.2f} s", left, top + 2, _TEXT, _FAINT, width)
    for row, chips in enumerate(_chip_rows(record.objects, width)):
        x = left
        for chip in chips:
            paste(sheet, chip, x, top + _LINE * (row + 1))
            x += chip.shape[1] + 4


def _chip_rows(objects: Sequence[ObjectRecord], width: int) -> list[list[Rgb]]:
    """Chips with id and score in rows that fit ``width``; those that do not fit are counted in a last one."""
    rows: list[list[Rgb]] = [[]]
    used = 0
    for i, item in enumerate(objects):
        chip = _chip(item)
        more = text_picture(f"+{len(objects) - i}", _TEXT, _INK, _PAPER)
        room = width - (more.shape[1] + 4 if len(rows) == _CHIP_LINES and i < len(objects) - 1 else 0)
        if rows[-1] and used + chip.shape[1] > room:
            if len(rows) == _CHIP_LINES:
                rows[-1].append(more)
                break
            rows.append([])
            used = 0
        rows[-1].append(chip)
        used += chip.shape[1] + 4
    return rows


def _chip(item: ObjectRecord) -> Rgb:
    """The object's colour with id and score; grey where it is lost."""
    if item.lost:
        return text_picture(f"{item.id} lost", _TEXT, (255, 255, 255), _LOST)
    paper = bright_colour_of(item.id)
    return text_picture(f"{item.id}  {item.score:.2f}", _TEXT, text_on(paper), paper)


def _write(sheet: Rgb, text: str, left: int, top: int, size: int, ink: tuple[int, int, int], room: int) -> None:
    picture = text_picture(text, size, ink, _PAPER)
    while picture.shape[1] > room and len(text) > 4:
        text = text[: max(1, len(text) - 4)].rstrip(". ") + "..."
        picture = text_picture(text, size, ink, _PAPER)
    paste(sheet, picture[:, :room], left, top)
