"""A small model reads the marks of an object from several views: the whole picture, a closer one, and their mirrors.

What a model knows of a border it knows in cells of its input, and an object that is small in the picture has few of
them. The first answer, or a box, says where to look closer. What the closer view and its mirror answer is averaged, and
its borders are made sharp (`trackers.still_borders`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from seem_core.errors import PromptError
from seem_core.geometry import Geometry, InputSize
from seem_core.prompt_canvas import Mark, check_mark, draw_marks, is_positive
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt
from trackers.base import Image

if TYPE_CHECKING:
    from seem_core.segmenter import SeemSegmenter
    from trackers.still_borders import StillBorders

Mask = npt.NDArray[np.bool_]  # (H, W)
Soft = npt.NDArray[np.float32]  # (H, W)

CLOSER = InputSize(224)
"""How large the closer view is encoded."""
MARGIN = 0.15  # of the longer side of what it shows: how much more it shows on each side
_LEAST_MARGIN = 8  # pixels


@dataclass(frozen=True)
class View:
    """A part of the picture, its right and bottom excluded; mirrored left to right or not."""

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool = False

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the view shows of (H, W) or (H, W, C)."""
        part = values[self.top : self.bottom, self.left : self.right]
        return part[:, ::-1] if self.mirrored else part

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A place of the picture in the view, at its border where it lies outside."""
        x = min(max(x, self.left), self.right - 1)
        y = min(max(y, self.top), self.bottom - 1)
        return (self.right - 1 - x if self.mirrored else x - self.left), y - self.top

    def shows(self, mark: Mark) -> bool:
        """Whether a click lies in the view; other marks always count, as far as they do."""
        if not isinstance(mark, PointPrompt):
            return True
        return self.left <= mark.x <= self.right - 1 and self.top <= mark.y <= self.bottom - 1

    def moved(self, mark: Mark) -> Mark:
        """The mark in the pixels of the view."""
        if isinstance(mark, PointPrompt):
            x, y = self.place(mark.x, mark.y)
            return replace(mark, x=x, y=y)
        if isinstance(mark, BoxPrompt):
            (xa, ya), (xb, yb) = self.place(mark.x0, mark.y0), self.place(mark.x1, mark.y1)
            return replace(mark, x0=min(xa, xb), y0=ya, x1=max(xa, xb), y1=yb)
        if isinstance(mark, MaskPrompt):
            return replace(mark, mask=np.ascontiguousarray(self.of(mark.mask)))
        return replace(mark, points=tuple(self.place(x, y) for x, y in mark.points))


def read_marks(
    image: Image,
    prompts: Mapping[int, Sequence[Mark]],
    segmenter: SeemSegmenter,
    borders: StillBorders | None = None,
) -> dict[int, Mask]:
    """Object id -> (H, W) bool mask of what its marks show; empty where the model finds nothing that they touch.

    image: (H, W, 3) uint8 RGB; prompts are in its pixels, and marks alone (no words, no references). Of an answer those
    parts count that a positive mark touches, and nothing outside of boxes. borders: makes the answers sharp.

    Raises PromptError for a place outside the image and for an object without a positive mark.
    """
    h, w = image.shape[:2]
    for mark in (m for of in prompts.values() for m in of):
        check_mark(mark, (h, w))
    whole = View(0, 0, w, h)
    close = segmenter.at(CLOSER)
    seen = {i: of for i, of in prompts.items() if not _boxes(of)}
    found = _ask(segmenter, image, whole, seen) if seen else {}
    masks: dict[int, Mask] = {}
    for i, of in prompts.items():
        first = marked_parts(found[i] > 0, of) if i in found else marked_parts(np.ones((h, w), np.bool_), of)
        if not first.any():
            first = _searched(close, image, i, of)
        closer = _closer(close, borders, image, i, of, first) if first.any() else first
        masks[i] = closer if closer.any() or i not in found else first
    return masks


def marked_parts(mask: Mask, prompts: Sequence[Mark]) -> Mask:
    """The parts of an (H, W) mask that a positive mark touches; nothing outside of boxes.

    A small model likes to add what only looks alike; that it is one object with the marked part, nothing says.
    """
    size = (mask.shape[0], mask.shape[1])
    whole = Geometry(size, size, size)
    if boxes := _boxes(prompts):
        mask = mask & draw_marks(boxes, whole).positive[0].numpy()
    touched = np.zeros(size, np.bool_)
    if marks := [p for p in prompts if is_positive(p)]:
        touched |= draw_marks(marks, whole).positive[0].numpy()
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    return np.isin(parts, np.unique(parts[touched & mask]))


def _boxes(prompts: Sequence[Mark]) -> list[BoxPrompt]:
    return [p for p in prompts if isinstance(p, BoxPrompt)]


def _ask(segmenter: SeemSegmenter, image: Image, view: View, prompts: Mapping[int, Sequence[Mark]]) -> dict[int, Soft]:
    """Object id -> (h, w) log-odds in the pixels of the view, not mirrored.

    Where the picture is encoded so small that negative marks cover the positive ones, the positive ones are asked.
    """
    part = np.ascontiguousarray(view.of(image))
    features = segmenter.encode(torch.from_numpy(part).permute(2, 0, 1))
    shown = [view.moved(p) for of in prompts.values() for p in of if view.shows(p)]
    try:
        answer = segmenter.segment(features, shown)
    except PromptError:
        positive = [p for p in shown if is_positive(p)]
        if {p.object_id for p in positive} != set(prompts):
            raise
        answer = segmenter.segment(features, positive)
    logits: Soft = answer.geometry.logits_to_source(answer.logits).cpu().numpy()  # (N, h, w)
    logits = logits[:, :, ::-1] if view.mirrored else logits
    return dict(zip(answer.ids, logits, strict=True))


def _searched(segmenter: SeemSegmenter, image: Image, object_id: int, prompts: Sequence[Mark]) -> Mask:
    """What is found around the marks of an object that is too small to be seen in the whole picture; may be empty."""
    h, w = image.shape[:2]
    x0, y0, x1, y1 = _extent(np.zeros((h, w), np.bool_), prompts)
    found = np.zeros((h, w), np.bool_)
    for share in (2, 4):
        margin = max(0.0, (min(h, w) / share - max(x1 - x0, y1 - y0)) / 2)
        view = _view((x0, y0, x1, y1), margin, (h, w))
        logits = _ask(segmenter, image, view, {object_id: prompts})[object_id]
        view.of(found)[:] = logits > 0
        found = marked_parts(found, prompts)
        if found.any():
            break
    return found


def _closer(
    segmenter: SeemSegmenter,
    borders: StillBorders | None,
    image: Image,
    object_id: int,
    prompts: Sequence[Mark],
    first: Mask,
) -> Mask:
    """The mask as a closer view and its mirror show it; first: where to look. May be empty."""
    box = _extent(first, prompts)
    margin = MARGIN * max(box[2] - box[0] + 1, box[3] - box[1] + 1) + _LEAST_MARGIN
    view = _view(box, margin, first.shape)
    views = (view, replace(view, mirrored=True))
    logits: Soft = np.stack([_ask(segmenter, image, v, {object_id: prompts})[object_id] for v in views]).mean(0)
    mask = np.zeros_like(first)
    part = logits > 0
    if borders is not None and part.any():
        part = borders.sharpened(view.of(image), logits) > 0.5
    view.of(mask)[:] = part
    return marked_parts(mask, prompts)


def _extent(mask: Mask, prompts: Sequence[Mark]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1, corners inside, of the mask and all positive marks; at least a pixel."""
    size = (mask.shape[0], mask.shape[1])
    marks = [p for p in prompts if is_positive(p)]
    drawn = draw_marks(marks, Geometry(size, size, size)).positive[0].numpy()
    x, y, w, h = cv2.boundingRect((mask | drawn).astype(np.uint8))
    return x, y, x + w - 1, y + h - 1


def _view(box: tuple[float, float, float, float], margin: float, size: tuple[int, ...]) -> View:
    x0, y0, x1, y1 = box
    return View(
        max(0, int(x0 - margin)),
        max(0, int(y0 - margin)),
        min(size[1], int(x1 + margin) + 1),
        min(size[0], int(y1 + margin) + 1),
    )
