"""Label propagation whose masks a small trained decoder makes sharp before anyone sees them: `lite`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seem_core.features import Features
from seem_core.refiner import BorderRefiner, Cues
from seem_core.refiner_weights import load_refiner, shipped_weights
from trackers.base import Image
from trackers.dense import DenseReader, Reading
from trackers.memory_bank import MemoryBank
from trackers.propagate import DenseTracker
from trackers.propagation import Keys, LabelPropagation, PropagationConfig, as_reading, fast_dtype


@dataclass(frozen=True, eq=False)
class RefinedView:
    """One frame: its keys, and the features that the refiner sees."""

    keys: Keys
    features: Features

    @property
    def height(self) -> int:
        return self.keys.height

    @property
    def width(self) -> int:
        return self.keys.width


class RefinedPropagation:
    """A `DenseReader`: what ``propagation`` reads goes through ``refiner``.

    Memory holds the same keys as without it, so that either reader can begin with the other's.
    """

    def __init__(self, propagation: LabelPropagation, refiner: BorderRefiner) -> None:
        self._propagation = propagation
        self._dtype = fast_dtype(propagation.device)
        net = refiner.to(device=propagation.device, dtype=self._dtype).eval()
        self._refiner: BorderRefiner = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def name(self) -> str:
        return self._propagation.name

    @property
    def device(self) -> torch.device:
        return self._propagation.device

    def encode(self, image: Image) -> Features:
        return self._propagation.encode(image)

    def look(self, features: Features, bank: MemoryBank) -> RefinedView:
        return RefinedView(self._propagation.look(features, bank), features)

    @torch.inference_mode()
    def read(self, view: RefinedView, bank: MemoryBank) -> Reading:
        """See `DenseReader.read`. Owners and scores are those of the sharp masks; ``masks``, from which memory is
        written, are as they were read: what the net gets wrong would otherwise grow from frame to frame."""
        masks = self._propagation.read_masks(view.keys, bank)
        sharp = as_reading(bank.ids, self._refiner.refine(self._cues(view.features), masks))
        return replace(sharp, masks=masks)

    def write(
        self,
        view: RefinedView,
        bank: MemoryBank,
        frame: int,
        masks: Mapping[int, Tensor],
        *,
        pinned: Set[int] = frozenset(),
        doubtful: Set[int] = frozenset(),
    ) -> None:
        self._propagation.write(view.keys, bank, frame, masks, pinned=pinned, doubtful=doubtful)

    def adopt(self, bank: MemoryBank) -> None:
        self._propagation.adopt(bank)

    def _cues(self, features: Features) -> Cues:
        half, quarter, eighth = (f[None].to(self._dtype) for f in refiner_features(features))
        return self._refiner.look(half, quarter, eighth)


def refiner_features(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """What the refiner sees of a frame that label propagation encoded: (C, h, w) at strides 2, 4 and 8."""
    half, quarter = features.levels
    return half, quarter, features.keys


class LiteTracker(DenseTracker):
    """Follows objects by label propagation with trained borders. Any object.

    reader   by default label propagation with ``config`` on ``device``, and the weights that come with the package
    options  of `DenseTracker`
    Raises CheckpointError where the weights are missing or damaged.
    """

    name = "lite"

    def __init__(
        self,
        reader: DenseReader | None = None,
        *,
        device: str = "cpu",
        config: PropagationConfig | None = None,
        **options: Any,
    ) -> None:
        if reader is None:
            reader = RefinedPropagation(LabelPropagation(config, device), load_refiner(shipped_weights()))
        super().__init__(reader, **options)
