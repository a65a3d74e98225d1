"""Masks from clicks, boxes and scribbles, by colour alone (GrabCut; Rother et al., SIGGRAPH 2004).

No network is needed: this is what a tracker without a promptable model starts from. Each object is segmented on its
own, in two steps, both on a reduced picture, so that the time is bounded whatever the picture's size:

    seeds (strokes, the core of a box)  ->  SeedModel: how likely each pixel belongs  ->  GrabCut on a closer crop

The mask is then brought to full size along the picture's edges. The same input gives the same mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError, PromptError
from seem_core.prompt_window import Box, Stroke, Window, hull
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from seem_core.seed_prior import FROM_BOX, FROM_CLICK, FROM_SCRIBBLE, SeedModel, geodesic, smooth_colours

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
    (last frame, last round): points and scribbles then correct that mask, a box starts anew. Objects may overlap; a
    positive point of one object is a negative one of all others. Except for an empty `MaskPrompt`, a mask is never
    empty.

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


@dataclass
class _Evidence:
    """All that is known of one object."""

    strokes: list[Stroke] = field(default_factory=list)
    box: Box | None = None
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
                own.strokes.append(Stroke(_inside(((x, y),), shape), 1.0, positive, is_click=True))
            case ScribblePrompt(points=points, width=width, positive=positive):
                own.strokes.append(Stroke(_inside(points, shape), max(1.0, width), positive))
            case BoxPrompt(x0=x0, y0=y0, x1=x1, y1=y1):
                box = _clipped_box((x0, y0, x1, y1), shape)
                own.box = box if own.box is None else hull(own.box, box)
            case PolygonPrompt(points=points, positive=True):
                area = _filled(_inside(points, shape), shape)
                own.mask = area if own.mask is None else own.mask | area
            case PolygonPrompt(points=points):
                own.strokes.append(Stroke(_inside((*points, points[0]), shape), 1.0, False))
            case ReferencePrompt() | TextPrompt():
                kind = "a reference picture" if isinstance(prompt, ReferencePrompt) else "a text"
                raise PromptError(
                    f"{kind} as prompt needs a SEEM model; give a mask, a box, points or a scribble instead"
                )
    for object_id, own in evidence.items():
        if own.mask is None and own.box is None and object_id in previous:
            _check_mask(previous[object_id], shape)
            own.mask = previous[object_id]
        known = own.mask is not None and bool(own.mask.any())
        if not known and own.box is None and own.strokes and not any(s.positive for s in own.strokes):
            raise PromptError(
                f"object {object_id} has negative points alone; give at least one positive point or a box"
            )
    return evidence


def _filled(corners: npt.NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """(H, W) bool: the area within a polygon's (x, y) corners, with its border."""
    canvas = np.zeros(shape, np.uint8)
    inside = corners.clip(0, (shape[1] - 1, shape[0] - 1))
    cv2.fillPoly(canvas, [np.round(inside * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(np.bool_)


def _inside(points: Iterable[tuple[float, float]], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    array = np.asarray(list(points), dtype=np.float64)
    for x, y in array:
        if not (-0.5 <= x < shape[1] - 0.5 + 1e-9 and -0.5 <= y < shape[0] - 0.5 + 1e-9):
            raise PromptError(f"point {x:g},{y:g} is outside the image, which is {shape[1]}x{shape[0]}")
    return array


def _clipped_box(box: Box, shape: tuple[int, int]) -> Box:
    """A box may stick out of the image, as objects do; it must touch it."""
    x0, y0, x1, y1 = max(0.0, box[0]), max(0.0, box[1]), min(shape[1] - 1.0, box[2]), min(shape[0] - 1.0, box[3])
    if not (x0 <= x1 and y0 <= y1 and np.isfinite(box).all()):
        given = ",".join(f"{v:g}" for v in box)
        raise PromptError(f"box {given} is outside the image, which is {shape[1]}x{shape[0]}")
    return x0, y0, x1, y1


def _check_mask(mask: Mask, shape: tuple[int, int]) -> None:
    if mask.shape != shape:
        raise MaskError(
            f"a mask is {mask.shape[1]}x{mask.shape[0]}, the image {shape[1]}x{shape[0]}; "
            "give a mask of the image's size"
        )


_PRIOR_SIDE = 112  # pixels: short side of the picture (click), longer side of the box, where the prior is computed
_CUT_SIDE = 200  # pixels: longer side of the object where GrabCut runs
_LONGEST_SIDE = 896  # pixels: longer side of the picture there, for very long pictures
_REFINE_SIDE = 960  # pixels: longer side of the crop where the border is refined
_BOX_MARGIN = 0.5  # of the box: how much of its surroundings is looked at
_CUT_MARGIN = 0.6  # of the likely object
_BOX_CORE = 0.35  # of the ellipse in the box: taken for the object
_CLICK_RADIUS = 3  # pixels at prior size: taken for the object around a click
_SURELY_NOT, _SURELY = 0.05, 0.75  # prior probabilities that GrabCut may not change
_REACH = 0.3  # of the known object's size: how far a correction may move its border
_UNSURE = 0.05  # of that size: the border's blur
_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Seeds:
    """Where a `SeedModel` starts from: seed pixels (h, w) of object and background, and how far out each pixel lies."""

    window: Window
    inside: Mask
    outside: Mask
    place: Soft


def _segment(image: Image, own: _Evidence, others: Sequence[Stroke]) -> Mask:
    shape = (image.shape[0], image.shape[1])
    positive = [s for s in own.strokes if s.positive]
    negative = [s for s in own.strokes if not s.positive] + list(others)
    known = own.mask is not None and bool(own.mask.any())
    if own.mask is not None and own.mask.any():
        window, prior = _prior_from_mask(image, own.mask, own, positive, negative)
    elif own.box is not None:
        seeds = seeds_from_box(own.box, shape, positive, negative)
        window, prior = seeds.window, _prior(image, seeds, FROM_BOX) * seeds.window.in_box(own.box)
    else:
        seeds = seeds_from_strokes(positive, shape, negative)
        model = FROM_CLICK if all(stroke.is_click for stroke in positive) else FROM_SCRIBBLE
        window, prior = seeds.window, _prior(image, seeds, model)
    strokes = window.drawn(positive, 3)
    likely = prior > _best_threshold(prior)
    likely = _touched(likely | strokes, strokes) if not known and own.box is None else likely | strokes
    cut = Window.around(window.extent(likely), _CUT_MARGIN, shape, _CUT_SIDE)
    closer = cut.taken_over(prior, window)
    found = _cut(cut.shrink(image), closer, cut.drawn(positive, 3), cut.drawn(negative, 3), not known)
    if own.box is not None and own.mask is None:
        found &= cut.in_box(own.box)
    return _to_picture(image, cut, found, own.box or window.extent(likely))


def seeds_from_box(
    box: Box, shape: tuple[int, int], positive: Sequence[Stroke] = (), negative: Sequence[Stroke] = ()
) -> Seeds:
    """The core of the ellipse in the box against everything outside the box; places are radii of that ellipse."""
    window = Window.around(box, _BOX_MARGIN, shape, _PRIOR_SIDE)
    place = window.ellipse(box)
    refused, wanted = window.drawn(negative, 3), window.drawn(positive, 3)
    core = place < max(_BOX_CORE, float(place.min()) + 1e-6)
    outside = (~window.in_box(box) | refused) & ~wanted
    if not outside.any():  # a box around the whole picture: its corners are all that is left
        outside = (place >= np.quantile(place, 0.9)) & ~wanted
    return Seeds(window, (core & ~refused) | wanted, outside, place)


def seeds_from_strokes(positive: Sequence[Stroke], shape: tuple[int, int], negative: Sequence[Stroke] = ()) -> Seeds:
    """Strokes, and a little around clicks, against negative ones and the picture's rim; places are distances."""
    H, W = shape
    scale = min(1.0, _PRIOR_SIDE / min(H, W), _LONGEST_SIDE / max(H, W))
    window = Window(0, 0, W, H, max(8, round(H * scale)), max(8, round(W * scale)))
    refused = _around(window, negative)
    inside = (_around(window, positive) & ~refused) | window.drawn(positive, 3)
    outside = refused.copy()
    outside[[0, 1, -2, -1]] = outside[:, [0, 1, -2, -1]] = True
    place = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) / min(window.h, window.w)
    return Seeds(window, inside, outside & ~inside, np.asarray(place, dtype=np.float32))


def _around(window: Window, strokes: Sequence[Stroke]) -> Mask:
    """(h, w) What strokes say as they are drawn, and clicks with their surroundings."""
    clicks, scribbles = [s for s in strokes if s.is_click], [s for s in strokes if not s.is_click]
    return window.drawn(clicks, 2 * _CLICK_RADIUS + 1) | window.drawn(scribbles, 3)


def _prior(image: Image, seeds: Seeds, model: SeedModel) -> Soft:
    """(h, w) probabilities; where one side has no seed at all, whatever is not the other's is as likely as not."""
    if not (seeds.inside.any() and seeds.outside.any()):
        return np.where(seeds.outside, np.float32(0), np.float32(0.5))
    return model(seeds.window.shrink(image), seeds.inside, seeds.outside, seeds.place)


def _prior_from_mask(
    image: Image, known: Mask, own: _Evidence, positive: Sequence[Stroke], negative: Sequence[Stroke]
) -> tuple[Window, Soft]:
    """What is known already, less sure near its border; nothing far from it or on the side of negative strokes."""
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    box: Box = (float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1]))
    for around in [*([own.box] if own.box else []), *(stroke.box for stroke in positive)]:
        box = hull(box, around)
    window = Window.around(box, _BOX_MARGIN, (known.shape[0], known.shape[1]), _CUT_SIDE)
    small = np.asarray(window.shrink(known.astype(np.float32)), dtype=np.float32)  # (h, w)
    size = max(4.0, float(np.sqrt(small.sum())))
    wanted, refused = window.drawn(positive, 3), window.drawn(negative, 3)
    seeds = (small > 0.5) | wanted
    reachable = cv2.distanceTransform((~seeds).astype(np.uint8), cv2.DIST_L2, 5) < _REACH * size
    blur = max(1.0, _UNSURE * size)
    prior = np.clip(cv2.GaussianBlur(small, (0, 0), blur), _SURELY_NOT + 0.01, _SURELY - 0.01) * reachable
    core = cv2.distanceTransform((small > 0.5).astype(np.uint8), cv2.DIST_L2, 5) > 2 * blur
    prior = np.where(core, np.float32(1), prior)
    if (wanted | refused).any():
        colours = smooth_colours(window.shrink(image))
        to_wanted, to_refused = (_way(strokes, colours, seeds) for strokes in (wanted, refused))
        prior = np.maximum(prior, (1 - to_wanted) * reachable / 2)
        prior = np.where(to_refused < to_wanted, prior * to_refused**2, prior)
    return window, np.asarray(prior, dtype=np.float32)


def _way(strokes: Mask, colours: Soft, known: Mask) -> Soft:
    """(h, w) Geodesic distance to the strokes, 1 at (and beyond) the distance of half of the known object."""
    if not strokes.any():
        return np.ones(strokes.shape, np.float32)
    way = geodesic(colours, strokes)
    return np.asarray(np.minimum(way / (np.median(way[known]) + 1e-6), 1), dtype=np.float32)


def _cut(image: npt.NDArray[Any], prior: Soft, positive: Mask, negative: Mask, connected: bool) -> Mask:
    """GrabCut from a prior; with ``connected`` only pieces that a positive stroke touches are kept."""
    threshold = _best_threshold(prior)
    trimap = np.where(prior > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[prior < min(_SURELY_NOT, 0.6 * threshold)] = cv2.GC_BGD
    trimap[prior > max(_SURELY, threshold)] = cv2.GC_FGD
    trimap[positive] = cv2.GC_FGD
    trimap[negative & ~positive] = cv2.GC_BGD
    start = (trimap & 1).astype(np.bool_)
    found = _grabcut(image, trimap, _ROUNDS)
    if not found.any():
        found = start
    return _touched(found, positive) if connected and positive.any() else found


def _touched(found: Mask, seeds: Mask) -> Mask:
    _, pieces = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    kept = np.isin(pieces, np.unique(np.asarray(pieces)[seeds & found]))
    return np.asarray(kept & found) if (kept & found).any() else found


def _to_picture(image: Image, window: Window, found: Mask, fallback: Box) -> Mask:
    """(H, W) mask: ``found`` enlarged along the picture's edges, or the ellipse in ``fallback`` if it is empty."""
    shape = (image.shape[0], image.shape[1])
    full = np.zeros(shape, np.bool_)
    if not found.any():
        found = window.ellipse(fallback) <= 1
    height, width = window.bottom - window.top, window.right - window.left
    soft = found.astype(np.float32)
    zoom = min(1.0, _REFINE_SIDE / max(height, width)) * width / window.w
    if zoom > 1.2:
        size = (round(window.w * zoom), round(window.h * zoom))
        guide = cv2.cvtColor(cv2.resize(window.crop(image), size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        soft = _guided(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR), guide, max(2, round(2 * zoom)))
    full[window.top : window.bottom, window.left : window.right] = (
        cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    )
    if not full.any():  # smaller than a pixel
        x, y = round((fallback[0] + fallback[2]) / 2), round((fallback[1] + fallback[3]) / 2)
        full[min(y, shape[0] - 1), min(x, shape[1] - 1)] = True
    return full


def _guided(soft: npt.NDArray[Any], guide: npt.NDArray[Any], radius: int, epsilon: float = 1e-4) -> npt.NDArray[Any]:
    """Guided filter (He et al., ECCV 2010) of (h, w) by a grey picture."""

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    grey = guide.astype(np.float32) / 255
    mean_grey, mean_soft = mean(grey), mean(soft)
    slope = (mean(grey * soft) - mean_grey * mean_soft) / (mean(grey * grey) - mean_grey**2 + epsilon)
    return np.asarray(mean(slope) * grey + mean(mean_soft - slope * mean_grey))


def _best_threshold(prior: Soft) -> float:
    """The threshold whose mask has the best expected IoU if the prior is right."""
    values = np.sort(prior, axis=None)[::-1].astype(np.float64)
    inside = np.cumsum(values)
    expected = inside / (np.arange(1, len(values) + 1) + inside[-1] - inside + 1e-9)
    return float(min(values[expected.argmax()], 0.999)) - 1e-6


def _grabcut(small: npt.NDArray[Any], trimap: npt.NDArray[np.uint8], rounds: int) -> Mask:
    foreground = trimap & 1
    if foreground.all() or not foreground.any():
        return foreground.astype(np.bool_)
    cv2.setRNGSeed(_SEED)
    background, object_ = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, trimap, (0, 0, 1, 1), background, object_, rounds, cv2.GC_INIT_WITH_MASK)
    return np.asarray((trimap & 1).astype(np.bool_))
