"""What a result was made from: the same text exactly when the pass was told the same until then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, Prompt, ReferencePrompt, ScribblePrompt, TextPrompt
from vos.pass_inputs import PassInputs, prompt_digest
from vos.prompts import Forget
from vos.suggestions import choose

TRACKED = range(0, 60, 2)
told = st.dictionaries(st.sampled_from(list(TRACKED)), st.sampled_from(["a", "b"]), max_size=5)
ends = st.dictionaries(st.sampled_from(list(TRACKED)), st.just((1,)), max_size=2)


def heard(inputs: PassInputs, frame: int) -> object:
    """Plainly: all that the pass comes by up to ``frame``, or None before its beginning."""
    begin = inputs.begin
    if begin is None or (frame > begin if inputs.backward else frame < begin):
        return None
    if inputs.backward:
        prompts = {f: d for f, d in inputs.told.items() if f >= frame}
        return inputs.setting, prompts, {k: i for k, i in inputs.ends.items() if frame < k <= begin}
    prompts = {f: d for f, d in inputs.told.items() if f <= frame}
    return inputs.setting, prompts, {k: i for k, i in inputs.ends.items() if begin <= k <= frame}


@given(told, told, ends, ends, st.booleans())
def test_texts_are_equal_exactly_when_what_was_told_is(
    a: dict[int, str], b: dict[int, str], c: dict[int, tuple[int, ...]], d: dict[int, tuple[int, ...]], backward: bool
) -> None:
    one, other = PassInputs(TRACKED, backward, "x", a, c), PassInputs(TRACKED, backward, "x", b, d)
    for frame in TRACKED:
        assert (one.made_from(frame) is None) == (heard(one, frame) is None) == (frame not in one.frames)
        assert (one.made_from(frame) == other.made_from(frame)) == (heard(one, frame) == heard(other, frame))
    assert one.made_from(1) is None  # not tracked


def test_another_setting_is_another_text() -> None:
    one, other = (PassInputs(TRACKED, False, setting, {0: "a"}, {}) for setting in "xy")
    assert one.made_from(4) != other.made_from(4)


def test_ends_that_are_still_to_come() -> None:
    inputs = {backward: PassInputs(TRACKED, backward, "x", {0: "a", 50: "b"}, {10: (1,)}) for backward in (False, True)}
    assert [inputs[False].ends_after(f) for f in (None, 8, 10)] == [{10: (1,)}, {10: (1,)}, {}]
    assert [inputs[True].ends_after(f) for f in (None, 10, 8)] == [{10: (1,)}, {10: (1,)}, {}]


def test_a_digest_stands_for_every_value() -> None:
    mask, image = np.zeros((4, 6), np.bool_), np.zeros((4, 6, 3), np.uint8)
    other, wide = mask.copy(), mask.reshape(6, 4)
    other[1, 1] = True
    prompts: list[Prompt | Forget] = [
        PointPrompt(1, 2), PointPrompt(1, 2, False), PointPrompt(2, 1), PointPrompt(1, 2, True, 2),
        BoxPrompt(1, 2, 3, 4), ScribblePrompt(((1, 2), (3, 4))), TextPrompt("a"), TextPrompt("b"), Forget(1),
        MaskPrompt(mask), MaskPrompt(other), MaskPrompt(wide), MaskPrompt(mask, 2),
        ReferencePrompt(image, mask), ReferencePrompt(image + 1, mask), ReferencePrompt(image, other),
    ]  # fmt: skip
    assert len({prompt_digest(p) for p in prompts}) == len(prompts)
    assert prompt_digest(MaskPrompt(other.copy(), 1)) == prompt_digest(MaskPrompt(np.asfortranarray(other), 1))


@given(st.dictionaries(st.integers(0, 99), st.floats(0, 1), max_size=30), st.sets(st.integers(0, 99), max_size=4))
def test_suggestions_are_frames_with_doubts_each_once(doubts: dict[int, float], prompted: set[int]) -> None:
    found = choose(doubts, prompted, 5)
    assert len(set(found)) == len(found) <= 5
    assert set(found) <= set(doubts) - prompted
    assert all(doubts[frame] > 0 for frame in found)


def test_suggestions_are_spread() -> None:
    doubts = {frame: 0.9 if 40 <= frame < 46 else 0.5 for frame in range(100)}
    assert choose(doubts, (), 1) == (40,)
    first, second, third = choose(doubts, (0,), 3)
    assert first == 40
    assert min(abs(a - b) for a, b in ((first, second), (second, third), (first, third))) >= 6
    assert choose(dict.fromkeys(range(100), 0.0), (), 3) == ()


@pytest.mark.parametrize("n", [1, 3])
def test_alike_doubts_are_taken_in_order_away_from_the_prompts(n: int) -> None:
    found = choose(dict.fromkeys(range(1, 41), 0.5), (0,), n)
    assert len(found) == n
    assert min(found) >= 40 // (4 * (1 + n))
