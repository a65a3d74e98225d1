"""The memory bank: what is remembered of a video, and the only place that forgets.

An entry is one picture: keys that all objects share, and per object a value in the same cells (what a dense reader
keeps of its mask), tokens (what a segmenter keeps of its look), or both. An object without a value in an entry is
*unknown* there, which is not the same as absent.

    pinned     frames with a prompt and referring pictures; never evicted. If they alone would pass the byte budget,
               `write` refuses.
    recent     the last ``max_recent`` frames with keys and the last ``max_views`` with tokens alone, first in, first
               out; the oldest also make room for the budget.
    previous   one slot for what a reader keeps of the frame just before, counted and saved with the rest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seem_core.errors import LimitError
from seem_core.segmenter_types import ObjectTokens

MEGABYTE = 2**20


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
    """

    frame: int
    keys: tuple[Tensor, ...]
    values: Mapping[int, Tensor]
    tokens: Mapping[int, ObjectTokens] = field(default_factory=dict)
    pinned: bool = False
    grid: tuple[int, int] | None = None

    @property
    def ids(self) -> set[int]:
        return {*self.values, *self.tokens}

    @property
    def bytes(self) -> int:
        tensors = sum(t.nbytes for t in (*self.keys, *self.values.values()))
        return tensors + sum(t.bytes for t in self.tokens.values())

    def without(self, object_id: int) -> Entry:
        values = {i: v for i, v in self.values.items() if i != object_id}
        return replace(self, values=values, tokens={i: t for i, t in self.tokens.items() if i != object_id})


@dataclass(frozen=True, eq=False)
class Previous:
    """What a reader keeps of the frame just before: keys for all objects, and some tensors for each."""

    frame: int
    keys: tuple[Tensor, ...]
    values: Mapping[int, tuple[Tensor, ...]]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in self.keys) + sum(t.nbytes for v in self.values.values() for t in v)


class MemoryBank:
    """Entries of one video within ``max_recent`` frames, ``max_views`` frames of tokens, and ``max_bytes`` bytes.

    The bytes are those of all tensors: keys, values, tokens, the previous frame and the space of the keys.
    """

    def __init__(self, max_recent: int = 7, max_bytes: int = 512 * MEGABYTE, *, max_views: int = 8) -> None:
        if max_recent < 1 or max_views < 1 or max_bytes < 1:
            raise ValueError(
                f"a bank needs room: max_recent={max_recent}, max_views={max_views}, max_bytes={max_bytes}"
            )
        self.max_recent = max_recent
        self.max_views = max_views
        self.max_bytes = max_bytes
        self.space: tuple[Tensor, ...] = ()  # what a reader fixed when it wrote first (a basis of the keys, say)
        self._pinned: list[Entry] = []
        self._recent: list[Entry] = []
        self._previous: Previous | None = None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Pinned entries, then recent ones, each from old to new."""
        return (*self._pinned, *self._recent)

    @property
    def dense(self) -> tuple[Entry, ...]:
        """The entries that have keys, in the order of `entries`."""
        return tuple(e for e in self.entries if e.keys)

    def views(self, object_id: int) -> tuple[ObjectTokens, ...]:
        """How an object looked: tokens of pinned entries, then of recent ones, each from old to new."""
        return tuple(e.tokens[object_id] for e in self.entries if object_id in e.tokens)

    @property
    def previous(self) -> Previous | None:
        """What a reader kept of the frame before; see `keep_previous`."""
        return self._previous

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the objects that are remembered somewhere, ascending."""
        return tuple(sorted({i for entry in self.entries for i in entry.ids}))

    @property
    def bytes(self) -> int:
        return self._fixed_bytes() + sum(e.bytes for e in self._recent)

    def write(self, entry: Entry) -> None:
        """Remember a picture. Evicts the oldest recent frames to stay within the bounds.

        Raises LimitError, and changes nothing, if what is pinned and this entry do not fit into ``max_bytes``.
        """
        fixed = self._fixed_bytes() + entry.bytes
        self._check_fits(fixed)
        if entry.pinned:
            self._recent = self._newest_within(self._recent, fixed)
            self._pinned.append(entry)
            return
        same_kind = [e for e in self._recent if bool(e.keys) == bool(entry.keys)]
        bound = self.max_recent if entry.keys else self.max_views
        leaving = same_kind[: max(0, len(same_kind) + 1 - bound)]
        self._recent = self._newest_within([e for e in self._recent if e not in leaving], fixed)
        self._recent.append(entry)

    def keep_previous(self, previous: Previous | None) -> None:
        """Put the frame before into its slot. Raises LimitError, and changes nothing, if it does not fit."""
        fixed = self._fixed_bytes() + (previous.bytes if previous else 0)
        fixed -= self._previous.bytes if self._previous else 0
        self._check_fits(fixed)
        self._recent = self._newest_within(self._recent, fixed)
        self._previous = previous

    def forget(self, object_id: int) -> None:
        """Drop all that is known of an object, and the frames that then remember nothing."""
        self._pinned = _without(self._pinned, object_id)
        self._recent = _without(self._recent, object_id)
        if self._previous is not None:
            values = {i: v for i, v in self._previous.values.items() if i != object_id}
            self._previous = replace(self._previous, values=values) if values else None

    def clear(self) -> None:
        self._pinned, self._recent, self._previous, self.space = [], [], None, ()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Bring everything to a device, and the keys to a precision."""

        def moved(entry: Entry) -> Entry:
            keys = tuple(k.to(device, dtype) for k in entry.keys)
            return replace(entry, keys=keys, values={i: v.to(device) for i, v in entry.values.items()})

        self.space = tuple(t.to(device) for t in self.space)
        self._pinned, self._recent = [moved(e) for e in self._pinned], [moved(e) for e in self._recent]

    def _fixed_bytes(self) -> int:
        """What is never evicted."""
        previous = self._previous.bytes if self._previous else 0
        return sum(e.bytes for e in self._pinned) + sum(t.nbytes for t in self.space) + previous

    def _check_fits(self, fixed: int) -> None:
        if fixed > self.max_bytes:
            raise LimitError(
                f"{len(self._pinned)} pinned frames and this one take {fixed / MEGABYTE:.1f} MB, more than the memory"
                f" bank's {self.max_bytes / MEGABYTE:.1f} MB; prompt fewer frames or raise the bound"
            )

    def _newest_within(self, recent: list[Entry], fixed: int) -> list[Entry]:
        """The newest of ``recent`` that fit beside ``fixed`` bytes."""
        total = fixed + sum(e.bytes for e in recent)
        start = 0
        while total > self.max_bytes:
            total -= recent[start].bytes
            start += 1
        return recent[start:]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; `load_state_dict` of a bank with the same bounds takes it."""
        previous = self._previous
        return {
            "space": list(self.space),
            "entries": [_plain(e) for e in self.entries],
            "previous": None
            if previous is None
            else {"frame": previous.frame, "keys": list(previous.keys), "values": dict(previous.values)},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.clear()
        self.space = tuple(t.to(device) for t in state["space"])
        for item in state["entries"]:
            self.write(_entry(item, device))
        if state["previous"] is not None:
            keys = tuple(k.to(device) for k in state["previous"]["keys"])
            values = {int(i): tuple(t.to(device) for t in v) for i, v in state["previous"]["values"].items()}
            self.keep_previous(Previous(int(state["previous"]["frame"]), keys, values))

    def __len__(self) -> int:
        return len(self._pinned) + len(self._recent)

    def __repr__(self) -> str:
        used, room = self.bytes / MEGABYTE, self.max_bytes / MEGABYTE
        return f"MemoryBank({len(self.ids)} objects, {len(self)} frames, {used:.0f} of {room:.0f} MB)"


def _without(entries: Iterable[Entry], object_id: int) -> list[Entry]:
    changed = [entry.without(object_id) if object_id in entry.ids else entry for entry in entries]
    return [entry for entry in changed if entry.ids]


def _plain(entry: Entry) -> dict[str, Any]:
    tokens = {i: {"levels": list(t.levels), "positive": t.positive} for i, t in entry.tokens.items()}
    return {
        "frame": entry.frame,
        "keys": list(entry.keys),
        "values": dict(entry.values),
        "tokens": tokens,
        "pinned": entry.pinned,
        "grid": None if entry.grid is None else list(entry.grid),
    }


def _entry(item: Mapping[str, Any], device: torch.device | str) -> Entry:
    tokens = {}
    for i, kept in item["tokens"].items():
        positive = kept["positive"]
        levels = tuple(t.to(device) for t in kept["levels"])
        tokens[int(i)] = ObjectTokens(int(i), levels, None if positive is None else positive.to(device))
    return Entry(
        int(item["frame"]),
        tuple(k.to(device) for k in item["keys"]),
        {int(i): v.to(device) for i, v in item["values"].items()},
        tokens,
        bool(item["pinned"]),
        None if item["grid"] is None else (int(item["grid"][0]), int(item["grid"][1])),
    )
