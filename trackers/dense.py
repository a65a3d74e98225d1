"""The dense part of a tracker behind one small interface: encode, look, read, write.

A reader is stateless; what is remembered lies in the bank that it is given. Its maps have a grid of their own (stride 2
or 4 of the image as it encodes it): a `View` says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trackers.base import Image
from trackers.memory_bank import MemoryBank


class View(Protocol):
    """One frame as a reader sees it beside a bank. height, width: the grid of the maps that it reads and writes."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Reading:
    """What memory says of one frame.

    ids     ascending
    maps    (N + 1, h, w) float32, background first; after bilinear enlargement the largest owns the pixel
    masks   (N, h, w) float32 probability of each object on its own, on the grid of ``maps``
    scores  (N,) float32 in 0..1, confidence that the mask of ids[n] is right
    versions  (N, V, h, w) on the view's grid: what a reader that remembers several versions of a mask wants to
              remember, None for one that remembers ``masks``
    """

    ids: tuple[int, ...]
    maps: Tensor
    masks: Tensor
    scores: Tensor
    versions: Tensor | None = None

    @property
    def remembered(self) -> Tensor:
        """What `DenseReader.write` takes of each object, where nothing speaks against it."""
        return self.masks if self.versions is None else self.versions

    @staticmethod
    def nothing(view: View, device: torch.device | str) -> Reading:
        """No object at all."""
        maps = torch.zeros(1, view.height, view.width, device=device)
        return Reading((), maps, maps[:0], maps.new_zeros(0))


class DenseReader(Protocol):
    """Encodes frames, reads masks from memory, writes masks into it."""

    @property
    def name(self) -> str:
        """Which reader, with which weights and numbers that its keys depend on: memory files record it."""
        ...

    @property
    def device(self) -> torch.device: ...

    def encode(self, image: Image) -> Any:
        """(H, W, 3) uint8 RGB -> features, once per frame."""
        ...

    def look(self, features: Any, bank: MemoryBank) -> Any:
        """The `View` of a frame in the space of ``bank``; the first frame defines that space."""
        ...

    def read(self, view: Any, bank: MemoryBank) -> Reading:
        """Where the objects of the bank (there is at least one) are on this frame."""
        ...

    def write(
        self,
        view: Any,
        bank: MemoryBank,
        frame: int,
        masks: Mapping[int, Tensor],
        *,
        pinned: Set[int] = frozenset(),
        doubtful: Set[int] = frozenset(),
    ) -> None:
        """Remember (h, w) soft masks in 0..1, or (V, h, w) versions of them, of all objects that are known on this
        frame.

        Those of ``pinned`` are kept for ever; of the others, those that are not ``doubtful`` may become recent memory,
        as the reader sees fit. frame: position in the video, negative for another picture; such a picture is looked at
        in no other way than through its pinned masks. Raises LimitError where the pinned ones do not fit.
        """
        ...

    def adopt(self, bank: MemoryBank) -> None:
        """Bring a bank from elsewhere to the reader's device and precision. Raises InputError if it cannot be read."""
        ...


def shrink_mask(mask: npt.NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Share of the mask in each of height x width cells: (H, W) bool -> (height, width) float32 in 0..1.

    A mask too small to fill any cell is scaled up until it fills one: it would be too faint to propagate.
    """
    shrunk = torch.from_numpy(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))
    return shrunk / shrunk.max().clamp(min=1e-6)
