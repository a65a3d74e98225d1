"""The `propagate` tracker: encode, read memory, decide owners, write memory. No training, any object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.errors import MaskError, PromptError
from seem_core.features import Features
from seem_core.prompts import MaskPrompt, Prompt
from trackers.base import Image, ObjectMasks, Traits
from trackers.borders import label_dtype, label_map
from trackers.memory_bank import MEGABYTE, MemoryBank
from trackers.merge import soft_aggregate
from trackers.propagation import DenseReader, LabelPropagation, PropagationConfig, shrink_mask

Mask = npt.NDArray[np.bool_]


class PropagateTracker:
    """Follows objects by propagating their labels along dense keys."""

    name = "propagate"
    traits = Traits(returns_first_mask=True, refinds=True, uses_memory=True)

    def __init__(
        self,
        reader: DenseReader | None = None,
        *,
        device: str = "cpu",
        config: PropagationConfig | None = None,
        max_recent: int = 7,
        max_bytes: int = 512 * MEGABYTE,
    ) -> None:
        self._reader = reader or LabelPropagation(config, device)
        self._bank = MemoryBank(max_recent, max_bytes)
        self._ids: tuple[int, ...] = ()
        self._frame = 0

    @property
    def memory(self) -> MemoryBank:
        return self._bank

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        frame, self._frame = self._frame, self._frame + 1
        if not self._ids and not prompts:
            return no_objects(image)
        features = self._reader.encode(image)
        masks = self._read(features, frame)
        found = self._decide(features, masks)
        if prompts:
            given = self._given(image, prompts, found)
            found = self._impose(found, given)
            self._ids = found.ids
        else:
            given = {}
        self._write(features, frame, masks, given)
        return found

    def _read(self, features: Features, frame: int) -> dict[int, Tensor]:
        """Object id -> (h, w) probability, for every known object."""
        if not self._ids:
            return {}
        prior = self._reader.read(features, self._bank, frame)
        return dict(zip(prior.ids, prior.masks, strict=True))

    def _decide(self, features: Features, masks: dict[int, Tensor]) -> ObjectMasks:
        height, width = features.source_height, features.source_width
        ids = tuple(sorted(masks))
        if not ids:
            return ObjectMasks((), np.zeros((height, width), np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))
        p = torch.stack([masks[i] for i in ids])
        labels = label_map(soft_aggregate(p), ids, height, width)
        inside = p > 0.5
        area = inside.sum((1, 2))
        scores = ((p * inside).sum((1, 2)) / area.clamp(min=1)).cpu().numpy().astype(np.float32)
        there = np.isin(np.array(ids), np.unique(labels))
        return ObjectMasks(ids, labels, scores, ~there)

    def _given(self, image: Image, prompts: Sequence[Prompt], found: ObjectMasks) -> dict[int, Mask]:
        """Object id -> (H, W) mask of every prompted object; where prompts overlap, the later one has the pixel."""
        given = {p.object_id: p.mask for p in prompts if isinstance(p, MaskPrompt)}
        others = [p for p in prompts if not isinstance(p, MaskPrompt)]
        if others:
            from seem_core.grabcut import masks_from_prompts

            given |= masks_from_prompts(image, others, {i: found.mask(i) for i in found.ids} or None)
        for object_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise MaskError(f"the mask of object {object_id} is {mask.shape}, the image {image.shape[:2]}")
            if not mask.any():
                raise PromptError(f"the mask of object {object_id} is empty")
        return given

    def _impose(self, found: ObjectMasks, given: dict[int, Mask]) -> ObjectMasks:
        """What was found, with the given masks in place of it."""
        ids = tuple(sorted({*found.ids, *given}))
        labels = found.labels.astype(label_dtype(ids))
        for object_id, mask in given.items():
            labels[(labels == object_id) & ~mask] = 0
            labels[mask] = object_id
        scores, lost = dict(zip(found.ids, found.scores, strict=True)), dict(zip(found.ids, found.lost, strict=True))
        return ObjectMasks(
            ids,
            labels,
            np.array([1.0 if i in given else scores[i] for i in ids], np.float32),
            np.array([False if i in given else lost[i] for i in ids], bool),
        )

    def _write(self, features: Features, frame: int, masks: dict[int, Tensor], given: dict[int, Mask]) -> None:
        h, w = features.keys.shape[1:]
        if given:
            device = features.keys.device
            cells = {i: torch.from_numpy(shrink_mask(m, h, w)).to(device) for i, m in given.items()}
            self._bank.write(self._reader.write(features, frame, cells, pinned=True))
        rest = {}
        for i, m in masks.items():
            if i in given:
                continue
            top = float(m.max())
            rest[i] = (m / top > 0.5).float() if top > 0 else m
        if rest:
            self._bank.write(self._reader.write(features, frame, rest, pinned=False))

    def forget(self, object_id: int) -> None:
        if object_id not in self._ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self._ids)}")
        self._ids = tuple(i for i in self._ids if i != object_id)
        self._bank.forget(object_id)

    def state_dict(self) -> dict[str, Any]:
        return {"frame": self._frame, "ids": list(self._ids), "bank": self._bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._ids = tuple(state["ids"])
        self._bank.load_state_dict(state["bank"])


def no_objects(image: Image) -> ObjectMasks:
    return ObjectMasks((), np.zeros(image.shape[:2], np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))
