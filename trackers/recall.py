"""What a segmenter recalls on a frame, and how its masks become those of a tracker.

Any number of objects is recalled over one encoded frame (SPEC §7.1: objects side by side equal objects one by one).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from seem_core.segmenter_types import Prediction, Segmenter
from trackers.base import ObjectMasks
from trackers.borders import empty_labels
from trackers.memory_bank import MemoryBank
from trackers.object_views import ViewBudget, remembered_views


def recall(
    segmenter: Segmenter,
    features: Any,
    bank: MemoryBank,
    ids: Iterable[int],
    budget: ViewBudget,
    prior: Prediction | None = None,
) -> Prediction | None:
    """Masks of those of ``ids`` that the bank has views of, None where it has none. prior: where they may be."""
    views = remembered_views(bank, ids, budget)
    return segmenter.recall(features, views, prior) if views else None


def notes_on(segmenter: Segmenter) -> tuple[str, ...]:
    """What a user should know of a tracker that goes by this model alone."""
    if segmenter.trained == "full":
        return ()
    return (f"model {segmenter.name} is not trained to segment (trained: {segmenter.trained}); its masks mean nothing",)


@torch.no_grad()
def object_masks(seen: Prediction | None, shape: tuple[int, int], *, least: float = 0.0) -> ObjectMasks:
    """Masks at source size (H, W): where objects overlap, the largest logit has the pixel.

    An object whose score is below ``least`` is taken for lost, as is one that is left without a pixel.
    """
    if seen is None:
        return ObjectMasks((), np.zeros(shape, np.uint8), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    scores = seen.scores.float().clamp(0, 1).cpu().numpy()
    labels = empty_labels(shape[0], shape[1], seen.ids)
    labels[:] = seen.select([i for i, score in zip(seen.ids, scores, strict=True) if score >= least]).labels()
    lost = ~np.isin(np.array(seen.ids), np.unique(labels))
    return ObjectMasks(seen.ids, labels, scores, lost)
