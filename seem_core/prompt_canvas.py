"""Prompts drawn on the network's input canvas: per object one mask of positive pixels and one of negative ones.

To SEEM a point, a stroke, a box, a polygon and a mask are one thing, a set of marked pixels (paper, "Versatile"; SPEC
§6). They are drawn at the size at which the picture is encoded, so that a click on a large picture does not vanish
when the picture is made smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.geometry import Geometry
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt

Canvas = npt.NDArray[np.uint8]
Mark = PointPrompt | BoxPrompt | ScribblePrompt | PolygonPrompt | MaskPrompt
MARKS = (PointPrompt, BoxPrompt, ScribblePrompt, PolygonPrompt, MaskPrompt)
POINT_SIDE = 3
"""A click marks a square of so many pixels of the resized picture, as in the published evaluation (SPEC §8)."""

_THICKEST = 32767  # of a line that cv2 draws
_SHIFT = 4  # cv2 draws with 4 fractional bits of a pixel


@dataclass(frozen=True, eq=False)
class Canvases:
    """Marked pixels of N objects on the padded input: positive, negative (N, H, W) bool. No pixel is both."""

    ids: tuple[int, ...]
    positive: Tensor
    negative: Tensor


def draw_marks(prompts: Sequence[Prompt], geometry: Geometry) -> Canvases:
    """Canvases of all objects that `prompts` mark on this picture, in ascending order of their ids.

    A pixel marked both ways is negative, so that a click can take a piece out of a box. Reference pictures and words
    are left to others. Raises PromptError for a place outside the picture and for an object whose positive marks are
    all taken back, MaskError for a mask of another size.
    """
    marks = [prompt for prompt in prompts if isinstance(prompt, MARKS)]
    ids = tuple(sorted({mark.object_id for mark in marks}))
    positive = [_draw((m for m in marks if m.object_id == i and is_positive(m)), geometry) for i in ids]
    negative = [_draw((m for m in marks if m.object_id == i and not is_positive(m)), geometry) for i in ids]
    for i, yes, no in zip(ids, positive, negative, strict=True):
        taken_back = yes.any() and not (yes & ~no).any()
        yes &= ~no
        if taken_back:
            raise PromptError(f"negative marks cover all that is positive of object {i}; move them off the object")
    return Canvases(ids, _stack(positive, geometry), _stack(negative, geometry))


def is_positive(prompt: Prompt) -> bool:
    """Whether a prompt says what the object is; some kinds can also say what it is not."""
    return bool(getattr(prompt, "positive", True))


def check_mark(mark: Mark, source: tuple[int, int]) -> None:
    """Refuse a mark that does not fit a picture of (H, W) pixels. A box may end at W or H, as ends of ranges do."""
    h, w = source
    if isinstance(mark, MaskPrompt):
        if mark.mask.shape != source:
            mh, mw = mark.mask.shape
            raise MaskError(
                f"the mask of object {mark.object_id} is {mw}x{mh}, the picture {w}x{h}; give one of its size"
            )
        if not mark.mask.any():
            raise PromptError(f"the mask of object {mark.object_id} is empty; mark at least one pixel")
    elif isinstance(mark, BoxPrompt):
        if mark.x0 < -0.5 or mark.y0 < -0.5 or mark.x1 > w or mark.y1 > h:
            box = f"{mark.x0:g},{mark.y0:g},{mark.x1:g},{mark.y1:g}"
            raise PromptError(f"box {box} reaches outside the picture of {w}x{h}; give corners x0,y0,x1,y1 inside it")
    else:
        points = [(mark.x, mark.y)] if isinstance(mark, PointPrompt) else mark.points
        what = {PointPrompt: "point", ScribblePrompt: "scribble"}.get(type(mark), "polygon")
        for x, y in points:
            if not (-0.5 <= x < w - 0.5 and -0.5 <= y < h - 0.5):
                raise PromptError(
                    f"{what} {x:g},{y:g} lies outside the picture of {w}x{h}; "
                    f"x goes from 0 to {w - 1} and y from 0 to {h - 1}"
                )
    if isinstance(mark, ScribblePrompt) and not 0 < mark.width < float("inf"):
        raise PromptError(f"a scribble is some pixels wide, not {mark.width:g}")


def mask_on_canvas(mask: Tensor, geometry: Geometry) -> Tensor:
    """(N, H, W) bool at source size -> (N, H', W') on the padded input; what was marked stays marked.

    Resized as the published demo does; where a large picture is made so much smaller that the marks of an object fall
    between the samples, the pixels that hold them are marked.
    """
    canvas = geometry.mask_to_padded(mask)
    for n in range(len(mask)):
        if not canvas[n].any() and mask[n].any():
            rows, columns = mask[n].nonzero(as_tuple=True)
            (H, W), (h, w) = geometry.source, geometry.image
            canvas[n, rows * h // H, columns * w // W] = True
    return canvas


def _draw(marks: Iterable[Mark], geometry: Geometry) -> npt.NDArray[np.bool_]:
    """All of `marks` on one (h, w) canvas of the resized picture."""
    canvas = np.zeros(geometry.image, np.uint8)
    for mark in marks:
        check_mark(mark, geometry.source)
        if isinstance(mark, MaskPrompt):
            h, w = geometry.image
            canvas |= mask_on_canvas(torch.from_numpy(mark.mask)[None], geometry)[0, :h, :w].numpy()
        elif isinstance(mark, PointPrompt):
            x, y = geometry.pixel_to_image(mark.x, mark.y)
            around = POINT_SIDE // 2
            canvas[max(y - around, 0) : y + around + 1, max(x - around, 0) : x + around + 1] = 1
        elif isinstance(mark, BoxPrompt):
            _draw_box(canvas, mark, geometry)
        else:
            _draw_points(canvas, mark, geometry)
    return canvas.astype(bool)


def _draw_box(canvas: Canvas, box: BoxPrompt, geometry: Geometry) -> None:
    """Every pixel whose centre lies in the box, at least one."""
    (x0, y0), (x1, y1) = geometry.points_to_image([(box.x0, box.y0), (box.x1, box.y1)])
    h, w = canvas.shape
    top, left = min(max(round(y0), 0), h - 1), min(max(round(x0), 0), w - 1)
    canvas[top : max(round(y1), top) + 1, left : max(round(x1), left) + 1] = 1


def _draw_points(canvas: Canvas, mark: ScribblePrompt | PolygonPrompt, geometry: Geometry) -> None:
    """A stroke along the points, or the area within them; its border belongs to it."""
    h, w = canvas.shape
    points = geometry.points_to_image(mark.points).clip(0, (w - 1, h - 1))  # the picture ends half a pixel further out
    fixed = np.round(points * 2**_SHIFT).astype(np.int32)  # (n, 2) in sixteenths of a pixel
    if isinstance(mark, PolygonPrompt):
        cv2.fillPoly(canvas, [fixed], 1, shift=_SHIFT)
        return
    scale = (geometry.image[0] / geometry.source[0] + geometry.image[1] / geometry.source[1]) / 2
    thickness = max(1, round(min(mark.width * scale, 2 * sum(canvas.shape), _THICKEST)))
    fixed = fixed if len(fixed) > 1 else fixed.repeat(2, axis=0)  # one point alone would draw nothing
    cv2.polylines(canvas, [fixed], False, 1, thickness, shift=_SHIFT)


def _stack(canvases: list[npt.NDArray[np.bool_]], geometry: Geometry) -> Tensor:
    """(N, H, W) bool on the padded input."""
    if not canvases:
        return torch.zeros(0, *geometry.padded, dtype=torch.bool)
    return geometry.pad(torch.from_numpy(np.stack(canvases)))
