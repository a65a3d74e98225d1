"""Views of objects: the tokens by which a segmenter finds them again, kept in a bank within a budget per object.

The decoder reads at most ``tokens`` visual tokens per level for an object (512 in SEEM; in its routing `v1` for all
objects of a pass). Half of them are spoken for by the pinned views, which are certainly right; the recent frames share
the other half, and what they do not use goes to the pinned views as well. The mean vectors, by which the mask is
chosen, are mixed the same way: half pinned, half recent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seem_core.object_tokens import fair_shares, mean_positive, thin
from seem_core.prompts import ReferencePrompt
from seem_core.segmenter_types import ObjectTokens, Segmenter
from trackers.memory_bank import Entry, MemoryBank
from trackers.prompting import as_picture, device_of
from trackers.propagate import disjoint

Mask = npt.NDArray[np.bool_]  # (H, W)
NOT_OF_THE_VIDEO = -1  # frame of an entry that is another picture


@dataclass(frozen=True)
class ViewBudget:
    """tokens: per object and level, of all its views. frames: recent frames that share half of them; 0 for none."""

    tokens: int = 512
    frames: int = 8

    def __post_init__(self) -> None:
        if self.frames < 0 or self.tokens < 2 * max(1, self.frames):
            raise ValueError(
                f"{self.tokens} tokens cannot be shared by {self.frames} recent frames and the pinned ones"
            )

    @property
    def per_recent_frame(self) -> int:
        """Tokens per level that are kept of an object on one recent frame."""
        return self.tokens // (2 * self.frames) if self.frames else 0


def views_model(segmenter: Segmenter) -> str:
    """Which model can read a segmenter's views, as memory files record it."""
    return f"views of {segmenter.name}"


def begin_with_views(bank: MemoryBank, memory: MemoryBank | str | os.PathLike[str], segmenter: Segmenter) -> None:
    """Take over the pinned views of another video's memory, or of a file that one was saved to.

    Raises InputError for a file that is missing, damaged, or of another model, LimitError where it does not fit.
    """
    if not isinstance(memory, MemoryBank):
        memory = MemoryBank.load(
            memory, model=views_model(segmenter), max_bytes=bank.max_bytes, max_views=bank.max_views
        )
    bank.begin_with(memory)
    bank.to(device_of(segmenter))


def views_of_masks(segmenter: Segmenter, features: Any, masks: Mapping[int, Mask]) -> dict[int, ObjectTokens]:
    """A view of every object whose (H, W) mask has a pixel; one at a time, because masks are at source size."""
    views = {}
    for object_id, mask in masks.items():
        if mask.any():
            (views[object_id],) = segmenter.remember(features, torch.from_numpy(mask)[None], [object_id])
    return views


def apart(given: Mapping[int, Mask]) -> dict[int, Mask]:
    """Given masks without what later ones cover, so that no view shows two objects; one that is all covered stays."""
    return {i: mask if mask.any() else given[i] for i, mask in disjoint(given).items()}


def pin_references(segmenter: Segmenter, bank: MemoryBank, pictures: Mapping[int, Sequence[ReferencePrompt]]) -> None:
    """Pin objects as they look on other pictures, each picture encoded once. Raises LimitError."""
    waiting = [prompt for prompts in pictures.values() for prompt in prompts]
    while waiting:
        image = waiting[0].image
        here = [p for p in waiting if p.image is image or np.array_equal(p.image, image)]
        waiting = [p for p in waiting if not any(p is shown for shown in here)]
        features = segmenter.encode(as_picture(image))
        masks: dict[int, Mask] = {}
        for prompt in here:
            masks[prompt.object_id] = prompt.mask | masks.get(prompt.object_id, False)
        pin_views(bank, NOT_OF_THE_VIDEO, views_of_masks(segmenter, features, masks))


def pin_views(bank: MemoryBank, frame: int, views: Mapping[int, ObjectTokens]) -> None:
    """Keep views for ever. Raises LimitError where the bank has no room."""
    if views:
        bank.write(Entry(frame, (), {}, dict(views), pinned=True))


def write_recent_views(bank: MemoryBank, frame: int, views: Mapping[int, ObjectTokens], budget: ViewBudget) -> None:
    """Keep thinned views as recent memory, until ``budget.frames`` later ones have come or others need the room."""
    if views and budget.frames:
        bank.write(Entry(frame, (), {}, {i: _thinned(v, budget.per_recent_frame) for i, v in views.items()}))


def remembered_views(bank: MemoryBank, ids: Iterable[int], budget: ViewBudget) -> list[ObjectTokens]:
    """One view per object that joins all that the bank holds of it; objects without any are left out."""
    joined = []
    for object_id in ids:
        pinned = [e.tokens[object_id] for e in bank.entries if e.pinned and object_id in e.tokens]
        recent = [e.tokens[object_id] for e in bank.entries if not e.pinned and object_id in e.tokens]
        recent = recent[len(recent) - min(budget.frames, len(recent)) :]
        if pinned or recent:
            joined.append(join_views(object_id, pinned, recent, budget))
    return joined


def join_views(
    object_id: int, pinned: Sequence[ObjectTokens], recent: Sequence[ObjectTokens], budget: ViewBudget
) -> ObjectTokens:
    """All views of one object as one of at most ``budget.tokens`` tokens per level, pinned ones first."""
    recent = [_thinned(view, budget.per_recent_frame) for view in recent]
    levels = []
    for level in range(len((*pinned, *recent)[0].levels)):
        late = [view.levels[level] for view in recent]
        early = [view.levels[level] for view in pinned]
        shares = fair_shares([len(tokens) for tokens in early], budget.tokens - sum(map(len, late)))
        levels.append(torch.cat([*(thin(t, share) for t, share in zip(early, shares, strict=True)), *late]))
    means = [mean for mean in (mean_positive(pinned), mean_positive(recent)) if mean is not None]
    return ObjectTokens(object_id, tuple(levels), torch.stack(means).mean(0) if means else None)


def _thinned(view: ObjectTokens, count: int) -> ObjectTokens:
    return ObjectTokens(view.object_id, tuple(thin(level, count) for level in view.levels), view.positive)
