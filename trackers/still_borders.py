"""The border refiner on a picture alone: what a model found is made sharp as tracked masks are (`trackers.refined`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from seem_core.errors import CheckpointError
from seem_core.refiner import BorderRefiner
from seem_core.refiner_weights import load_refiner, shipped_weights
from trackers.base import Image
from trackers.propagation import LabelPropagation
from trackers.sharpener import Sharpener

Soft = npt.NDArray[np.float32]  # (h, w)

_SUREST = 8.0  # log-odds


class StillBorders:
    """Label propagation's features of one picture, and the refiner that reads them."""

    def __init__(self, propagation: LabelPropagation, refiner: BorderRefiner) -> None:
        self._propagation = propagation
        self._sharpener = Sharpener(refiner, propagation.device)

    @torch.inference_mode()
    def sharpened(self, image: Image, logits: Soft) -> Soft:
        """(h, w) probabilities of one object with sharp borders, from (h, w) log-odds on an (h, w, 3) picture."""
        features = self._propagation.encode(image)
        likely = torch.from_numpy(np.clip(logits, -_SUREST, _SUREST)).sigmoid()[None, None].to(self._propagation.device)
        size = features.levels[1].shape[1:]
        cells = F.interpolate(likely, size=size, mode="area")[0]  # (1, h / 4, w / 4)
        known = torch.stack([cells, cells, torch.zeros_like(cells)], 1)  # no memory: one version, no appearance
        sharp = self._sharpener.sharpen(features, known)
        full = F.interpolate(sharp[None].float(), size=logits.shape, mode="bilinear")[0, 0]
        return np.asarray(full.cpu().numpy(), dtype=np.float32)


@cache
def shipped_borders() -> StillBorders | None:
    """With the weights that ship, on the CPU, loaded once per process; None where they do not ship."""
    try:
        return StillBorders(LabelPropagation(), load_refiner(shipped_weights()))
    except CheckpointError:
        return None
