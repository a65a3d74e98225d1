"""The `propagate` tracker: encode, read memory, decide owners, write memory. No training, any object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import MaskPrompt, Prompt
from trackers.base import Image, ObjectMasks, Traits
from trackers.borders import label_dtype, label_map
from trackers.dense import DenseReader, Keys, Prior, shrink_mask
from trackers.memory_bank import MEGABYTE, MemoryBank
from trackers.merge import soft_aggregate
from trackers.propagation import LabelPropagation, PropagationConfig

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
        keys = self._reader.keys(self._reader.encode(image), self._bank)
        prior = self._read(keys)
        found = self._decide(prior, image)
        given = self._given(image, prompts, found) if prompts else {}
        found = impose(found, given)
        self._ids = found.ids
        self._write(keys, frame, prior, given)
        return found

    def _read(self, keys: Keys) -> Prior:
        if not self._ids:
            return Prior((), torch.zeros(0, 4 * keys.height, 4 * keys.width))
        return self._reader.read(keys, self._bank)

    def _decide(self, prior: Prior, image: Image) -> ObjectMasks:
        """Who owns which pixel, how sure that is, and who is not there."""
        height, width = image.shape[:2]
        if not prior.ids:
            return no_objects(image)
        shares = soft_aggregate(prior.masks)
        owned = shares[1:] == shares.amax(0)
        area = owned.sum((1, 2))
        score = (prior.masks * owned).sum((1, 2)) / area.clamp(min=1)
        shares[1:] *= (area > 0)[:, None, None]
        scores, lost = score.float().cpu().numpy(), (area == 0).cpu().numpy()
        return ObjectMasks(prior.ids, label_map(shares.cpu().numpy(), prior.ids, height, width), scores, lost)

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

    def _write(self, keys: Keys, frame: int, prior: Prior, given: dict[int, Mask]) -> None:
        """Prompted masks are pinned; what was propagated is recent."""
        if given:
            cells = {i: shrink_mask(mask, 4 * keys.height, 4 * keys.width) for i, mask in given.items()}
            self._reader.write(keys, self._bank, frame, cells, pinned=True)
        rest = {i: mask for i, mask in zip(prior.ids, prior.masks, strict=True) if i not in given}
        if rest:
            self._reader.write(keys, self._bank, frame, rest, pinned=False)

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


def impose(found: ObjectMasks, given: dict[int, Mask]) -> ObjectMasks:
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
