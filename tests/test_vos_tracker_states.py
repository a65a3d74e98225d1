"""States of trackers on disk: everything a state may hold comes back, and no more of them are kept than allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vos.tracker_states import SavedState, TrackerStates, pack

plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
arrays = st.sampled_from([np.bool_, np.uint8, np.uint16, np.int64, np.float32]).map(
    lambda kind: np.arange(6).reshape(2, 3).astype(kind)
)
tensors = st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.bool]).map(
    lambda kind: torch.arange(12).reshape(3, 4).to(kind).T
)
states = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        plain | arrays | tensors,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.integers(0, 9), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def always(frame: int, text: str) -> bool:
    return True


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b) and a.stride() == b.stride()
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=50)
@given(state=states)
def test_a_state_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    kept = TrackerStates(tmp_path_factory.mktemp("states"))
    kept.save(SavedState(7, (1, 300), state), "abc", always)
    found = kept.nearest(8, lambda frame: "abc", backward=False)
    assert found is not None
    assert (found.frame, found.ids) == (7, (1, 300))
    assert equal(found.state, state)


def test_what_a_state_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="tensors, arrays and plain values, not object"):
        TrackerStates(tmp_path).save(SavedState(0, (), {"a": object()}), "abc", always)
    assert not list(tmp_path.iterdir())


def test_the_nearest_state_that_holds_is_found(tmp_path: Path) -> None:
    kept = TrackerStates(tmp_path)
    for frame, text in ((10, "a"), (20, "a"), (30, "b"), (30, "a"), (40, "b")):
        kept.save(SavedState(frame, (), {"at": frame, "of": text}), text, always)

    def of(frame: int) -> str:
        return "a" if frame < 35 else "c"

    for frame, backward, expected in (
        (35, False, 30),
        (30, False, 20),
        (10, False, None),
        (9, True, 10),
        (30, True, None),
    ):
        found = kept.nearest(frame, of, backward=backward)
        assert (None if found is None else found.state) == (None if expected is None else {"at": expected, "of": "a"})


def test_damaged_states_are_passed_over(tmp_path: Path) -> None:
    kept = TrackerStates(tmp_path)
    for frame in (10, 20):
        kept.save(SavedState(frame, (), {"x": torch.ones(9)}), "a", always)
    path = tmp_path / "00020-a.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    found = kept.nearest(50, lambda frame: "a", backward=False)
    assert found is not None
    assert found.frame == 10


def test_a_state_with_blocks_of_zeros_is_passed_over(tmp_path: Path) -> None:
    kept = TrackerStates(tmp_path)
    for frame in (10, 20):
        kept.save(SavedState(frame, (), {"x": torch.ones(900)}), "a", always)
    path = tmp_path / "00020-a.safetensors"
    path.write_bytes(path.read_bytes()[:-900] + bytes(900))
    found = kept.nearest(50, lambda frame: "a", backward=False)
    assert found is not None
    assert found.frame == 10


def test_a_packed_state_is_a_copy_that_lies_in_memory_as_the_original(tmp_path: Path) -> None:
    picture = torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last)
    part = torch.arange(12.0).reshape(3, 4)[:, 1:3]
    before = picture.clone()
    packed = pack(SavedState(3, (1,), {"picture": picture, "part": part}))
    picture += 1
    kept = TrackerStates(tmp_path)
    kept.write(packed, "a", always)
    found = kept.nearest(4, lambda frame: "a", backward=False)
    assert found is not None
    assert torch.equal(found.state["picture"], before)
    assert found.state["picture"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.state["part"], part)


@settings(deadline=None, max_examples=40)
@given(frames=st.lists(st.integers(0, 200), min_size=1, max_size=25), most=st.integers(1, 6))
def test_no_more_are_kept_than_allowed(tmp_path_factory: pytest.TempPathFactory, frames: list[int], most: int) -> None:
    kept = TrackerStates(tmp_path_factory.mktemp("states"), most)
    for frame in frames:
        kept.save(SavedState(frame, (), {}), "a", always)
        assert len(kept) <= most
        assert kept.nearest(frame + 1, lambda _: "a", backward=False) is not None  # the newest is never given up


def test_those_that_are_least_missed_go_first(tmp_path: Path) -> None:
    kept = TrackerStates(tmp_path, 4)
    for frame in range(0, 161, 10):
        kept.save(SavedState(frame, (), {}), "a", always)
    found = sorted(int(path.stem[:5]) for path in tmp_path.iterdir())
    assert found[-1] == 160
    assert max(b - a for a, b in zip([0, *found], found, strict=False)) <= 80
    kept.save(SavedState(55, (), {}), "b", lambda frame, text: text == "b")
    assert [path.stem for path in tmp_path.iterdir()].count("00055-b") == 1
    assert len(kept) == 4
    kept.save(SavedState(60, (), {}), "b", lambda frame, text: text == "b")
    assert {"00055-b", "00060-b"} <= {path.stem for path in tmp_path.iterdir()}


def test_at_least_one_state_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one state must be kept, not 0"):
        TrackerStates(tmp_path, 0)
