"""What the prompts of one frame say by themselves: `preview_prompts`, before anything is tracked."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from seem_core.errors import PromptError
from seem_core.prompts import MaskPrompt, Prompt
from trackers.base import Image, ObjectMasks, Tracker


def preview_prompts(
    tracker: Tracker, image: Image, given: Sequence[Prompt], found: ObjectMasks | None, frame: int
) -> ObjectMasks:
    """The objects that ``given`` names, on (H, W, 3) ``image``, by a fresh tracker.

    Marks that correct an object start from its mask in ``found``, what is known of the frame (its number ``frame`` is
    for messages). Raises PromptError for marks that only say what an object is not, and it has no mask there.
    """
    before = _masks_to_correct(given, found, frame)
    if before:
        tracker.step(image, before)
    return _only(tracker.step(image, given), {prompt.object_id for prompt in given})


def _masks_to_correct(given: Sequence[Prompt], found: ObjectMasks | None, frame: int) -> list[MaskPrompt]:
    masks = {} if found is None else {i: found.mask(i) for i in found.ids}
    whole = {prompt.object_id for prompt in given if isinstance(prompt, MaskPrompt)}
    shown = {prompt.object_id for prompt in given if getattr(prompt, "positive", True)}
    ids = sorted({prompt.object_id for prompt in given} - whole)
    before = [MaskPrompt(masks[i], i) for i in ids if i in masks and masks[i].any()]
    if lacking := {*ids} - shown - {prompt.object_id for prompt in before}:
        what = f"object {min(lacking)} has no mask on frame {frame} yet, and its marks say only what it is not"
        raise PromptError(f"{what}; propagate first, or add a point on it")
    return before


def _only(found: ObjectMasks, ids: Collection[int]) -> ObjectMasks:
    """The objects ``ids`` alone."""
    keep = np.array([i in ids for i in found.ids], np.bool_)
    labels = np.where(np.isin(found.labels, sorted(ids)), found.labels, found.labels.dtype.type(0))
    return ObjectMasks(tuple(i for i in found.ids if i in ids), labels, found.scores[keep], found.lost[keep])
