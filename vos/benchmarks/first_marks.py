"""The first mark of a simulated user as prompts: a click, a box, or an area drawn at random (SPEC §8 and §9).

The click is in the depth of the object (`seem_core.training.clicks`), the box is exact, and scribbles, polygons and
circled areas are drawn by a generator (`seem_core.training.strokes`), their lengths scaled by the picture's longer side
over 1024.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from seem_core.prompts import PointPrompt, Prompt, ScribblePrompt
from seem_core.training.clicks import Click, ClickMarks, first_click
from seem_core.training.strokes import MarkKind, box_around, mark_object

Mask = npt.NDArray[np.bool_]  # (H, W)
_FULL_LENGTH = 1024  # pixels: longer side at which strokes have their published lengths


def generator_for(seed: int, name: str) -> np.random.Generator:
    """The generator of the object that is called `name`: its marks depend on `seed` and name, and on nothing else."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])


def first_mark(
    truth: Mask, kind: MarkKind, generator: np.random.Generator, object_id: int = 1
) -> tuple[list[Prompt], ClickMarks]:
    """Prompts for an (H, W) object, and the pixels that count as clicked on from then on (a box covers none).

    Raises MaskError for an object without pixels. One of fewer than `strokes.SMALLEST` can be clicked on or boxed; of
    the other kinds there is no mark.
    """
    marks = ClickMarks.none((truth.shape[0], truth.shape[1]))
    if kind is MarkKind.POINT:
        click = first_click(truth)
        return [click_prompt(click, object_id)], marks.with_click(click)
    if kind is MarkKind.BOX:
        return [replace(box_around(truth), object_id=object_id)], marks
    drawn = mark_object(truth, generator, kind, max(truth.shape) / _FULL_LENGTH)
    return strokes_of(drawn, object_id), ClickMarks(drawn, marks.negative)


def strokes_of(marks: Mask, object_id: int = 1) -> list[Prompt]:
    """(H, W) marked pixels as prompts that any predictor reads: a stroke, one pixel wide, along each run of a row."""
    edges = np.diff(np.pad(marks, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # (H, W + 1): 1 begins, -1 ends a run
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1] - 1
    return [
        ScribblePrompt(((x0, y), (x1, y)) if x1 > x0 else ((x0, y),), width=1.0, object_id=object_id)
        for y, x0, x1 in zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True)
    ]


def click_prompt(click: Click, object_id: int = 1) -> PointPrompt:
    """A click as a prompt."""
    return PointPrompt(click.column, click.row, click.positive, object_id)
