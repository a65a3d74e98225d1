"""What a memory bank is made of: `Entry`, one remembered picture, and `Previous`, the frame just before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seem_core.segmenter_types import ObjectTokens


@dataclass(frozen=True, eq=False)
class Entry:
    """One remembered picture of L cells.

    frame   its position among the frames the tracker was shown; negative for a picture from elsewhere
    keys    tensors of whoever reads them (`DenseReader`), L rows or a multiple of them; empty where there are tokens
            alone
    values  object id -> (L, ...) or a multiple of L rows: what is known of its mask
    tokens  object id -> its look
    pinned  whether it is kept for ever
    grid    (height, width) of the L cells, None where they have none
    known   object id -> (L,) bool, of the objects in ``values`` that only some cells know
    use     (L, 2) votes that the cells had in readings, and the number of readings; None where nobody counts
    looks   object id -> what a reader keeps of its appearance, of any shape; of objects in ``values``
    """

    frame: int
    keys: tuple[Tensor, ...]
    values: Mapping[int, Tensor]
    tokens: Mapping[int, ObjectTokens] = field(default_factory=dict)
    pinned: bool = False
    grid: tuple[int, int] | None = None
    known: Mapping[int, Tensor] = field(default_factory=dict)
    use: Tensor | None = None
    looks: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """L, 0 for an entry of tokens alone."""
        return len(self.keys[0]) if self.keys else 0

    @property
    def ids(self) -> set[int]:
        return {*self.values, *self.tokens}

    @property
    def bytes(self) -> int:
        use = () if self.use is None else (self.use,)
        tensors: tuple[Tensor, ...] = (
            *self.keys,
            *self.values.values(),
            *self.known.values(),
            *use,
            *self.looks.values(),
        )
        return sum(t.nbytes for t in tensors) + sum(t.bytes for t in self.tokens.values())

    def without(self, object_id: int) -> Entry:
        """The entry as if it had never seen an object."""
        return replace(
            self,
            values={i: v for i, v in self.values.items() if i != object_id},
            tokens={i: t for i, t in self.tokens.items() if i != object_id},
            known={i: k for i, k in self.known.items() if i != object_id},
            looks={i: look for i, look in self.looks.items() if i != object_id},
        )

    def alone(self) -> Entry:
        """The entry with tensors that keep no larger ones alive, so that `bytes` is what it takes."""
        return replace(
            self,
            keys=tuple(map(alone, self.keys)),
            values={i: alone(v) for i, v in self.values.items()},
            tokens={i: _tokens_alone(t) for i, t in self.tokens.items()},
            looks={i: alone(look) for i, look in self.looks.items()},
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Entry:
        """The entry on a device, its keys in a precision (None leaves it)."""
        return replace(
            self,
            keys=tuple(k.to(device, dtype) for k in self.keys),
            values={i: v.to(device) for i, v in self.values.items()},
            tokens={i: tokens_to(t, device) for i, t in self.tokens.items()},
            known={i: k.to(device) for i, k in self.known.items()},
            use=None if self.use is None else self.use.to(device),
            looks={i: look.to(device) for i, look in self.looks.items()},
        )


@dataclass(frozen=True, eq=False)
class Previous:
    """What a reader keeps of the frame just before: keys for all objects, and some tensors for each."""

    frame: int
    keys: tuple[Tensor, ...]
    values: Mapping[int, tuple[Tensor, ...]]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in self.keys) + sum(t.nbytes for v in self.values.values() for t in v)

    def without(self, object_id: int) -> Previous | None:
        """The same without an object, None if that was the last one."""
        values = {i: v for i, v in self.values.items() if i != object_id}
        return replace(self, values=values) if values else None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Previous:
        keys = tuple(k.to(device, dtype) for k in self.keys)
        return Previous(self.frame, keys, {i: tuple(t.to(device) for t in v) for i, v in self.values.items()})


def alone(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a part of a larger one."""
    if tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _tokens_alone(tokens: ObjectTokens) -> ObjectTokens:
    positive = None if tokens.positive is None else alone(tokens.positive)
    return replace(tokens, levels=tuple(map(alone, tokens.levels)), positive=positive)


def tokens_to(tokens: ObjectTokens, device: torch.device | str) -> ObjectTokens:
    """Tokens of an object on a device."""
    positive = None if tokens.positive is None else tokens.positive.to(device)
    return replace(tokens, levels=tuple(level.to(device) for level in tokens.levels), positive=positive)
