"""A short clip through the steps of the `prompt-memory` tracker, differentiable: what is trained is what runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.segmenter_types import Prediction, Segmenter
from trackers.prompt_memory import PromptMemory, PromptMemoryConfig


def track_clip(
    segmenter: Segmenter,
    frames: Sequence[Tensor],
    first_masks: Tensor,
    *,
    ids: Sequence[int] | None = None,
    config: PromptMemoryConfig | None = None,
) -> list[Prediction]:
    """Follow N objects from the first frame through the others: one prediction per frame after the first.

    segmenter: with ``gradients=True`` the logits (N, h, w) and scores (N,) can be differentiated, through every view
    that the memory took on earlier frames. Which masks become memory, and where the previous mask lets the decoder
    look, are decisions without a gradient. frames: T tensors (3, H, W) uint8 RGB, all of one size, at least two.
    first_masks: (N, H, W) bool, none of them empty. ids: of the objects, by default 1..N; predictions are in ascending
    order of them. config: as the tracker's.

    Raises MaskError for masks of another size or number, PromptError for an empty mask or fewer than two frames.
    """
    ids = range(1, len(first_masks) + 1) if ids is None else ids
    shape = _checked(frames, first_masks, ids)
    given = {i: mask.cpu().numpy() for i, mask in zip(ids, first_masks, strict=True)}
    memory = PromptMemory(segmenter, config)
    memory.advance(segmenter.encode(frames[0]), shape, lambda _: given)
    predictions = []
    for frame in frames[1:]:
        seen, _ = memory.advance(segmenter.encode(frame), shape)
        assert seen is not None  # every object has a view, that of the first frame
        predictions.append(seen)
    return predictions


def _checked(frames: Sequence[Tensor], masks: Tensor, ids: Sequence[int]) -> tuple[int, int]:
    """(H, W) of the clip."""
    if len(frames) < 2 or len({tuple(frame.shape) for frame in frames}) > 1:
        shapes = sorted({tuple(frame.shape) for frame in frames})
        raise PromptError(f"a clip is at least two frames of one size, not {len(frames)} of {shapes}")
    shape = (int(frames[0].shape[1]), int(frames[0].shape[2]))
    if masks.dtype != torch.bool or tuple(masks.shape) != (len(ids), *shape) or len(ids) == 0:
        raise MaskError(f"{len(ids)} objects on frames of {shape} need as many bool masks, not {tuple(masks.shape)}")
    for object_id, mask in zip(ids, masks, strict=True):
        if not mask.any():
            raise PromptError(f"the first mask of object {object_id} is empty; leave the object out of this clip")
    return shape
