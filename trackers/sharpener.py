"""The border refiner on what label propagation sees of a picture, in the number format that is fast there."""

from __future__ import annotations

import torch
from torch import Tensor

from seem_core.features import Features
from seem_core.refiner import BorderRefiner
from trackers.propagation import fast_dtype, refiner_features


class Sharpener:
    """``refiner`` on ``device``, ready for use."""

    def __init__(self, refiner: BorderRefiner, device: torch.device) -> None:
        self._dtype = fast_dtype(device)
        net = refiner.to(device=device, dtype=self._dtype).eval()
        self._refiner: BorderRefiner = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sharpen(self, features: Features, known: Tensor) -> Tensor:
        """(N, 2 h, 2 w) masks of the objects of one picture, at stride 2, from what is known of them, (N, 3, h, w);
        see `BorderRefiner.refine`."""
        half, quarter, eighth = (f[None].to(self._dtype) for f in refiner_features(features))
        return self._refiner.refine(self._refiner.look(half, quarter, eighth), known)
