"""Views within their budget: who gets how many tokens, and that the bank holds no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene
from tiny_seem import tiny_seem

from seem_core.prompts import ReferencePrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import ObjectTokens
from trackers.memory_bank import MemoryBank
from trackers.object_views import (
    ViewBudget,
    apart,
    join_views,
    pin_references,
    pin_views,
    remembered_views,
    views_of_masks,
    write_recent_views,
)
from trackers.prompting import as_picture


def view(tokens: int, value: float = 0.0, object_id: int = 1) -> ObjectTokens:
    """Tokens that count up from ``value``; their mean vector is ``value``."""
    level = value + torch.arange(tokens, dtype=torch.float32)[:, None].expand(-1, 2) / 1000
    return ObjectTokens(object_id, (level, level, level), torch.full((2,), value))


def test_one_view_is_passed_on_whole() -> None:
    only = view(512, 3.0)
    joined = join_views(1, [only], [], ViewBudget())
    assert all(torch.equal(a, b) for a, b in zip(joined.levels, only.levels, strict=True))
    assert joined.positive is not None
    assert only.positive is not None
    assert torch.equal(joined.positive, only.positive)


def test_recent_frames_share_half_and_pinned_views_have_the_rest() -> None:
    budget = ViewBudget(512, 8)
    assert budget.per_recent_frame == 32
    joined = join_views(1, [view(512, 0.0), view(512, 10.0)], [view(300, 20.0 + n) for n in range(8)], budget)
    owners = [int(token[0]) for token in joined.levels[0]]
    assert len(owners) == 512
    assert owners.count(0) == owners.count(10) == 128
    assert [owners.count(20 + n) for n in range(8)] == [32] * 8
    assert owners == sorted(owners)  # pinned before recent, old before new
    assert joined.positive is not None
    assert joined.positive.tolist() == pytest.approx([(5.0 + 23.5) / 2] * 2)  # half pinned, half recent


@given(
    pinned=st.lists(st.integers(0, 700), min_size=1, max_size=5),
    recent=st.lists(st.integers(0, 700), max_size=8),
    tokens=st.integers(16, 600),
)
@settings(deadline=None, max_examples=60)
def test_the_budget_holds_and_nothing_is_wasted(pinned: list[int], recent: list[int], tokens: int) -> None:
    budget = ViewBudget(tokens, 8)
    joined = join_views(1, [view(n) for n in pinned], [view(n) for n in recent], budget)
    late = sum(min(n, budget.per_recent_frame) for n in recent)
    assert late <= tokens // 2
    for level in joined.levels:
        assert len(level) == min(tokens, sum(pinned) + late)


def test_a_view_without_a_mean_leaves_it_to_the_others() -> None:
    blind = ObjectTokens(1, view(4).levels, None)
    joined = join_views(1, [blind], [view(4, 7.0)], ViewBudget())
    assert joined.positive is not None
    assert joined.positive.tolist() == [7.0, 7.0]
    assert join_views(1, [blind], [], ViewBudget()).positive is None


@pytest.mark.parametrize(("tokens", "frames"), [(512, -1), (15, 8), (1, 0)])
def test_budgets_that_cannot_be_shared_are_refused(tokens: int, frames: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        ViewBudget(tokens, frames)


def test_the_bank_keeps_recent_views_small_and_few() -> None:
    budget = ViewBudget(64, 4)
    bank = MemoryBank(max_views=4)
    pin_views(bank, 0, {5: view(64, 1.0, 5)})
    for frame in range(1, 10):
        write_recent_views(
            bank, frame, {5: view(64, float(frame), 5), 6: view(3, float(frame), 6)} if frame < 9 else {}, budget
        )
    assert len(bank) == 5
    five, six = remembered_views(bank, (5, 6, 7), budget)
    assert (five.object_id, six.object_id) == (5, 6)
    assert [len(level) for level in five.levels] == [64] * 3
    assert len(six.levels[0]) == 4 * 3
    assert six.positive is not None
    assert six.positive.tolist() == pytest.approx([6.5, 6.5])  # of frames 5 to 8
    one_recent = bank.bytes - view(64).bytes
    assert one_recent == 4 * (view(8).bytes + view(3).bytes)
    (fewer,) = remembered_views(bank, (6,), ViewBudget(64, 2))
    assert fewer.positive is not None
    assert fewer.positive.tolist() == pytest.approx([7.5, 7.5])  # the newest of those that there are
    write_recent_views(bank, 10, {5: view(64, 3.0, 5)}, ViewBudget(64, 0))
    assert len(bank) == 5  # a budget without recent frames writes none


def test_an_object_that_later_masks_cover_keeps_its_own_view() -> None:
    inner, outer = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    inner[2:4, 2:4], outer[1:6, 1:6] = True, True
    shown = apart({1: inner, 2: outer})
    assert np.array_equal(shown[1], inner)
    assert np.array_equal(apart({2: outer, 1: inner})[2], outer & ~inner)


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_other_pictures_are_pinned_whatever_their_size(routing: str) -> None:
    segmenter = SeemSegmenter(tiny_seem(routing))  # type: ignore[arg-type]
    here, there = scene([[(60, 60)]], 120, 160), scene([[(60, 90)]], 200, 130)
    bank = MemoryBank()
    features = segmenter.encode(as_picture(here.images[0]))
    views = views_of_masks(segmenter, features, {3: here.masks[0][0], 4: np.zeros((120, 160), bool)})
    assert list(views) == [3]  # an empty mask shows nothing
    pin_views(bank, 0, views)
    pin_references(segmenter, bank, {3: (ReferencePrompt(there.images[0], there.masks[0][0], 3),)})
    assert [(entry.frame, entry.pinned) for entry in bank.entries] == [(0, True), (-1, True)]
    (joined,) = remembered_views(bank, (3,), ViewBudget(40, 2))
    assert all(len(level) == 40 for level in joined.levels)
    assert segmenter.recall(features, [joined]).ids == (3,)
