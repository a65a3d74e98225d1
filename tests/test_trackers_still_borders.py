"""Borders of a picture's masks: what the refiner adds lands on the right pixels, and only near the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import iou, scene

from seem_core.errors import CheckpointError
from seem_core.refiner import BorderRefiner, RefinerConfig
from trackers.propagation import LabelPropagation
from trackers.still_borders import StillBorders, shipped_borders


def test_an_untrained_refiner_leaves_the_mask_and_a_biased_one_widens_it() -> None:
    found = scene([[(80, 60)]])
    image, disc = found.images[0], found.masks[0][0]
    logits = np.where(disc, np.float32(6), np.float32(-6))
    refiner = BorderRefiner(RefinerConfig())
    propagation = LabelPropagation()
    same = StillBorders(propagation, refiner).sharpened(image, logits)
    assert same.shape == disc.shape
    assert iou(same > 0.5, disc) > 0.93
    with torch.no_grad():
        assert refiner.leave.bias is not None
        refiner.leave.bias += 4
    wider = StillBorders(propagation, refiner).sharpened(image, logits) > 0.5
    assert (wider >= (same > 0.5)).all()
    assert wider.sum() > 1.05 * (same > 0.5).sum()
    assert not wider[:, 160:].any()  # far off


def test_the_shipped_borders_are_loaded_once_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CheckpointError("there are none")

    shipped_borders.cache_clear()
    assert shipped_borders() is shipped_borders() is not None
    shipped_borders.cache_clear()
    monkeypatch.setattr("trackers.still_borders.shipped_weights", missing)
    assert shipped_borders() is None
    shipped_borders.cache_clear()
