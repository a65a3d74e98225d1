"""Masks from clicks, boxes and scribbles with colour models alone (GrabCut, Rother et al., SIGGRAPH 2004).

No weights are needed: this is what a tracker without a promptable model starts from. Each object is segmented on its
own, on a crop around its prompts at a reduced size, so the time is bounded whatever the picture's size; the border is
then refined on the full picture. The same input gives the same mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W)
Soft = npt.NDArray[np.float32]  # (h, w), 0..1

_SEED = 0x5EE3  # GrabCut starts its colour models by k-means from OpenCV's generator


def masks_from_prompts(
    image: Image, prompts: Sequence[Prompt], previous: Mapping[int, Mask] | None = None
) -> dict[int, Mask]:
    """One mask per object that is named in ``prompts``, in the order in which they are first named.

    ``image`` is (H, W, 3) uint8 RGB; masks are (H, W) bool; prompts are in pixels of the image. A `MaskPrompt` passes
    through, unless points or scribbles of the same object correct it. ``previous`` holds what is known of an object
    (last frame, last round): points and scribbles then correct that mask. Objects may overlap; a positive point of one
    object is a negative one of all others. Except for an empty `MaskPrompt`, a mask is never empty.

    Raises PromptError for a prompt outside the image, for an object with negative points alone, and for reference and
    text prompts, which need a SEEM model; MaskError for a mask of another size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
    shape = (image.shape[0], image.shape[1])
    evidence = _gather(prompts, shape, previous or {})
    masks: dict[int, Mask] = {}
    for object_id, own in evidence.items():
        if not own.strokes and own.box is None:
            masks[object_id] = own.mask.copy() if own.mask is not None else np.zeros(shape, np.bool_)
            continue
        others = [s for i, e in evidence.items() if i != object_id for s in e.strokes if s.positive]
        masks[object_id] = _segment(image, own, others)
    return masks


@dataclass(frozen=True)
class _Stroke:
    """A point or scribble: (K, 2) x, y in image pixels."""

    points: npt.NDArray[np.float64]
    width: float
    positive: bool


@dataclass
class _Evidence:
    """All that is known of one object."""

    strokes: list[_Stroke] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: Mask | None = None


def _gather(prompts: Sequence[Prompt], shape: tuple[int, int], previous: Mapping[int, Mask]) -> dict[int, _Evidence]:
    evidence: dict[int, _Evidence] = {}
    for prompt in prompts:
        own = evidence.setdefault(prompt.object_id, _Evidence())
        match prompt:
            case MaskPrompt(mask=mask):
                _check_mask(mask, shape)
                own.mask = mask if own.mask is None else own.mask | mask
            case PointPrompt(x=x, y=y, positive=positive):
                own.strokes.append(_Stroke(_inside(((x, y),), shape), 1.0, positive))
            case ScribblePrompt(points=points, width=width, positive=positive):
                own.strokes.append(_Stroke(_inside(points, shape), max(1.0, width), positive))
            case BoxPrompt(x0=x0, y0=y0, x1=x1, y1=y1):
                box = _clipped_box((x0, y0, x1, y1), shape)
                own.box = box if own.box is None else _hull(own.box, box)
            case ReferencePrompt() | TextPrompt():
                kind = "a reference picture" if isinstance(prompt, ReferencePrompt) else "a text"
                raise PromptError(
                    f"{kind} as prompt needs a SEEM model; give a mask, a box, points or a scribble instead"
                )
    for object_id, own in evidence.items():
        if own.mask is None and object_id in previous:
            _check_mask(previous[object_id], shape)
            own.mask = previous[object_id]
        known = own.mask is not None and bool(own.mask.any())
        if not known and own.box is None and own.strokes and not any(s.positive for s in own.strokes):
            raise PromptError(
                f"object {object_id} has negative points alone; give at least one positive point or a box"
            )
    return evidence


def _inside(points: Iterable[tuple[float, float]], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    array = np.asarray(list(points), dtype=np.float64)
    for x, y in array:
        if not (-0.5 <= x < shape[1] - 0.5 + 1e-9 and -0.5 <= y < shape[0] - 0.5 + 1e-9):
            raise PromptError(f"point {x:g},{y:g} is outside the image, which is {shape[1]}x{shape[0]}")
    return array


def _clipped_box(box: tuple[float, float, float, float], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box may stick out of the image, as objects do; it must touch it."""
    x0, y0, x1, y1 = max(0.0, box[0]), max(0.0, box[1]), min(shape[1] - 1.0, box[2]), min(shape[0] - 1.0, box[3])
    if not (x0 <= x1 and y0 <= y1 and np.isfinite(box).all()):
        given = ",".join(f"{v:g}" for v in box)
        raise PromptError(f"box {given} is outside the image, which is {shape[1]}x{shape[0]}")
    return x0, y0, x1, y1


def _hull(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _check_mask(mask: Mask, shape: tuple[int, int]) -> None:
    if mask.shape != shape:
        raise MaskError(
            f"a mask is {mask.shape[1]}x{mask.shape[0]}, the image {shape[1]}x{shape[0]}; "
            "give a mask of the image's size"
        )


# First cut: whole-picture GrabCut from a core and a rim.
_WORKING = 240  # pixels, the longer side of what is looked for


def _segment(image: Image, own: _Evidence, others: Sequence[_Stroke]) -> Mask:
    shape = (image.shape[0], image.shape[1])
    box = own.box or _guess_box(own, shape)
    margin = 0.5
    grow_x, grow_y = margin * (box[2] - box[0] + 1), margin * (box[3] - box[1] + 1)
    left, top = int(max(0, box[0] - grow_x)), int(max(0, box[1] - grow_y))
    right, bottom = int(min(shape[1], box[2] + 1 + grow_x)), int(min(shape[0], box[3] + 1 + grow_y))
    crop = image[top:bottom, left:right]
    scale = min(1.5, _WORKING / max(box[2] - box[0] + 1, box[3] - box[1] + 1))
    w, h = max(8, round(crop.shape[1] * scale)), max(8, round(crop.shape[0] * scale))
    small = cv2.resize(crop, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    fx, fy = w / crop.shape[1], h / crop.shape[0]
    xs = (np.arange(w) + 0.5) / fx + left - 0.5
    ys = ((np.arange(h) + 0.5) / fy + top - 0.5)[:, None]
    inside = (xs >= box[0]) & (xs <= box[2]) & (ys >= box[1]) & (ys <= box[3])
    radius = np.hypot(
        (xs - (box[0] + box[2]) / 2) / ((box[2] - box[0] + 1) / 2),
        (ys - (box[1] + box[3]) / 2) / ((box[3] - box[1] + 1) / 2),
    )
    trimap = np.full((h, w), cv2.GC_BGD, np.uint8)
    trimap[inside] = cv2.GC_PR_BGD
    trimap[inside & (radius < 1.1)] = cv2.GC_PR_FGD
    if own.mask is not None and own.mask.any():
        known = cv2.resize(own.mask[top:bottom, left:right].astype(np.uint8), (w, h), interpolation=cv2.INTER_AREA) > 0
        trimap[:] = np.where(known, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    else:
        trimap[radius < 0.3] = cv2.GC_FGD
    positive = np.zeros((h, w), np.uint8)
    for stroke in [*own.strokes, *others]:
        p = np.column_stack([(stroke.points[:, 0] + 0.5 - left) * fx, (stroke.points[:, 1] + 0.5 - top) * fy])
        width = max(5, round(stroke.width * scale))
        own_positive = stroke.positive and not any(stroke is o for o in others)
        canvas = np.zeros((h, w), np.uint8)
        cv2.polylines(canvas, [np.floor(p).astype(np.int32)], False, 1, width)
        trimap[canvas > 0] = cv2.GC_FGD if own_positive else cv2.GC_BGD
        if own_positive:
            positive |= canvas
    found = _grabcut(small, trimap, 3)
    if not found.any():
        found = (radius < 1) & inside
    full = np.zeros(shape, np.bool_)
    up = cv2.resize(found.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    full[top:bottom, left:right] = up > 0.5
    if not full.any():
        x, y = round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)
        full[y, x] = True
    return full


def _guess_box(own: _Evidence, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    points = np.concatenate([s.points for s in own.strokes if s.positive] or [np.zeros((0, 2))])
    if own.mask is not None and own.mask.any():
        ys, xs = np.nonzero(own.mask)
        points = np.concatenate([points, [[xs.min(), ys.min()], [xs.max(), ys.max()]]])
    reach = min(shape) / 4
    (x0, y0), (x1, y1) = points.min(0) - reach, points.max(0) + reach
    return max(0.0, x0), max(0.0, y0), min(shape[1] - 1.0, x1), min(shape[0] - 1.0, y1)


def _grabcut(small: npt.NDArray[Any], trimap: npt.NDArray[np.uint8], rounds: int) -> Mask:
    foreground = trimap & 1
    if foreground.all() or not foreground.any():
        return foreground.astype(np.bool_)
    cv2.setRNGSeed(_SEED)
    background, object_ = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, trimap, (0, 0, 1, 1), background, object_, rounds, cv2.GC_INIT_WITH_MASK)
    return np.asarray((trimap & 1).astype(np.bool_))
