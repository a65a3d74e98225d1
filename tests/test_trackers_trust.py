"""Trust in two opinions: what noise, a good decoder, a lost propagation and an absence do to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackers.trust import Opinion, Rate, Source, Trust, TrustConfig, Verdict

AREA = 500.0
NEW = Trust().corrected(AREA)  # a mask was given, and nothing is known of the decoder


def follow(trust: Trust, frames: list[tuple[float, Opinion, float]]) -> tuple[list[Verdict], Trust]:
    """Verdicts on frames of (propagated area, decoder's opinion, agreement)."""
    verdicts = []
    for area, opinion, agreement in frames:
        verdict, trust = trust.judge(area, opinion, agreement)
        verdicts.append(verdict)
    return verdicts, trust


def sources(verdicts: list[Verdict]) -> list[Source]:
    return [verdict.source for verdict in verdicts]


def agreeing(frames: int, score: float = 0.8) -> list[tuple[float, Opinion, float]]:
    return [(AREA, Opinion(AREA, score), 0.85)] * frames


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_followed_and_loses_its_say_within_a_few_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = [
        (AREA, Opinion(float(rng.uniform(0.2, 5)) * AREA, float(rng.random())), float(rng.uniform(0, 0.2)))
        for _ in range(60)
    ]
    verdicts, trust = follow(NEW, noise)
    assert set(sources(verdicts)) == {"propagation"}
    assert min(verdict.right for verdict in verdicts) > 0.9
    _, early = follow(NEW, noise[:8])
    believed = [t._decoder(Opinion(AREA, 0.5), AREA) for t in (NEW, early, trust)]
    assert believed[0] > 0.45
    assert believed[1] < 0.3
    assert believed[2] < 0.12


def test_a_decoder_that_agrees_gains() -> None:
    verdicts, trust = follow(NEW, agreeing(20))
    assert set(sources(verdicts)) == {"both"}
    assert trust._decoder(Opinion(AREA, 0.8), AREA) > 0.85
    assert trust.followed > 0.95


@pytest.mark.parametrize("score", [0.3, 0.7, 1.0])
def test_a_reliable_decoder_overrules_after_a_few_frames_and_not_at_once(score: float) -> None:
    _, trust = follow(NEW, agreeing(20, score))
    verdicts, after = follow(trust, [(AREA, Opinion(AREA, score), 0.0)] * 6)
    found = sources(verdicts)
    assert found[0] == "propagation"  # as likely a slip of the decoder
    assert found[-1] == "decoder"
    assert found == sorted(found, reverse=True)  # and no way back in between
    assert min(verdict.right for verdict in verdicts) < 0.75  # in between is doubt
    assert after.followed < 0.5


def test_a_slip_of_a_decoder_that_is_usually_right_is_not_followed() -> None:
    frames = [*agreeing(10), (AREA, Opinion(0, 0.4), 0.0), (AREA, Opinion(AREA, 0.6), 0.0)]
    verdicts, _ = follow(NEW, [*frames, *agreeing(10), frames[-1]])
    assert "decoder" not in sources(verdicts)


def test_after_an_absence_that_both_saw_the_decoder_is_believed_at_once() -> None:
    gone = [(0.0, Opinion(0, 0.4), 1.0)] * 20
    back = [(0.0, Opinion(AREA, 0.8), 0.0)] * 3
    verdicts, _ = follow(NEW, [*agreeing(12), *gone, *back])
    assert sources(verdicts)[12:32] == ["both"] * 20
    assert sources(verdicts)[-3:] == ["decoder"] * 3  # it kept silent while there was nothing


def test_noise_does_not_find_what_is_gone() -> None:
    rng = np.random.default_rng(0)
    here = [(AREA, Opinion(AREA, float(rng.random())), float(rng.uniform(0, 0.2))) for _ in range(12)]
    gone = [(0.0, Opinion(AREA, float(rng.random())), 0.0) for _ in range(40)]
    verdicts, _ = follow(NEW, here + gone)
    assert set(sources(verdicts)) == {"propagation"}


def test_a_score_that_tells_right_from_wrong_is_learned_and_a_constant_one_does_no_harm() -> None:
    informative, constant = NEW, NEW
    rng = np.random.default_rng(1)
    for _ in range(80):
        right = rng.random() < 0.6
        agreement = 0.85 if right else 0.0
        _, informative = informative.judge(AREA, Opinion(AREA, 0.9 if right else 0.2), agreement)
        _, constant = constant.judge(AREA, Opinion(AREA, 0.7), agreement)
    assert informative._decoder(Opinion(AREA, 0.9), AREA) > 0.65
    assert informative._decoder(Opinion(AREA, 0.2), AREA) < 0.4
    assert 0.4 < constant._decoder(Opinion(AREA, 0.7), AREA) < 0.75


def test_masks_of_a_strange_size_count_less() -> None:
    _, trust = follow(NEW, agreeing(10))
    usual, large, small = (trust._decoder(Opinion(area, 0.8), AREA) for area in (AREA, 4 * AREA, AREA / 4))
    assert large == pytest.approx(small)
    assert large < 0.5 < usual


def test_a_correction_restores_propagation_and_is_held_against_the_decoder() -> None:
    _, trust = follow(NEW, agreeing(20))
    _, lost = follow(trust, [(AREA, Opinion(AREA, 0.8), 0.0)] * 6)
    opinion = Opinion(AREA, 0.8)
    right, wrong = lost.corrected(AREA, opinion, 0.9), lost.corrected(AREA, opinion, 0.0)
    assert right.followed == wrong.followed == 1.0
    assert right._decoder(opinion, AREA) > lost._decoder(opinion, AREA) > wrong._decoder(opinion, AREA)
    assert lost.corrected(0.0).areas == ()


def test_of_an_object_that_was_never_shown_here_neither_is_believed_more() -> None:
    verdict, _ = Trust().judge(AREA, Opinion(AREA, 0.5), 0.0)
    assert verdict.right < 0.6
    verdict, trust = Trust().judge(AREA, Opinion(AREA, 0.5), 0.9)
    assert verdict.source == "both"
    assert trust.followed > 0.9


opinions = st.builds(Opinion, st.just(0.0) | st.floats(0.5, 1e6), st.floats(0, 1))
frames = st.tuples(st.just(0.0) | st.floats(0.5, 1e6), opinions, st.floats(0, 1))


@given(st.lists(frames, max_size=40))
def test_whatever_is_said_probabilities_stay_probabilities_and_state_is_all_there_is(
    said: list[tuple[float, Opinion, float]],
) -> None:
    verdicts, trust = follow(NEW, said)
    for verdict in verdicts:
        assert 0.3 <= verdict.right <= 1  # of three cases, the likeliest
    assert 0 <= trust.followed <= 1
    assert len(trust.areas) <= trust.config.areas
    again = Trust.from_state_dict(trust.state_dict(), trust.config)
    assert again == trust
    assert repr(again) == repr(trust)


@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_rates_stay_between_what_was_assumed_and_what_was_seen(
    score: float, answers: list[tuple[float, float]]
) -> None:
    rate = Rate((0.35, 0.65))
    for given_score, right in answers:
        rate = rate.learned(given_score, right, 0.97)
    assert 0 < rate.at(score) < 1
    assert math.isfinite(rate.at(score))


def test_what_is_assumed_can_be_changed() -> None:
    believing = Trust(replace(TrustConfig(), here=(0.99, 0.99), strays=0.3)).corrected(AREA)
    assert believing.judge(AREA, Opinion(AREA, 0.5), 0.0)[0].source == "decoder"
