"""The memory bank keeps its bounds, its pinned frames, and nothing else."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import LimitError
from seem_core.segmenter_types import ObjectTokens
from trackers.memory_bank import MEGABYTE, Entry, LongTerm, MemoryBank, Previous

CELLS = 64


def entry(frame: int, ids: tuple[int, ...] = (1,), pinned: bool = False, cells: int = CELLS) -> Entry:
    return Entry(
        frame, (torch.full((cells, 2), float(frame)),), {i: torch.zeros(cells) for i in ids}, pinned=pinned, grid=(1, 1)
    )


def tokens(object_id: int, count: int = 8) -> ObjectTokens:
    return ObjectTokens(object_id, (torch.ones(count, 4), torch.ones(0, 4)), torch.ones(4))


def view(frame: int, ids: tuple[int, ...] = (1,), pinned: bool = False) -> Entry:
    return Entry(frame, (), {}, {i: tokens(i) for i in ids}, pinned)


def previous(frame: int, ids: tuple[int, ...], cells: int = CELLS) -> Previous:
    return Previous(frame, (torch.zeros(cells, 2),), {i: (torch.zeros(cells), torch.zeros(3)) for i in ids})


def held_bytes(bank: MemoryBank) -> int:
    """Bytes of every tensor anywhere in the bank, counted from outside."""

    def walk(value: object) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(walk, value.values()))
        return sum(map(walk, value)) if isinstance(value, list | tuple) else 0

    return walk(bank.state_dict())


SIZE = entry(0).bytes  # 64 x (2 + 1) floats


def test_recent_frames_are_first_in_first_out() -> None:
    bank = MemoryBank(max_recent=3)
    bank.write(entry(0, pinned=True))
    for frame in range(1, 10):
        bank.write(entry(frame))
        assert [e.frame for e in bank.entries] == [0, *range(max(1, frame - 2), frame + 1)]


def test_frames_of_tokens_have_a_bound_of_their_own() -> None:
    bank = MemoryBank(max_recent=2, max_views=3)
    bank.write(view(0, pinned=True))
    for frame in range(1, 7):
        bank.write(entry(frame))
        bank.write(view(frame))
    assert [e.frame for e in bank.dense] == [5, 6]
    assert [e.frame for e in bank.entries if e.tokens] == [0, 4, 5, 6]
    assert len(bank.views(1)) == 4
    assert bank.views(2) == ()
    assert bank.bytes == held_bytes(bank)


def test_the_byte_budget_evicts_recent_frames_and_refuses_pinned_ones() -> None:
    bank = MemoryBank(max_recent=100, max_bytes=3 * SIZE)
    for frame in range(5):
        bank.write(entry(frame))
    assert [e.frame for e in bank.entries] == [2, 3, 4]
    for frame in range(5, 8):
        bank.write(entry(frame, pinned=True))
    assert [e.frame for e in bank.entries] == [5, 6, 7]
    before = bank.entries
    for refused in (entry(8), entry(8, pinned=True), view(8)):
        with pytest.raises(LimitError, match="prompt fewer frames"):
            bank.write(refused)
    with pytest.raises(LimitError, match="prompt fewer frames"):
        bank.keep_previous(previous(8, (1,)))
    with pytest.raises(LimitError, match="prompt fewer frames"):
        bank.space = (torch.zeros(1),)
    assert bank.entries == before
    assert bank.previous is None
    assert bank.space == ()


def test_the_budget_is_met_to_the_byte() -> None:
    exact = MemoryBank(max_bytes=2 * SIZE)
    exact.write(entry(0, pinned=True))
    exact.write(entry(1))
    assert (len(exact), exact.bytes) == (2, 2 * SIZE)
    short = MemoryBank(max_bytes=2 * SIZE - 1)
    short.write(entry(0, pinned=True))
    with pytest.raises(LimitError):
        short.write(entry(1, pinned=True))
    assert len(short) == 1


def test_what_is_kept_keeps_nothing_larger_alive() -> None:
    large = torch.zeros(1000, CELLS, 2)
    bank = MemoryBank()
    looks = ObjectTokens(1, (torch.zeros(50, 4)[:8], torch.zeros(3, 4)), large[2, 0])
    bank.write(Entry(0, (large[0],), {1: large[1, :, 0]}, {1: looks}, pinned=True))
    (kept,) = bank.entries
    tensors = (*kept.keys, *kept.values.values(), *kept.tokens[1].levels, kept.tokens[1].positive)
    assert sum(t.untyped_storage().nbytes() for t in tensors) == bank.bytes == held_bytes(bank)


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


class Operations:
    """A bank, random operations on it, and what must be true after each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bank = MemoryBank(
            5, 60_000, max_views=4, long_term=LongTerm(cells=512, slack=256, every=self.random.choice((1, 3)))
        )
        self.pinned: list[tuple[int, set[int]]] = []
        self.frame = 0
        self.refused = 0

    def ids(self) -> tuple[int, ...]:
        return tuple(sorted(self.random.sample(range(1, 9), self.random.randint(1, 4))))

    def write(self) -> None:
        cells = self.random.choice((128, 256, 384))
        made = (
            entry(self.frame, self.ids(), cells=cells) if self.random.random() < 0.7 else view(self.frame, self.ids())
        )
        self.bank.write(made)

    def pin(self) -> None:
        made = entry(self.frame, self.ids(), True) if self.random.random() < 0.5 else view(self.frame, self.ids(), True)
        self.bank.write(made)
        self.pinned.append((made.frame, made.ids))

    def keep_previous(self) -> None:
        self.bank.keep_previous(None if self.random.random() < 0.2 else previous(self.frame, self.ids()))

    def set_space(self) -> None:
        self.bank.space = (torch.zeros(self.random.randint(1, 400)),)

    def count_votes(self) -> None:
        generator = torch.Generator().manual_seed(self.random.randint(0, 99))
        self.bank.count_votes([torch.rand(e.cells, generator=generator).round() for e in self.bank.dense])

    def forget(self) -> None:
        object_id = self.random.randint(1, 8)
        self.bank.forget(object_id)
        assert object_id not in self.bank.ids
        self.pinned = [(frame, ids - {object_id}) for frame, ids in self.pinned if ids - {object_id}]

    def resume(self) -> None:
        other = MemoryBank(5, self.bank.max_bytes, max_views=4, long_term=self.bank.long_term)
        other.load_state_dict(self.bank.state_dict())
        assert other.bytes == self.bank.bytes
        self.bank = other

    def run(self) -> None:
        steps = (self.write, self.pin, self.keep_previous, self.set_space, self.count_votes, self.forget, self.resume)
        step = self.random.choices(steps, (45, 10, 10, 2, 20, 2, 2))[0]
        self.frame += 1
        before = self.bank.snapshot()
        try:
            step()
        except LimitError:
            self.refused += 1
            after = self.bank.snapshot()
            assert (after.pinned, after.recent, after.previous) == (before.pinned, before.recent, before.previous)

    def check(self) -> None:
        bank = self.bank
        assert self.frame % 8 or bank.bytes == held_bytes(bank)
        assert bank.bytes <= bank.max_bytes
        assert [(e.frame, e.ids) for e in bank.entries if e.pinned] == self.pinned
        recent = bank.snapshot().recent
        assert sum(bool(e.keys) for e in recent) <= 5
        assert sum(not e.keys for e in recent) <= 4
        long_term = bank.snapshot().long_term
        assert long_term is None or 0 < long_term.cells <= 768


def test_the_budget_holds_over_five_thousand_random_operations() -> None:
    operations = Operations(seed=0)
    long_term = 0
    for _ in range(5_000):
        operations.run()
        operations.check()
        long_term += operations.bank.snapshot().long_term is not None
    assert operations.refused > 0  # the budget was reached
    assert long_term > 100


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
    bank.write(view(2, (1,)))
    bank.keep_previous(previous(2, (1, 2)))
    bank.forget(1)
    assert [(e.frame, tuple(e.values)) for e in bank.entries] == [(1, (2,)), (2, (2,))]
    assert bank.ids == (2,)
    assert bank.previous is not None
    assert set(bank.previous.values) == {2}
    bank.forget(2)
    assert len(bank) == 0
    assert bank.previous is None


def test_state_survives_a_round_trip() -> None:
    bank = MemoryBank(2)
    bank.space = (torch.arange(3.0),)
    for frame in range(4):
        bank.write(entry(frame, (1, 300), pinned=frame == 0))
    bank.write(view(3, (300,)))
    bank.keep_previous(previous(3, (1,)))
    other = MemoryBank(2)
    other.load_state_dict(bank.state_dict())
    assert repr(other) == repr(bank)
    assert [(e.frame, tuple(e.values), e.pinned, e.grid) for e in other.entries] == [
        (e.frame, tuple(e.values), e.pinned, e.grid) for e in bank.entries
    ]
    assert torch.equal(other.space[0], bank.space[0])
    assert other.previous is not None
    assert other.previous.frame == 3
    assert other.views(300)[0].positive is not None


def test_a_narrower_bank_takes_over_what_it_has_room_for() -> None:
    wide, narrow = MemoryBank(5), MemoryBank(5, 3 * SIZE)
    for frame in range(6):
        wide.write(entry(frame, pinned=frame == 0))
    narrow.restore(wide.snapshot())
    assert [e.frame for e in narrow.entries] == [0, 4, 5]
    tiny = MemoryBank(5, SIZE - 1)
    with pytest.raises(LimitError, match="raise the bound"):
        tiny.restore(wide.snapshot())
    assert len(tiny) == 0


def test_another_video_begins_with_what_is_pinned() -> None:
    bank, other = MemoryBank(), MemoryBank()
    bank.space = (torch.ones(2),)
    for frame in range(4):
        bank.write(entry(frame, (1, 2), pinned=frame == 2))
    bank.keep_previous(previous(3, (1, 2)))
    other.begin_with(bank)
    assert [(e.frame, e.pinned) for e in other.entries] == [(-1, True)]
    assert other.ids == (1, 2)
    assert other.previous is None
    assert torch.equal(other.space[0], bank.space[0])


def test_the_cells_that_were_used_most_stay() -> None:
    bank = MemoryBank(1, long_term=LongTerm(cells=128, slack=0, every=1))
    votes = torch.arange(256.0)
    bank.write(entry(0, (1,), cells=256))
    bank.count_votes([votes])
    bank.write(entry(1, (1, 2), cells=256))  # entry 0 leaves
    kept = bank.snapshot().long_term
    assert kept is not None
    assert torch.equal(kept.use[:, 0], votes[128:])  # type: ignore[index]
    assert (kept.keys[0] == 0).all()
    bank.count_votes([torch.zeros(128), 10 * votes])
    bank.write(entry(2, (1, 2), cells=256))
    kept = bank.snapshot().long_term
    assert kept is not None
    assert (kept.keys[0] == 1).all()  # voted more per reading than what had been there
    assert kept.known == {}


def test_long_term_cells_that_do_not_know_an_object_say_so() -> None:
    bank = MemoryBank(1, long_term=LongTerm(cells=256, slack=0, every=1))
    for frame, ids in enumerate([(1,), (1, 2), (1, 2)]):
        bank.write(entry(frame, ids, cells=128))
        bank.count_votes([torch.ones(e.cells) for e in bank.dense])
    kept = bank.snapshot().long_term
    assert kept is not None
    assert set(kept.known) == {2}
    assert kept.known[2].tolist() == [False] * 128 + [True] * 128
    bank.forget(1)
    bank.forget(2)
    assert bank.entries == ()


def test_nothing_is_kept_for_long_unless_asked_for() -> None:
    bank = MemoryBank(1)
    for frame in range(9):
        bank.write(entry(frame, cells=256))
        bank.count_votes([torch.ones(256)])
    assert bank.snapshot().long_term is None
    assert bank.entries[0].use is None


def test_it_can_be_printed() -> None:
    bank = MemoryBank(max_bytes=64 * MEGABYTE)
    for frame in range(9):
        bank.write(entry(frame, (1, 2, 7), pinned=frame < 2, cells=MEGABYTE // 8))
    assert repr(bank) == "MemoryBank(3 objects, 9 frames, 22 of 64 MB)"


@pytest.mark.parametrize("bad", [{"max_recent": 0}, {"max_bytes": 0}, {"max_views": 0}])
def test_a_bank_without_room_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs room"):
        MemoryBank(**bad)


@pytest.mark.parametrize("bad", [{"cells": -1}, {"slack": -1}, {"every": 0}])
def test_bounds_of_long_term_memory_are_checked(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="long-term memory needs"):
        LongTerm(**bad)
