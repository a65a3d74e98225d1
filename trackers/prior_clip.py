"""Label propagation over one training clip: the masks that the border refiner learns to make sharp."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from trackers.base import Image
from trackers.memory_bank import MemoryBank
from trackers.propagation import Keys, LabelPropagation, PropagationConfig, refiner_features
from trackers.refined import fit_looks, looks_like


class PropagatedClip:
    """A `seem_core.training.refiner_task.PriorClip`."""

    def __init__(self, propagation: LabelPropagation) -> None:
        self._propagation, self._bank, self._frame = propagation, MemoryBank(), 0
        self._view: Keys | None = None
        self._models: list[Tensor | None] = []

    def begin(self, image: Image, masks: Tensor) -> None:
        features = self._propagation.encode(image)
        view = self._propagation.look(features, self._bank)
        ids = range(1, len(masks) + 1)
        self._propagation.write(view, self._bank, 0, dict(zip(ids, masks, strict=True)), pinned=set(ids))
        self._models = list(fit_looks(features, dict(zip(ids, masks, strict=True))).values())

    def read(self, image: Image) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        features = self._propagation.encode(image)
        self._view = self._propagation.look(features, self._bank)
        self._frame += 1
        masks = self._propagation.read_versions(self._view, self._bank, 2)
        looks = looks_like(features, self._models)
        half, quarter, eighth = (f.clone() for f in refiner_features(features))  # which can be trained on
        return (half, quarter, eighth), masks.clone(), looks.clone()

    def write(self, masks: Tensor) -> None:
        if self._view is not None:
            self._propagation.write(self._view, self._bank, self._frame, dict(enumerate(masks, 1)))


def open_clip(size: int, device: str | torch.device = "cpu") -> PropagatedClip:
    """A fresh clip of size x size pixels, encoded as large as it is."""
    return PropagatedClip(_propagation(size, str(device)))


@lru_cache(maxsize=4)
def _propagation(size: int, device: str) -> LabelPropagation:
    return LabelPropagation(PropagationConfig(pixels=size * size), device)
