"""The memory bank: what is remembered of a video, and the only place that forgets.

An entry is one frame: keys that all objects share, and one value (a soft mask in the same cells) per object. An object
without a value in an entry is *unknown* there, which is not the same as absent.

    pinned   frames with a prompt; never evicted. If they alone would pass the byte budget, `write` refuses.
    recent   the last ``max_recent`` frames, first in, first out; the oldest also make room for the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seem_core.errors import LimitError

MEGABYTE = 2**20


@dataclass(frozen=True, eq=False)
class Entry:
    """One remembered frame.

    frame   its position among the frames the tracker was shown
    keys    tensors of whoever reads them (`DenseReader`), one cell per row
    values  object id -> (cells, ...) soft mask in 0..1
    pinned  whether it is kept for ever
    """

    frame: int
    keys: tuple[Tensor, ...]
    values: Mapping[int, Tensor]
    pinned: bool = False

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in (*self.keys, *self.values.values()))


class MemoryBank:
    """Entries of one video, within ``max_recent`` frames and ``max_bytes`` bytes (keys and values, all entries)."""

    def __init__(self, max_recent: int = 7, max_bytes: int = 512 * MEGABYTE) -> None:
        if max_recent < 1 or max_bytes < 1:
            raise ValueError(f"a bank needs room: max_recent={max_recent}, max_bytes={max_bytes}")
        self.max_recent = max_recent
        self.max_bytes = max_bytes
        self._pinned: list[Entry] = []
        self._recent: list[Entry] = []
        self.space: tuple[Tensor, ...] = ()  # what a reader fixed when it wrote first (a basis of the keys, say)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Pinned entries, then recent ones, each from old to new."""
        return (*self._pinned, *self._recent)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the objects that have a value somewhere, ascending."""
        return tuple(sorted({i for entry in self.entries for i in entry.values}))

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    def write(self, entry: Entry) -> None:
        """Remember a frame. Evicts the oldest recent frames to stay within the bounds.

        Raises LimitError, and changes nothing, if the pinned frames and this one do not fit into ``max_bytes``.
        """
        fixed = sum(e.bytes for e in self._pinned) + entry.bytes
        if fixed > self.max_bytes:
            raise LimitError(
                f"{len(self._pinned)} pinned frames and this one take {fixed / MEGABYTE:.0f} MB, more than the memory"
                f" bank's {self.max_bytes / MEGABYTE:.0f} MB; prompt fewer frames or raise the bound"
            )
        if entry.pinned:
            self._pinned.append(entry)
            kept = self._recent
        else:
            kept = self._recent[max(0, len(self._recent) + 1 - self.max_recent) :]
        while kept and fixed + sum(e.bytes for e in kept) > self.max_bytes:
            kept = kept[1:]
        self._recent = kept if entry.pinned else [*kept, entry]

    def forget(self, object_id: int) -> None:
        """Drop every value of an object, and the frames that then remember nothing."""
        self._pinned = _without(self._pinned, object_id)
        self._recent = _without(self._recent, object_id)

    def clear(self) -> None:
        self._pinned, self._recent, self.space = [], [], ()

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; `load_state_dict` of a bank with the same bounds takes it."""
        return {
            "space": list(self.space),
            "entries": [
                {"frame": e.frame, "keys": list(e.keys), "values": dict(e.values), "pinned": e.pinned}
                for e in self.entries
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.clear()
        self.space = tuple(t.to(device) for t in state["space"])
        for item in state["entries"]:
            keys = tuple(k.to(device) for k in item["keys"])
            values = {int(i): v.to(device) for i, v in item["values"].items()}
            self.write(Entry(int(item["frame"]), keys, values, bool(item["pinned"])))

    def __len__(self) -> int:
        return len(self._pinned) + len(self._recent)

    def __repr__(self) -> str:
        used, room = self.bytes / MEGABYTE, self.max_bytes / MEGABYTE
        return f"MemoryBank({len(self.ids)} objects, {len(self)} frames, {used:.0f} of {room:.0f} MB)"


def _without(entries: Iterable[Entry], object_id: int) -> list[Entry]:
    kept = []
    for entry in entries:
        values = {i: v for i, v in entry.values.items() if i != object_id}
        if values or not entry.values:
            kept.append(replace(entry, values=values))
    return kept
