"""Prompts become masks: what a tracker makes of masks, marks and words before it follows the objects.

Marks are read by the model that the tracker was given. Without one, the small one that ships (`shipped_segmenter`)
gives an object its first mask (`trackers.mark_reading`), or colour does where the model finds nothing; marks then
correct it around themselves (`seem_core.local_correction`). A point or a scribble on an object that is known corrects
the mask it has; a box, a polygon, a mask or words start it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from seem_core.errors import MaskError, PromptError
from seem_core.grabcut import masks_from_prompts
from seem_core.local_correction import corrected, marked
from seem_core.model_store import shipped_path
from seem_core.prompt_canvas import MARKS, Mark, check_mark, is_positive
from seem_core.prompts import (
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from seem_core.segmenter_types import Prediction, Segmenter, masks_as_prediction
from trackers.base import Image, ObjectMasks
from trackers.mark_reading import read_marks
from trackers.still_borders import shipped_borders

if TYPE_CHECKING:
    from seem_core.segmenter import SeemSegmenter

Mask = npt.NDArray[np.bool_]  # (H, W)
SHIPPED = "lite"


def given_masks(
    image: Image,
    prompts: Sequence[Prompt],
    found: ObjectMasks | None,
    *,
    segmenter: Segmenter | None = None,
    features: Any = None,
) -> dict[int, Mask]:
    """Object id -> (H, W) bool mask of every object that is named by mask, marks or words, in the order first named.

    image: (H, W, 3) uint8 RGB; prompts are in its pixels. found: what is known of this frame without them, for
    corrections. segmenter reads marks and words; without one, marks are read as said above. features: the frame as the
    segmenter encoded it, where that is done already. Objects with references alone are left out, see `references`.
    Several masks of one object add up; no mask is empty.

    Raises PromptError for a place outside the image, an object with negative marks alone that has no mask yet, an empty
    mask, words without a segmenter, words that nothing fits; MaskError for a mask of another size.
    """
    shown = list(dict.fromkeys(p.object_id for p in prompts if not isinstance(p, ReferencePrompt)))
    of = {i: [p for p in prompts if p.object_id == i] for i in shown}
    asked = [i for i in shown if not all(isinstance(p, MaskPrompt | ReferencePrompt) for p in of[i])]
    given = {i: _sum_of_masks(image, of[i]) for i in shown if i not in asked}
    for i in asked:
        _sum_of_masks(image, [p for p in of[i] if isinstance(p, MaskPrompt)])
    if segmenter is not None and asked:
        given |= _by_segmenter(image, {i: of[i] for i in asked}, found, segmenter, features)
    elif asked:
        given |= _by_default(image, of, asked, found)
    return {i: given[i] for i in shown}


def references(prompts: Sequence[Prompt]) -> dict[int, tuple[ReferencePrompt, ...]]:
    """Object id -> the other pictures that it is shown on, whatever else names it on this one.

    Raises PromptError for an empty mask.
    """
    pictures: dict[int, tuple[ReferencePrompt, ...]] = {}
    for prompt in prompts:
        if not isinstance(prompt, ReferencePrompt):
            continue
        if not prompt.mask.any():
            raise PromptError(f"the reference mask of object {prompt.object_id} is empty; mark the object on it")
        pictures[prompt.object_id] = (*pictures.get(prompt.object_id, ()), prompt)
    return pictures


def usable_kinds(segmenter: Segmenter | None, *, references: bool = True) -> frozenset[type[Prompt]]:
    """The kinds of prompts that a tracker with this segmenter, or without one, can use."""
    words = segmenter is not None and bool(getattr(segmenter, "reads_words", True))
    left_out = {*(() if words else (TextPrompt,)), *(() if references else (ReferencePrompt,))}
    return frozenset(kind for kind in get_args(Prompt) if kind not in left_out)


def reads_previous_mask(segmenter: Segmenter) -> bool:
    """Whether the segmenter makes use of the mask of the round or frame before; SEEM's routing `demo` does not."""
    return bool(getattr(segmenter, "reads_previous_mask", True))


def device_of(segmenter: Segmenter) -> torch.device:
    """Where the segmenter's tensors lie; the CPU where it does not say."""
    return torch.device(getattr(segmenter, "device", "cpu"))


def as_picture(image: Image) -> torch.Tensor:
    """(H, W, 3) uint8 RGB array -> (3, H, W) tensor, as segmenters take it."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _sum_of_masks(image: Image, prompts: Sequence[Prompt]) -> Mask:
    """Everything that the mask prompts of one object cover; checked, as any mask that comes from outside."""
    total = np.zeros(image.shape[:2], np.bool_)
    for prompt in prompts:
        if not isinstance(prompt, MaskPrompt):
            continue
        if prompt.mask.shape != image.shape[:2]:
            raise MaskError(
                f"the mask of object {prompt.object_id} is {prompt.mask.shape[1]}x{prompt.mask.shape[0]}, the frame"
                f" {image.shape[1]}x{image.shape[0]}; give a mask of the frame's size"
            )
        if not prompt.mask.any():
            raise PromptError(f"the mask of object {prompt.object_id} is empty; mark at least one pixel")
        total |= prompt.mask
    return total


@cache
def shipped_segmenter() -> SeemSegmenter | None:
    """The model `lite`, which reads marks where no other model is given; None where it does not ship with the package.

    Loaded once per process, on the CPU.
    """
    if shipped_path(SHIPPED) is None:
        return None
    from seem_core.segmenter import load_segmenter

    return load_segmenter(SHIPPED)


def _by_default(
    image: Image, of: dict[int, list[Prompt]], asked: Sequence[int], found: ObjectMasks | None, *, shipped: bool = True
) -> dict[int, Mask]:
    """Without a model of the user's: the one that ships, and colour where that finds nothing, give an object its first
    mask; corrections change it around themselves. shipped: whether that model is asked."""
    _refuse_words(of, asked)
    marks = {i: [p for p in prompts if isinstance(p, MARKS)] for i, prompts in of.items()}
    known = {i: _known(image, marks[i], None if found is None or i not in found.ids else found.mask(i)) for i in asked}
    fresh = [i for i in asked if not known[i].any()]
    lite = shipped_segmenter() if fresh and shipped else None
    read = read_marks(image, {i: marks[i] for i in fresh}, lite, shipped_borders()) if lite is not None else {}
    unread = [i for i in fresh if i not in read or not read[i].any()]
    corrects = {i: mask for i, mask in known.items() if mask.any()}
    by_colour = masks_from_prompts(image, [m for some in marks.values() for m in some], corrects) if unread else {}
    first = known | read | {i: by_colour[i] for i in unread}
    return {i: _as_marked(image, first[i], i, marks, anew=i in fresh) for i in asked}


def _known(image: Image, marks: Sequence[Mark], before: Mask | None) -> Mask:
    """(H, W) mask that the marks of an object correct: those given with them, or the one before; empty where they start
    the object anew."""
    if not all(isinstance(m, MaskPrompt | PointPrompt | ScribblePrompt) or not is_positive(m) for m in marks):
        return np.zeros(image.shape[:2], np.bool_)
    given = _sum_of_masks(image, marks)
    return given if given.any() or before is None else before


def _as_marked(image: Image, mask: Mask, object_id: int, marks: Mapping[int, Sequence[Mark]], *, anew: bool) -> Mask:
    """The mask as clicks and strokes, and those of other objects, want it; where the marks leave nothing, as it was.

    anew: strokes that have just been read say nothing new where they were left out, and are painted over.
    """
    own = [
        m
        for m in marks[object_id]
        if isinstance(m, PointPrompt | ScribblePrompt) or (isinstance(m, PolygonPrompt) and not m.positive)
    ]
    if anew:
        strokes = [m for m in own if isinstance(m, ScribblePrompt) and m.positive]
        mask = mask | marked(strokes, (image.shape[0], image.shape[1]))
    others = [
        m
        for i, some in marks.items()
        for m in some
        if i != object_id and isinstance(m, PointPrompt | ScribblePrompt) and m.positive
    ]
    result = corrected(image, mask, own, others)
    return result if result.any() else mask


def _refuse_words(of: dict[int, list[Prompt]], asked: Sequence[int]) -> None:
    for i in asked:
        if any(isinstance(p, TextPrompt) for p in of[i]):
            raise PromptError(
                f"object {i} is given in words, which needs a trained model with a text encoder; give --model"
            )


def _by_segmenter(
    image: Image, of: dict[int, list[Prompt]], found: ObjectMasks | None, segmenter: Segmenter | None, features: Any
) -> dict[int, Mask]:
    """All objects in one call; where the model answers with nothing, GrabCut does."""
    assert segmenter is not None  # callers have one
    for prompt in (p for prompts in of.values() for p in prompts):
        if isinstance(prompt, MARKS):
            check_mark(prompt, (image.shape[0], image.shape[1]))
    features = segmenter.encode(as_picture(image)) if features is None else features
    known = {} if found is None else {i: found.mask(i) for i in of if i in found.ids and _corrects(of[i])}
    known = {i: mask for i, mask in known.items() if mask.any()}
    prompts = [p for i in of for p in _with_known(of[i], known.get(i), reads_previous_mask(segmenter))]
    before = None
    if known and reads_previous_mask(segmenter):
        before = _as_prediction(known, features)
    answer = segmenter.segment(features, prompts, before)
    masks = {i: answer.mask(i) for i in of}
    unanswered = [i for i, mask in masks.items() if not mask.any()]
    for i in unanswered:
        if any(isinstance(p, TextPrompt) for p in of[i]):
            raise PromptError(
                f"nothing on the frame fits the words of object {i}; mark it, or give the words on another frame"
            )
    return masks | (_by_default(image, of, unanswered, found, shipped=False) if unanswered else {})


def _corrects(prompts: Sequence[Prompt]) -> bool:
    """Whether an object's prompts change the mask that it has, instead of starting it anew."""
    return all(isinstance(p, PointPrompt | ScribblePrompt) or not getattr(p, "positive", True) for p in prompts)


def _with_known(prompts: Sequence[Prompt], known: Mask | None, reads_previous: bool) -> list[Prompt]:
    """An object's prompts; its known mask is marked as positive where nothing else says what the object is.

    SEEM's rounds repeat all clicks since the first (SPEC §8). A tracker keeps masks, not clicks: the mask stands for
    them where the new marks are all negative, and in a model that has no other way of reading it.
    """
    positive = any(getattr(p, "positive", True) for p in prompts)
    if known is None or (positive and reads_previous):
        return list(prompts)
    return [MaskPrompt(known, prompts[0].object_id), *prompts]


def _as_prediction(masks: dict[int, Mask], features: Any) -> Prediction:
    ids = sorted(masks)
    return masks_as_prediction(torch.from_numpy(np.stack([masks[i] for i in ids])), features.geometry, ids)
