"""The memory bank keeps its bounds, its pinned frames, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import LimitError
from trackers.memory_bank import MEGABYTE, Entry, MemoryBank

CELLS = 64


def entry(frame: int, ids: tuple[int, ...] = (1,), pinned: bool = False, cells: int = CELLS) -> Entry:
    return Entry(frame, (torch.full((cells, 2), float(frame)),), {i: torch.zeros(cells) for i in ids}, pinned=pinned)


SIZE = entry(0).bytes  # 64 x (2 + 1) floats


def test_recent_frames_are_first_in_first_out() -> None:
    bank = MemoryBank(max_recent=3)
    bank.write(entry(0, pinned=True))
    for frame in range(1, 10):
        bank.write(entry(frame))
        assert [e.frame for e in bank.entries] == [0, *range(max(1, frame - 2), frame + 1)]


def test_the_byte_budget_evicts_recent_frames_and_refuses_pinned_ones() -> None:
    bank = MemoryBank(max_recent=100, max_bytes=3 * SIZE)
    for frame in range(5):
        bank.write(entry(frame))
    assert [e.frame for e in bank.entries] == [2, 3, 4]
    for frame in range(5, 8):
        bank.write(entry(frame, pinned=True))
    assert [e.frame for e in bank.entries] == [5, 6, 7]
    before = bank.entries
    with pytest.raises(LimitError, match="prompt fewer frames"):
        bank.write(entry(8))
    assert bank.entries == before


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3)), max_size=60), st.integers(1, 5))
@settings(deadline=None)
def test_bounds_hold_whatever_is_written(writes: list[tuple[bool, int, int]], max_recent: int) -> None:
    bank = MemoryBank(max_recent, max_bytes=6 * SIZE)
    pinned: list[int] = []
    for frame, (pin, cells, objects) in enumerate(writes):
        try:
            bank.write(entry(frame, tuple(range(1, objects + 1)), pin, cells))
        except LimitError:
            continue
        if pin:
            pinned.append(frame)
        assert bank.bytes <= bank.max_bytes
        assert [e.frame for e in bank.entries if e.pinned] == pinned
        recent = [e.frame for e in bank.entries if not e.pinned]
        assert len(recent) <= max_recent
        assert pin or recent[-1] == frame
        assert recent == sorted(recent)


@given(st.permutations([1, 5, 9]))
@settings(deadline=None)
def test_permuting_ids_permutes_the_content(order: list[int]) -> None:
    names = dict(zip([1, 5, 9], order, strict=True))
    one, other = MemoryBank(2), MemoryBank(2)
    for frame in range(5):
        e = entry(frame, (1, 5, 9) if frame % 2 else (1, 9), pinned=frame == 0)
        one.write(e)
        other.write(Entry(e.frame, e.keys, {names[i]: v for i, v in e.values.items()}, pinned=e.pinned))
    assert [[names[i] for i in e.values] for e in one.entries] == [list(e.values) for e in other.entries]
    one.forget(5)
    other.forget(names[5])
    assert {names[i] for i in one.ids} == set(other.ids)


def test_forgetting_drops_values_and_then_empty_frames() -> None:
    bank = MemoryBank()
    bank.write(entry(0, (1,), pinned=True))
    bank.write(entry(1, (2,), pinned=True))
    bank.write(entry(2, (1, 2)))
    bank.forget(1)
    assert [(e.frame, tuple(e.values)) for e in bank.entries] == [(1, (2,)), (2, (2,))]
    assert bank.ids == (2,)


def test_state_survives_a_round_trip() -> None:
    bank = MemoryBank(2)
    bank.space = (torch.arange(3.0),)
    for frame in range(4):
        bank.write(entry(frame, (1, 300), pinned=frame == 0))
    other = MemoryBank(2)
    other.load_state_dict(bank.state_dict())
    assert repr(other) == repr(bank)
    assert [(e.frame, tuple(e.values), e.pinned) for e in other.entries] == [
        (e.frame, tuple(e.values), e.pinned) for e in bank.entries
    ]
    assert torch.equal(other.space[0], bank.space[0])


def test_it_can_be_printed() -> None:
    bank = MemoryBank(max_bytes=64 * MEGABYTE)
    for frame in range(9):
        bank.write(entry(frame, (1, 2, 7), pinned=frame < 2, cells=MEGABYTE // 8))
    assert repr(bank) == "MemoryBank(3 objects, 9 frames, 22 of 64 MB)"


@pytest.mark.parametrize("bad", [{"max_recent": 0}, {"max_bytes": 0}])
def test_a_bank_without_room_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs room"):
        MemoryBank(**bad)
