"""The `propagate` tracker: encode, read memory, decide owners, write memory. No training, any object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seem_core.errors import MaskError, PromptError, VideoError
from seem_core.prompts import MaskPrompt, Prompt
from trackers.base import Image, ObjectMasks, Traits
from trackers.borders import empty_labels, label_map
from trackers.dense import DenseReader, Keys, Prior, shrink_mask
from trackers.memory_bank import MEGABYTE, MemoryBank
from trackers.merge import soft_aggregate
from trackers.propagation import LabelPropagation, PropagationConfig

Mask = npt.NDArray[np.bool_]


class PropagateTracker:
    """Follows objects by propagating their labels along dense keys.

    An object's score is the mean probability of the cells it owns; it is lost where it owns none. Frames without the
    object are remembered too, as background: that is what keeps look-alikes out until it returns, and what it is
    recognised by then are the pinned frames, which are searched everywhere.

    reader      the dense part; by default untrained label propagation with ``config`` on ``device``
    max_recent  frames remembered besides the prompted ones
    max_bytes   bound of the memory bank; prompted frames beyond it raise LimitError
    """

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
        self._size: tuple[int, int] | None = None  # (height, width) of the video

    @property
    def memory(self) -> MemoryBank:
        return self._bank

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame; see `trackers.base.Tracker.step`.

        Raises PromptError and MaskError as stated there, VideoError for a frame of another size than the others,
        LimitError when the prompted frames alone no longer fit into the memory bank.
        """
        if self._size not in (None, image.shape[:2]):
            raise VideoError(f"a frame is {image.shape[:2]}, the ones before {self._size}; track it as another video")
        self._size = (image.shape[0], image.shape[1])
        if not self._ids and not prompts:
            self._frame += 1
            return no_objects(image)
        keys = self._reader.keys(self._reader.encode(image), self._bank)
        prior = self._read(keys)
        found = self._decide(prior, image)
        given = self._given(image, prompts, found) if prompts else {}
        found = impose(found, given)
        self._write(keys, prior, given)
        self._ids = found.ids
        self._frame += 1
        return found

    def _read(self, keys: Keys) -> Prior:
        if not self._ids:
            return Prior((), keys.coarse.new_zeros(0, 4 * keys.height, 4 * keys.width))
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
        """Object id -> (H, W) mask of every prompted object."""
        given = {p.object_id: p.mask for p in prompts if isinstance(p, MaskPrompt)}
        if not all(isinstance(p, MaskPrompt) for p in prompts):
            from seem_core.grabcut import masks_from_prompts

            given = masks_from_prompts(image, prompts, {i: found.mask(i) for i in found.ids} or None)
        for object_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise MaskError(
                    f"the mask of object {object_id} is {mask.shape[1]}x{mask.shape[0]}, the frame"
                    f" {image.shape[1]}x{image.shape[0]}; give a mask of the frame's size"
                )
            if not mask.any():
                raise PromptError(f"the mask of object {object_id} is empty; mark at least one pixel")
        return given

    def _write(self, keys: Keys, prior: Prior, given: dict[int, Mask]) -> None:
        """Prompted masks are pinned; what was propagated for the other objects is recent."""
        masks = dict(zip(prior.ids, prior.masks, strict=True))
        if given:
            height, width = 4 * keys.height, 4 * keys.width
            cells = {i: shrink_mask(m, height, width).to(keys.coarse.device) for i, m in disjoint(given).items()}
            free = 1 - torch.stack(list(cells.values())).sum(0).clamp(max=1)
            masks = {i: m * free for i, m in masks.items() if i not in given}
            self._reader.write(keys, self._bank, self._frame, cells, pinned=True)
        if masks:
            self._reader.write(keys, self._bank, self._frame, masks, pinned=False)

    def forget(self, object_id: int) -> None:
        if object_id not in self._ids:
            raise PromptError(f"object {object_id} is not known; there are {list(self._ids)}")
        self._ids = tuple(i for i in self._ids if i != object_id)
        self._bank.forget(object_id)

    def state_dict(self) -> dict[str, Any]:
        return {
            "frame": self._frame,
            "size": None if self._size is None else list(self._size),
            "ids": list(self._ids),
            "bank": self._bank.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frame = int(state["frame"])
        self._size = None if state["size"] is None else (int(state["size"][0]), int(state["size"][1]))
        self._ids = tuple(int(i) for i in state["ids"])
        self._bank.load_state_dict(state["bank"], self._reader.device)


def no_objects(image: Image) -> ObjectMasks:
    return ObjectMasks((), np.zeros(image.shape[:2], np.uint8), np.zeros(0, np.float32), np.zeros(0, bool))


def disjoint(given: dict[int, Mask]) -> dict[int, Mask]:
    """The masks without what later ones cover: where prompts overlap, the later one has the pixel."""
    taken: Mask | None = None
    left = {}
    for object_id, mask in reversed(given.items()):
        left[object_id] = mask if taken is None else mask & ~taken
        taken = mask if taken is None else mask | taken
    return left


def impose(found: ObjectMasks, given: dict[int, Mask]) -> ObjectMasks:
    """What was found, with the given masks in place of it; where they overlap, the later one has the pixel."""
    if not given:
        return found
    ids = tuple(sorted({*found.ids, *given}))
    labels = empty_labels(found.labels.shape[0], found.labels.shape[1], ids)
    labels[:] = found.labels
    for object_id, mask in given.items():
        labels[(labels == object_id) & ~mask] = 0
        labels[mask] = object_id
    scores = dict(zip(found.ids, found.scores.tolist(), strict=True)) | dict.fromkeys(given, 1.0)
    lost = np.array([not (labels == i).any() for i in ids], bool)
    return ObjectMasks(ids, labels, np.array([scores[i] for i in ids], np.float32), lost)
