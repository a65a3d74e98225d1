"""Label propagation whose masks a small trained decoder makes sharp before anyone sees them: `lite`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.appearance import appearance, fit_appearance
from seem_core.features import Features
from seem_core.refiner import BorderRefiner
from seem_core.refiner_weights import load_refiner, shipped_weights
from trackers.base import Image
from trackers.dense import DenseReader, Reading
from trackers.memory_bank import MemoryBank
from trackers.propagate import DenseTracker
from trackers.propagation import Keys, LabelPropagation, PropagationConfig, as_reading, refiner_features
from trackers.sharpener import Sharpener

LITE = PropagationConfig(pixels=640 * 1152, window=9.0)
"""Borders gain from larger pictures; the window reaches as far as the usual one."""


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
        self._sharpener = Sharpener(refiner, propagation.device)

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
        """See `DenseReader.read`. What is shown are the sharp masks, at stride 2; memory gets both versions, at stride
        4."""
        read = self._propagation.read_versions(view.keys, bank, 2)
        known = torch.cat([read, self._looks(view.features, bank)[:, None]], 1)  # (N, 3, h, w)
        refined = self._sharpener.sharpen(view.features, known)
        versions = torch.stack([read[:, 0], F.avg_pool2d(refined, 2)], 1)
        return replace(as_reading(bank.ids, refined), versions=versions)

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
        shown = {i: m for i, m in masks.items() if i in pinned}
        self._propagation.write(
            view.keys, bank, frame, masks, pinned=pinned, doubtful=doubtful, looks=fit_looks(view.features, shown)
        )

    def adopt(self, bank: MemoryBank) -> None:
        self._propagation.adopt(bank)

    def _looks(self, features: Features, bank: MemoryBank) -> Tensor:
        """(N, h, w) how much a frame looks like each object, as it is on the frames that are pinned."""
        known = [[e.looks[i] for e in bank.entries if i in e.looks] for i in bank.ids]
        return looks_like(features, [torch.stack(of).mean(0) if of else None for of in known])


def fit_looks(features: Features, masks: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Object id -> its linear model of appearance; masks: object id -> (h, w) mask, or (V, h, w) versions of it."""
    if not masks:
        return {}
    first = torch.stack([m if m.dim() == 2 else m[0] for m in masks.values()])
    return dict(zip(masks, fit_appearance(*refiner_features(features), first.float()), strict=True))


def looks_like(features: Features, models: Sequence[Tensor | None]) -> Tensor:
    """(N, h, w) how much a frame looks like each object; 0 everywhere for one without a model."""
    levels = refiner_features(features)
    nothing = levels[0].new_zeros(sum(len(level) for level in levels) + 1, dtype=torch.float32)
    return appearance(*levels, torch.stack([nothing if m is None else m for m in models]))


def lite_reader(config: PropagationConfig | None = None, device: str | torch.device = "cpu") -> RefinedPropagation:
    """The reader of `lite`, with the weights that come with the package. Raises CheckpointError where they are missing
    or damaged."""
    return RefinedPropagation(LabelPropagation(config or LITE, device), load_refiner(shipped_weights()))


class LiteTracker(DenseTracker):
    """Follows objects by label propagation with trained borders. Any object.

    reader   by default label propagation with ``config`` (`LITE`) on ``device``, and the weights that come with the
             package
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
            reader = lite_reader(config, device)
        super().__init__(reader, **options)
