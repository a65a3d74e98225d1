"""The memory bank: what is remembered of a video, and the only place that forgets.

An entry is one picture: keys that all objects share, and per object a value in the same cells (what a dense reader
keeps of its mask), tokens (what a segmenter keeps of its look), or both. An object without a value in an entry is
*unknown* there, which is not the same as absent.

    pinned     frames with a prompt and referring pictures; never evicted. If they alone would pass the byte budget,
               `write` refuses.
    long-term  the most used cells of frames that left recent memory, as one entry; the first to make room
    recent     ``max_recent`` frames with keys, the last ones and others spread over ``span`` frames before (see
               `trackers.spacing`), and the last ``max_views`` with tokens alone; the oldest also make room for the
               budget
    previous   one slot for what a reader keeps of the frame just before, counted and saved with the rest
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seem_core.errors import LimitError
from seem_core.segmenter_types import ObjectTokens
from trackers.entries import Entry, Previous
from trackers.long_term import LongTerm, keep_best, used, with_use
from trackers.spacing import least_needed

__all__ = ["MEGABYTE", "Entry", "LongTerm", "MemoryBank", "Previous", "Snapshot"]

MEGABYTE = 2**20


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a bank holds at one time; tensors are shared with it, which never changes them in place."""

    space: tuple[Tensor, ...]
    pinned: tuple[Entry, ...]
    long_term: Entry | None
    recent: tuple[Entry, ...]
    previous: Previous | None


class MemoryBank:
    """Entries of one video within ``max_recent`` frames, ``max_views`` frames of tokens, and ``max_bytes`` bytes.

    span: how many frames back the recent ones may lie, as far as those with keys are concerned; 0 keeps the last ones.

    The bytes are those of all tensors: keys, values, tokens, the previous frame and the space of the keys. What would
    pass a bound is refused or makes others leave before it is stored. ``long_term`` states how much of what leaves is
    kept, by default nothing.
    """

    def __init__(
        self,
        max_recent: int = 7,
        max_bytes: int = 512 * MEGABYTE,
        *,
        max_views: int = 8,
        span: int = 0,
        long_term: LongTerm | None = None,
    ) -> None:
        if max_recent < 1 or max_views < 1 or max_bytes < 1 or span < 0:
            raise ValueError(
                f"a bank needs room: max_recent={max_recent}, max_views={max_views}, max_bytes={max_bytes}, span={span}"
            )
        self.max_recent = max_recent
        self.span = span
        self.max_views = max_views
        self.max_bytes = max_bytes
        self.long_term = long_term or LongTerm()
        self._space: tuple[Tensor, ...] = ()
        self._pinned: list[Entry] = []
        self._long: Entry | None = None
        self._recent: list[Entry] = []
        self._previous: Previous | None = None

    @property
    def space(self) -> tuple[Tensor, ...]:
        """What a reader fixed when it looked first (a basis of the keys, say). Setting it raises LimitError where it
        does not fit."""
        return self._space

    @space.setter
    def space(self, tensors: Sequence[Tensor]) -> None:
        self._make_room(sum(t.nbytes for t in tensors) - sum(t.nbytes for t in self._space))
        self._space = tuple(tensors)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Pinned entries, the long-term one, then recent ones, each from old to new."""
        long_term = () if self._long is None else (self._long,)
        return (*self._pinned, *long_term, *self._recent)

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
        return self._fixed_bytes() + sum(e.bytes for e in self.entries if not e.pinned)

    def write(self, entry: Entry) -> None:
        """Remember a picture. Recent frames leave as the bounds demand.

        Raises LimitError, and changes nothing, if what is pinned and this entry do not fit into ``max_bytes``.
        """
        entry = entry.alone()
        if entry.pinned:
            self._make_room(entry.bytes)
            self._pinned.append(entry)
            return
        counted = with_use(entry) if entry.keys and self.long_term.cells else entry
        self._check_fits(self._fixed_bytes() + counted.bytes)
        same_kind = [e for e in self._recent if bool(e.keys) == bool(entry.keys)]
        bound = self.max_recent if entry.keys else self.max_views
        leaving = []
        while len(same_kind) + 1 > bound:
            frames = [e.frame for e in same_kind]
            leaving.append(same_kind.pop(least_needed(frames, entry.frame, self.span if entry.keys else 0)))
        self._recent = [e for e in self._recent if e not in leaving]
        for old in leaving:
            self._long = self.long_term.absorb(self._long, old)
        self._make_room(counted.bytes)
        self._recent.append(counted)

    def keep_previous(self, previous: Previous | None) -> None:
        """Put the frame before into its slot. Raises LimitError, and changes nothing, if it does not fit."""
        before, now = (0 if p is None else p.bytes for p in (self._previous, previous))
        self._make_room(now - before)
        self._previous = previous

    def count_votes(self, votes: Sequence[Tensor]) -> None:
        """Note how much each cell was used. votes: one (L,) per entry of `dense`, from one reading."""
        if not self.long_term.cells:
            return
        counted = {id(e): used(e, v) for e, v in zip(self.dense, votes, strict=True)}
        self._long = None if self._long is None else counted[id(self._long)]
        self._recent = [counted.get(id(e), e) for e in self._recent]

    def forget(self, object_id: int) -> None:
        """Drop all that is known of an object, and the frames that then remember nothing."""
        self._pinned = _without(self._pinned, object_id)
        self._recent = _without(self._recent, object_id)
        self._long = next(iter(_without([self._long] if self._long else [], object_id)), None)
        self._previous = self._previous and self._previous.without(object_id)

    def clear(self) -> None:
        self._hold(Snapshot((), (), None, (), None))

    def snapshot(self) -> Snapshot:
        """What it holds now, for `restore`; costs nothing."""
        return Snapshot(self._space, tuple(self._pinned), self._long, tuple(self._recent), self._previous)

    def restore(self, snapshot: Snapshot) -> None:
        """Hold what a bank held, as far as the bounds of this one allow. Raises LimitError, and changes nothing, if
        they are too narrow for what never leaves."""
        held = self.snapshot()
        self._hold(snapshot)
        for has_keys, bound in ((True, self.max_recent), (False, self.max_views)):
            same_kind = [e for e in self._recent if bool(e.keys) == has_keys]
            leaving = same_kind[: max(0, len(same_kind) - bound)]
            self._recent = [e for e in self._recent if e not in leaving]
        try:
            self._make_room(0)
        except LimitError:
            self._hold(held)
            raise

    def begin_with(self, other: MemoryBank) -> None:
        """Take over what lasts of another video's memory: pinned and long-term entries and the space of their keys.

        Raises LimitError, and changes nothing, if that does not fit.
        """
        pinned = tuple(replace(e, frame=-1) for e in other._pinned)
        self.restore(Snapshot(other._space, pinned, other._long, (), None))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
        """Bring everything to a device, and the keys to a precision. Raises LimitError as `restore` does."""
        held = self.snapshot()
        self.restore(
            Snapshot(
                tuple(t.to(device) for t in held.space),
                tuple(e.to(device, dtype) for e in held.pinned),
                held.long_term and held.long_term.to(device, dtype),
                tuple(e.to(device, dtype) for e in held.recent),
                held.previous and held.previous.to(device, dtype),
            )
        )

    def save(self, path: str | os.PathLike[str], *, model: str) -> None:
        """Write everything to a .safetensors file; see `trackers.memory_file`. Raises OutputError.

        model: which model can read it (`DenseReader.name`).
        """
        from trackers.memory_file import save_memory

        save_memory(self.snapshot(), path, model=model)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: str, **bounds: Any) -> MemoryBank:
        """A bank from a file that `save` wrote. bounds: of the constructor.

        Raises InputError for a file that is missing, damaged, of another kind or of another model; LimitError where the
        bounds are too narrow.
        """
        from trackers.memory_file import load_memory

        bank = cls(**bounds)
        bank.restore(load_memory(path, model=model))
        return bank

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; `load_state_dict` of a bank with the same bounds takes it."""
        from trackers.memory_file import to_plain

        return to_plain(self.snapshot())

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        from trackers.memory_file import from_plain

        self.restore(from_plain(state))
        self.to(device)

    def _hold(self, snapshot: Snapshot) -> None:
        self._space, self._long, self._previous = snapshot.space, snapshot.long_term, snapshot.previous
        self._pinned, self._recent = list(snapshot.pinned), list(snapshot.recent)

    def _fixed_bytes(self) -> int:
        """What is never evicted."""
        previous = self._previous.bytes if self._previous else 0
        return sum(e.bytes for e in self._pinned) + sum(t.nbytes for t in self._space) + previous

    def _check_fits(self, fixed: int) -> None:
        if fixed > self.max_bytes:
            raise LimitError(
                f"{len(self._pinned)} pinned frames and what is to join them take {fixed / MEGABYTE:.1f} MB, more than"
                f" the memory bank's {self.max_bytes / MEGABYTE:.1f} MB; prompt fewer frames or raise the bound"
            )

    def _make_room(self, wanted: int) -> None:
        """Let long-term cells and then old recent frames go until ``wanted`` more bytes fit. Raises LimitError, and
        changes nothing, if they cannot."""
        fixed = self._fixed_bytes() + wanted
        self._check_fits(fixed)
        recent = sum(e.bytes for e in self._recent)
        if self._long is not None and fixed + recent + self._long.bytes > self.max_bytes:
            room = max(0, self.max_bytes - fixed - recent)
            self._long = keep_best(self._long, room * self._long.cells // self._long.bytes)
        kept = 0 if self._long is None else self._long.bytes
        while fixed + kept + recent > self.max_bytes:
            recent -= self._recent[0].bytes
            self._recent = self._recent[1:]

    def __len__(self) -> int:
        return len(self._pinned) + len(self._recent)

    def __repr__(self) -> str:
        used, room = self.bytes / MEGABYTE, self.max_bytes / MEGABYTE
        return f"MemoryBank({len(self.ids)} objects, {len(self)} frames, {used:.0f} of {room:.0f} MB)"


def _without(entries: Iterable[Entry], object_id: int) -> list[Entry]:
    changed = [entry.without(object_id) if object_id in entry.ids else entry for entry in entries]
    return [entry for entry in changed if entry.ids]
