"""Frames in memory: the newest are all there, further back they lie farther apart, and nothing lies beyond the span."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from trackers.memory_bank import Entry, MemoryBank
from trackers.spacing import NEWEST, least_needed


def kept_after(frames: int, room: int, span: int) -> list[int]:
    """Frames in memory after so many."""
    kept: list[int] = []
    for now in range(frames):
        if len(kept) == room:
            del kept[least_needed(kept, now, span)]
        kept.append(now)
    return kept


@given(st.integers(1, 400), st.integers(1, 9), st.sampled_from([0, 8, 64, 10_000]))
@settings(deadline=None, max_examples=60)
def test_the_newest_stay_and_nothing_is_older_than_the_span(frames: int, room: int, span: int) -> None:
    kept = kept_after(frames, room, span)
    assert len(kept) == min(frames, room)
    assert kept[-min(room, NEWEST + 1) :] == list(range(frames))[-min(room, NEWEST + 1) :]
    assert frames - 1 - kept[0] <= max(span + 1, room)


@given(st.integers(60, 400))
@settings(deadline=None, max_examples=30)
def test_gaps_grow_with_age(frames: int) -> None:
    kept = kept_after(frames, 7, 64)
    ages = [frames - frame for frame in reversed(kept)]  # young to old
    assert ages[:3] == [1, 2, 3]
    assert all(older <= 6 * younger for younger, older in pairwise(ages[2:]))
    assert ages[-1] > 20


@pytest.mark.parametrize("room", [1, 2, 3])
def test_few_are_the_last_ones(room: int) -> None:
    assert kept_after(50, room, 64) == list(range(50))[-room:]


def test_without_a_span_they_are_the_last_ones() -> None:
    assert kept_after(50, 7, 0) == list(range(43, 50))


def test_a_bank_spaces_what_has_keys() -> None:
    bank = MemoryBank(max_recent=7, span=64)
    for frame in range(100):
        keys = (torch.zeros(4, 2), torch.zeros(4, 8), torch.zeros(16, 8))
        bank.write(Entry(frame, keys, {1: torch.zeros(16, 4, dtype=torch.float16)}, grid=(2, 2)))
    assert [entry.frame for entry in bank.dense] == kept_after(100, 7, 64)
    with pytest.raises(ValueError, match="span"):
        MemoryBank(span=-1)
