"""Undo and redo: every state that was can be reached again, until something new is done."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vos.edit_history import MOST_ACTS, EditHistory

acts = st.lists(st.sampled_from(["add", "add", "remove", "undo", "redo"]), max_size=40)


def perform(history: EditHistory, act: str, choice: int = 0) -> EditHistory:
    if act == "remove":
        return history.remove(history.numbers[choice % len(history.numbers)]) if history.numbers else history
    with suppress(IndexError):
        return {"add": history.add, "undo": history.undo, "redo": history.redo}[act]()
    return history


@given(acts, st.integers(0, 5))
def test_undo_and_redo_lead_through_the_states_that_were(done: list[str], choice: int) -> None:
    history = EditHistory()
    past = [history.numbers]
    place = 0
    for act in done:
        before = history
        history = perform(history, act, choice)
        assert history.highest >= max(history.numbers, default=0)
        assert set(history.numbers) <= history.reachable
        if act in ("add", "remove") and history is not before:
            past = [*past[: place + 1], history.numbers]
            place += 1
        elif act == "undo":
            place = max(0, place - 1)
        elif act == "redo":
            place = min(len(past) - 1, place + 1)
        assert history.numbers == past[place]
        assert EditHistory.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_numbers_are_not_given_twice() -> None:
    history = EditHistory().add().undo().add()
    assert history.numbers == (2,)
    assert history.reachable == {2}
    with pytest.raises(KeyError):
        history.remove(1)


def test_the_oldest_acts_are_forgotten() -> None:
    history = EditHistory()
    for _ in range(MOST_ACTS + 5):
        history = history.add()
    assert len(history.done) == MOST_ACTS
    for _ in range(MOST_ACTS):
        history = history.undo()
    assert history.numbers == (1, 2, 3, 4, 5)
    with pytest.raises(IndexError):
        history.undo()


@pytest.mark.parametrize("plain", [{}, {"numbers": [1], "done": [["make", 1]], "undone": [], "highest": 1}])
def test_what_it_did_not_write_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        EditHistory.from_json(plain)
