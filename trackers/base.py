"""What a tracker is: the `Tracker` protocol, what it returns, and what it declares about itself.

A tracker keeps the identity of each object from frame to frame of *one* video. It sees one image at a time and knows
nothing of files, codecs or benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from seem_core.prompts import Prompt

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]  # (H, W) object ids, 0 = background


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """The objects of one frame.

    ids     object ids in ascending order, stable over the video, may have gaps
    labels  (H, W) uint8 (uint16 above id 255) label map at source size; a pixel belongs to one object or to none (0)
    scores  (N,) float32 in 0..1, confidence that the mask of ids[i] is right
    lost    (N,) bool, True where the tracker believes that ids[i] is not visible (its mask is then empty)
    """

    ids: tuple[int, ...]
    labels: Labels
    scores: npt.NDArray[np.float32]
    lost: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"labels is (H, W) uint8 or uint16, not {self.labels.shape} {self.labels.dtype}")
        n = len(self.ids)
        if self.scores.shape != (n,) or self.lost.shape != (n,):
            raise ValueError(f"{n} ids, but scores {self.scores.shape} and lost {self.lost.shape}")
        if list(self.ids) != sorted(set(self.ids)):
            raise ValueError(f"ids must ascend without repetition: {self.ids}")

    def __repr__(self) -> str:
        return f"ObjectMasks(ids={self.ids}, labels={self.labels.shape}, scores={self.scores.round(2).tolist()})"

    def mask(self, object_id: int) -> npt.NDArray[np.bool_]:
        """The (H, W) bool mask of one object."""
        return np.asarray(self.labels == object_id)


@dataclass(frozen=True)
class Traits:
    """What a tracker says of itself; the contract test asserts it both ways."""

    returns_first_mask: bool  # on a frame with a mask prompt, that mask comes back unchanged
    refinds: bool  # an object that left is found again when it returns elsewhere
    uses_memory: bool  # what was seen on earlier frames (beyond the prompts) changes the result


@runtime_checkable
class Tracker(Protocol):
    """Follows the objects of one video, frame by frame, in order.

    The first call of `step` that carries prompts starts the tracking; calls before it return no objects. A later
    prompt adds an object or corrects one. An object that a prompt names is known from then on until `forget`.
    """

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> Traits: ...

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        """Advance by one frame. ``image`` is (H, W, 3) uint8 RGB; prompts are in its pixels.

        Raises PromptError for a prompt outside the image or of a kind this tracker cannot use, MaskError for a mask
        of another size.
        """
        ...

    def forget(self, object_id: int) -> None:
        """Stop following an object and drop what is remembered of it. Raises PromptError if it is not known."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later, as tensors, arrays and plain values. (Contract: loading it into a fresh
        tracker of the same configuration and stepping on gives the same masks.)"""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
