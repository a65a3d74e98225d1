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
from trackers.propagation import LabelPropagation, fast_dtype, refiner_features

Soft = npt.NDArray[np.float32]  # (h, w)

_SUREST = 8.0  # log-odds


class StillBorders:
    """Label propagation's features of one picture, and the refiner that reads them."""

    def __init__(self, propagation: LabelPropagation, refiner: BorderRefiner) -> None:
        self._propagation = propagation
        self._dtype = fast_dtype(propagation.device)
        self._refiner = refiner.to(device=propagation.device, dtype=self._dtype).eval()

    @torch.inference_mode()
    def sharpened(self, image: Image, logits: Soft) -> Soft:
        """(h, w) probabilities of one object with sharp borders, from (h, w) log-odds on an (h, w, 3) picture."""
        features = self._propagation.encode(image)
        half, quarter, eighth = (f[None].to(self._dtype) for f in refiner_features(features))
        likely = torch.from_numpy(np.clip(logits, -_SUREST, _SUREST)).sigmoid()[None, None]
        cells = F.interpolate(likely.to(half.device), size=quarter.shape[2:], mode="area")[0]  # (1, h / 4, w / 4)
        known = torch.stack([cells, cells, torch.zeros_like(cells)], 1)  # no memory: one version, no appearance
        sharp = self._refiner.refine(self._refiner.look(half, quarter, eighth), known)
        full = F.interpolate(sharp[None].float(), size=logits.shape, mode="bilinear")[0, 0]
        return np.asarray(full.cpu().numpy(), dtype=np.float32)


@cache
def shipped_borders() -> StillBorders | None:
    """With the weights that ship, on the CPU, loaded once per process; None where they do not ship."""
    try:
        return StillBorders(LabelPropagation(), load_refiner(shipped_weights()))
    except CheckpointError:
        return None
