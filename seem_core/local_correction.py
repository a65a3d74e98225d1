"""A known mask is corrected around a user's marks, and stays as it is everywhere else.

A click on what is missing, or on what is too much, says where an error is and, by its distance to the region that it
should belong to, about how deep. Around it GrabCut (Rother et al., SIGGRAPH 2004) decides by colour how far the piece
reaches; elsewhere, and on the far side of other marks, nothing changes. So every mark takes its error away and brings
no new one far off: what a model makes of many marks need not get better with each, this does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.geometry import Geometry
from seem_core.prompt_canvas import draw_marks, is_positive
from seem_core.prompt_window import Window
from seem_core.prompts import PointPrompt, PolygonPrompt, ScribblePrompt

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W)
Soft = npt.NDArray[np.float32]
Correction = PointPrompt | ScribblePrompt | PolygonPrompt

REACH = 2.0  # depths of an error: how far from the mark its piece may reach
CORE = 0.6  # depths: what surely belongs to the piece around a click
LEAST_DEPTH = 1.5  # pixels
_SIDE = 100  # pixels: what is within reach, where GrabCut runs
_MARGIN = 0.5  # of that: what is looked at around it
_ROUNDS = 2
_SEED = 0x5EE3  # GrabCut starts its colour models by k-means from OpenCV's generator


def corrected(image: Image, mask: Mask, marks: Sequence[Correction], foreign: Sequence[Correction] = ()) -> Mask:
    """The (H, W) mask so that every positive mark lies in it and every negative one outside.

    image: (H, W, 3) uint8 RGB. marks: of this object, in the order in which they were made; those that the mask obeys
    already change nothing, and hold where others correct it. A pixel marked both ways is negative. foreign: positive
    marks of other objects, which are negative here. Only what a mark takes away entirely becomes empty. The same input
    gives the same mask.

    Raises PromptError for a place outside the image.
    """
    size = (mask.shape[0], mask.shape[1])
    wanted = [m for m in marks if is_positive(m)]
    refused = [*(m for m in marks if not is_positive(m)), *foreign]
    no = marked(refused, size)
    yes = marked(wanted, size) & ~no
    for place, positive, is_click in _places([*marks, *foreign], len(marks), size):
        wrong = place & (mask != positive) & (yes if positive else no)
        if wrong.any():
            mask = _around(image, mask, wrong, positive, is_click, yes, no)
    return (mask | yes) & ~no


def marked(marks: Sequence[Correction], size: tuple[int, int]) -> Mask:
    """(H, W) pixels that any of the marks covers, whatever it says of them. Raises PromptError for a place outside."""
    covered = np.zeros(size, np.bool_)
    for sign in (True, False):
        if some := [replace(m, object_id=1) for m in marks if is_positive(m) == sign]:
            drawn = draw_marks(some, Geometry(size, size, size))
            covered |= (drawn.positive if sign else drawn.negative)[0].numpy()
    return covered


def _places(marks: Sequence[Correction], own: int, size: tuple[int, int]) -> Iterator[tuple[Mask, bool, bool]]:
    """(H, W) pixels of each click, and of each connected part of all strokes of a sign; whether they are positive, and
    a click. The first `own` marks mean what they say, the others the contrary."""
    for n, mark in enumerate(marks):
        if isinstance(mark, PointPrompt):
            yield marked([mark], size), is_positive(mark) and n < own, True
    for sign in (True, False):
        strokes = [
            m for n, m in enumerate(marks) if not isinstance(m, PointPrompt) and (is_positive(m) and n < own) == sign
        ]
        if strokes:
            count, parts = cv2.connectedComponents(marked(strokes, size).astype(np.uint8))
            for part in range(1, count):
                yield parts == part, sign, False


def _around(image: Image, mask: Mask, wrong: Mask, positive: bool, is_click: bool, yes: Mask, no: Mask) -> Mask:
    """The mask with the pixels of one mark put right, and what belongs to them. wrong: those pixels, (H, W)."""
    own, against = (mask, no) if positive else (~mask, yes)
    depth = _depth(wrong, own, against)
    x, y, w, h = cv2.boundingRect(wrong.astype(np.uint8))
    reach = REACH * depth + 2
    box = (x - reach, y - reach, x + w - 1 + reach, y + h - 1 + reach)
    window = Window.around(box, _MARGIN, (mask.shape[0], mask.shape[1]), max(_SIDE, 2 * max(w, h)))
    piece = _piece(image, window, own, wrong, depth, is_click, against)
    return (mask | piece) & ~no if positive else (mask & ~piece) | yes


def _depth(wrong: Mask, own: Mask, against: Mask) -> float:
    """Pixels: how far the marked pixels lie from where they should belong, and not beyond marks to the contrary."""
    if own.any():
        depth = float(np.median(_distance(own)[wrong]))
    else:
        depth = float(max(wrong.shape))
    if against.any():
        depth = min(depth, float(_distance(against)[wrong].min()))
    half = float(min(wrong.shape)) / 2
    return max(LEAST_DEPTH, min(depth, half))


def _distance(region: Mask) -> Soft:
    return np.asarray(cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5), dtype=np.float32)


def _piece(image: Image, window: Window, own: Mask, wrong: Mask, depth: float, is_click: bool, against: Mask) -> Mask:
    """(H, W) the connected piece around the wrong pixels that becomes theirs; own: the region that it is added to."""
    scale = min(window.scale)
    near = window.shrink(own.astype(np.float32)) > 0.5  # (h, w)
    seeds = window.shrink(wrong.astype(np.float32)) > 0
    refused = (window.shrink(against.astype(np.float32)) > 0) & ~seeds
    far = _distance(seeds) / scale
    core = far < CORE * depth if is_click else seeds
    free = (far < REACH * depth + 2) & ~near
    trimap = np.where(near, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    trimap[free] = np.where(far[free] < depth, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    trimap[core | seeds] = cv2.GC_FGD
    trimap[refused] = cv2.GC_BGD
    found = _grabcut(window.shrink(image), trimap) & free & ~refused
    _, parts = cv2.connectedComponents((found | core | seeds).astype(np.uint8), connectivity=4)
    piece = np.isin(parts, np.unique(parts[seeds]))
    size = (window.right - window.left, window.bottom - window.top)
    larger = cv2.resize(piece.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    full = wrong.copy()
    full[window.top : window.bottom, window.left : window.right] |= larger
    return full


def _grabcut(image: npt.NDArray[np.uint8], trimap: npt.NDArray[np.uint8]) -> Mask:
    """(h, w) what GrabCut makes of a trimap, the region that grows being its foreground."""
    foreground = trimap & 1
    if foreground.any() and not foreground.all():
        cv2.setRNGSeed(_SEED)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(image), trimap, (0, 0, 1, 1), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.asarray(trimap & 1, np.bool_)
