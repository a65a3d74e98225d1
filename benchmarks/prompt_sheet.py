"""Draw a sheet of simulated prompts, to be looked at: each kind on eight objects, forty in all.

    python benchmarks/prompt_sheet.py docs/simulated_prompts.png
    python benchmarks/prompt_sheet.py sheet.png --stills ../shared/data/still/duts_tr

Objects are made up from shapes unless STILLS, a folder with ``masks/<name>.png``, has them. Rows are kinds of marks
(point, polygon, scribble, circle, box), columns are objects. A cell of the sheet is marked if any of its pixels is,
and few marks are shown larger than they are, so that single pixels can be seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.training.strokes import MarkKind, mark_object

Mask = npt.NDArray[np.bool_]

SIDE = 512  # pixels of the square on which marks are drawn; their ranges are meant for 1024
SHRINK = 4  # pixels per cell of the sheet
GAP = 6
OBJECTS = 8
FEW = 20  # cells
BACKGROUND, OBJECT, MARK, BESIDE = (244, 244, 242), (150, 165, 185), (214, 72, 20), (240, 170, 130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a sheet of simulated prompts.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--stills", type=Path, help="folder with masks/<name>.png; made up shapes without it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    objects = made_up(generator) if arguments.stills is None else from_stills(arguments.stills, generator)
    masks = [mask for mask, _ in zip(objects, range(OBJECTS), strict=False)]
    sheet = draw_sheet(masks, generator)
    Image.fromarray(sheet).quantize(8).save(arguments.output, optimize=True)
    print(f"{arguments.output}: {len(MarkKind) * len(masks)} prompts, {arguments.output.stat().st_size} bytes")


def draw_sheet(masks: list[Mask], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(rows, columns, 3) uint8 RGB: one row of tiles per kind, one column per object."""
    step = SIDE // SHRINK + GAP
    sheet = np.full((step * len(MarkKind) + GAP, step * len(masks) + GAP, 3), 255, np.uint8)
    for i, kind in enumerate(MarkKind):
        for j, mask in enumerate(masks):
            marks = mark_object(mask, generator, kind, SIDE / 1024)
            y, x = GAP + i * step, GAP + j * step
            sheet[y : y + SIDE // SHRINK, x : x + SIDE // SHRINK] = draw_tile(mask, marks)
    return sheet


def draw_tile(mask: Mask, marks: Mask) -> npt.NDArray[np.uint8]:
    """(SIDE / SHRINK, SIDE / SHRINK, 3): the object, marks on it and (of a box) beside it."""
    tile = np.full((SIDE // SHRINK, SIDE // SHRINK, 3), BACKGROUND, np.uint8)
    cells = mask[SHRINK // 2 :: SHRINK, SHRINK // 2 :: SHRINK]
    marked, on_object = to_cells(marks), to_cells(marks & mask)
    if np.count_nonzero(marked) <= FEW:  # single pixels are shown as small squares
        marked, on_object = thicken(marked), thicken(on_object)
    tile[cells] = OBJECT
    tile[marked] = BESIDE
    tile[on_object] = MARK
    return tile


def to_cells(pixels: Mask) -> Mask:
    n = SIDE // SHRINK
    cells: Mask = np.asarray(pixels.reshape(n, SHRINK, n, SHRINK).any(axis=(1, 3)))
    return cells


def thicken(cells: Mask) -> Mask:
    return cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def made_up(generator: np.random.Generator) -> Iterator[Mask]:
    """Large, small, thin, hollow and broken objects."""
    for size, roughness in ((170, 0.15), (110, 0.5), (60, 0.3), (20, 0.3)):
        yield blob(generator, size, roughness)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    yield cv2.circle(canvas.copy(), (256, 256), 150, 1, 40).astype(bool)
    yield cv2.line(canvas.copy(), (80, 400), (430, 120), 1, 14).astype(bool)
    yield cv2.ellipse(canvas.copy(), (256, 240), (190, 120), 20, 10, 200, 1, 26).astype(bool)
    yield np.roll(blob(generator, 70, 0.4), -120, axis=1) | np.roll(blob(generator, 60, 0.4), 110, axis=1)


def blob(generator: np.random.Generator, size: float, roughness: float) -> Mask:
    """A round shape whose radius wavers."""
    angle = np.linspace(0, 2 * np.pi, 200)
    waves = np.arange(2, 8)
    radius = 1 + (roughness / waves * generator.normal(size=6)) @ np.cos(np.outer(waves, angle) + angle)
    points = 256 + size * radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    return cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [points.astype(np.int32)], 1).astype(bool)


def from_stills(folder: Path, generator: np.random.Generator) -> Iterator[Mask]:
    """Objects of stills in random order, one of each, fitted into the square."""
    paths = sorted((folder / "masks").glob("*.png"))
    for i in generator.permutation(len(paths)):
        labels = np.asarray(Image.open(paths[i]))
        ids = np.unique(labels[labels > 0])
        if len(ids) == 0:
            continue
        mask = (labels == generator.choice(ids)).astype(np.uint8)
        h, w = mask.shape
        fitted = np.zeros((SIDE, SIDE), bool)
        size = (round(w * SIDE / max(h, w)), round(h * SIDE / max(h, w)))
        small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool)
        fitted[: size[1], : size[0]] = small
        yield fitted


if __name__ == "__main__":
    main()
