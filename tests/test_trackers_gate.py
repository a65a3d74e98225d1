"""The write gate: which masks are doubtful."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackers.gate import Gate, Observation, is_doubtful

STRICT = Gate(min_score=0.5, min_area=0.5, max_area=2.0, min_agreement=0.6)
SHARES = st.floats(0, 1)


@pytest.mark.parametrize(
    ("seen", "doubtful"),
    [
        (Observation(0.9, 0.1, (0.1, 0.1, 0.1), 0.9), False),
        (Observation(0.4, 0.1, (0.1, 0.1, 0.1), 0.9), True),
        (Observation(0.9, 0.01, (0.1, 0.1, 0.1)), True),
        (Observation(0.9, 0.3, (0.1, 0.1, 0.1)), True),
        (Observation(0.9, 0.3, (0.1, 0.3, 0.3)), False),
        (Observation(0.9, 0.1, (0.1,), 0.5), True),
        (Observation(0.9, 0.1, ()), False),
        (Observation(0.9, 0.0, (0.1,)), True),
    ],
)
def test_each_bound_is_held(seen: Observation, doubtful: bool) -> None:
    assert is_doubtful(seen, STRICT) == doubtful


@given(SHARES, SHARES, st.lists(SHARES, max_size=15), st.none() | SHARES)
def test_by_default_everything_passes(score: float, area: float, areas: list[float], agreement: float | None) -> None:
    assert not is_doubtful(Observation(score, area, areas, agreement), Gate())


@given(SHARES, SHARES, st.lists(SHARES, max_size=15), st.none() | SHARES)
def test_a_wider_gate_lets_more_pass(score: float, area: float, areas: list[float], agreement: float | None) -> None:
    seen = Observation(score, area, areas, agreement)
    for wider in (Gate(0.2, 0.2, 4.0, 0.3), Gate(0.0, 0.5, math.inf, 0.6)):
        assert is_doubtful(seen, STRICT) or not is_doubtful(seen, wider)
