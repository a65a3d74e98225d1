"""Simulated batches: closed forms where there are some, limits, and what must hold for every one of them."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import InputError
from vos.batch.scenario import ACTIVITIES, Driver, Scenario, Store
from vos.batch.simulate import simulate
from vos.batch.simulation import Events, Shared

ONE = Scenario(workers=1, videos=5, frames=100, track=0.2, decode=0.05, start=3.0, prepare=2.0, every=6.0, state=0.5)
STATES = math.ceil(100 * 0.25 / 6.0) - 1  # none after the last frame
ALONE = 2.0 + 100 * 0.25 + STATES * 0.5  # seconds of one video of `ONE`


def scenarios(**fixed: Any) -> st.SearchStrategy[Scenario]:
    """Small batches of every kind."""
    seconds = st.floats(0, 5)
    drivers = st.builds(
        Driver, claim=seconds, end=seconds, beat=st.floats(0, 0.5), beat_row=st.floats(0, 0.05),
        news=st.floats(0, 0.01), most_news=st.floats(1, 100),
    )  # fmt: skip
    stores = st.builds(
        Store, bandwidth=st.floats(1e3, 1e6), link=st.floats(1e3, 1e6), requests=st.floats(1, 1e4),
        video=st.floats(0, 1e5), mask=st.floats(0, 1e3), puts=st.floats(0, 2), state=st.floats(0, 1e4),
    )  # fmt: skip
    parts: dict[str, Any] = {
        "workers": st.integers(1, 12), "videos": st.integers(0, 20), "frames": st.integers(1, 200),
        "track": st.floats(0.01, 1), "decode": st.floats(0, 0.2), "start": seconds, "prepare": seconds,
        "every": st.sampled_from([0.0, 2.0, 10.0]), "state": st.floats(0, 0.5),
        "failures": st.sampled_from([0.0, 30.0]),
        "noticed": seconds, "tries": st.integers(1, 4), "driver": drivers, "store": st.none() | stores,
        "seed": st.integers(0, 99),
    }  # fmt: skip
    return st.builds(Scenario, **{**parts, **{name: st.just(value) for name, value in fixed.items()}})


def test_one_worker_does_one_video_after_the_other() -> None:
    found = simulate(ONE)
    assert found.makespan == pytest.approx(3.0 + 5 * ALONE)
    assert found.spent["states"] == pytest.approx(5 * STATES * 0.5)
    assert (found.done, found.failed, found.crashes) == (5, 0, 0)
    assert found.utilisation == pytest.approx(5 * 25 / found.makespan)
    assert found.core_hours == pytest.approx(found.makespan / 3600)
    assert found.bottleneck == "track"


@pytest.mark.parametrize(("workers", "rounds"), [(2, 3), (3, 2), (5, 1), (50, 1)])
def test_without_faults_workers_go_in_rounds(workers: int, rounds: int) -> None:
    found = simulate(replace(ONE, workers=workers))
    assert found.makespan == pytest.approx(3.0 + rounds * ALONE)


def test_the_driver_alone_holds_up_workers_that_have_little_to_do() -> None:
    busy = replace(ONE, workers=40, videos=400, frames=1, prepare=0, start=0, driver=Driver(claim=0.5, end=0.25))
    found = simulate(busy)
    assert found.makespan == pytest.approx(400 * 0.75, rel=0.01)
    assert found.driver == pytest.approx(1, abs=0.01)
    assert found.bottleneck == "ledger"


def test_news_take_the_drivers_time_up_to_their_most() -> None:
    driver = Driver(beat=0.1, beat_row=0.01, news=0.002, news_every=0.5, most_news=50)
    assert driver.turn(10, 1.0) == pytest.approx(0.1 + 10 * 0.01 + 20 * 0.002)
    assert driver.turn(100, 1.0) == pytest.approx(0.1 + 100 * 0.01 + 50 * 0.002)
    drowned = simulate(replace(ONE, driver=Driver(beat=3.0, claim=1.0)))  # claims still get their turn
    assert simulate(ONE).makespan < drowned.makespan < simulate(ONE).makespan + 5 * 8


def test_a_slow_store_holds_up_everything() -> None:
    store = Store(bandwidth=1000.0, video=20_000.0, mask=100.0)
    found = simulate(replace(ONE, workers=50, videos=200, start=0, prepare=0, every=0, store=store))
    whole = 200 * (20_000 + 100 * 100) / 1000
    assert whole < found.makespan <= whole + 4 * 25  # of each round, while nobody moves anything
    assert found.store == pytest.approx(1, abs=0.02)
    assert found.bottleneck == "transfer"


def test_the_link_of_a_worker_bounds_its_transfers() -> None:
    store = Store(bandwidth=1e9, link=1000.0, video=20_000.0, mask=100.0)
    found = simulate(replace(ONE, every=0, store=store))
    assert found.makespan == pytest.approx(3.0 + 5 * (2.0 + 25.0 + 20.0 + 10.0))
    assert found.store == pytest.approx(0, abs=1e-4)


def test_states_bring_masks_along_while_frames_are_tracked() -> None:
    """Six seconds have 24 frames: what is left at the end is what came after the last state."""
    store = Store(bandwidth=1e9, link=10_000.0, mask=100.0)
    found = simulate(replace(ONE, videos=1, state=0, store=store))
    assert found.spent["transfer"] == pytest.approx((100 - STATES * 24) * 100 / 10_000, abs=1e-4)


def test_many_small_files_are_bound_by_requests() -> None:
    store = Store(bandwidth=1e12, requests=10.0, puts=1.0, mask=1.0)
    found = simulate(replace(ONE, workers=100, videos=100, every=0, store=store))
    assert found.makespan == pytest.approx(3.0 + 2.0 + 25.0 + 100 * 102 / 10, rel=0.02)


def test_crashes_cost_what_was_done_since_the_last_state() -> None:
    """J. Daly, A higher order estimate of the optimum checkpoint interval (2006), equation 13: the mean time of a run
    whose crashes come at random, with saving and starting again; here starting cannot crash, and preparing can."""
    rate, every, state, start, segments = 1 / 300, 50.0, 2.0, 20.0, 10
    case = Scenario(
        workers=1, videos=400, frames=int(every) * segments, track=1.0, every=every, state=state, start=start,
        failures=3600 * rate, tries=10**6, seed=3,
    )  # fmt: skip
    found = simulate(case)
    cycle = (1 / rate + start) * (math.exp(rate * (every + state)) - 1)
    assert found.makespan / case.videos == pytest.approx(segments * cycle, rel=0.03)
    without = simulate(replace(case, every=0.0, videos=50))
    assert without.makespan / 50 > 1.3 * found.makespan / case.videos


def test_videos_fail_after_their_tries() -> None:
    hopeless = simulate(replace(ONE, failures=3600 * 10.0, every=0.0, tries=3))
    assert (hopeless.done, hopeless.failed, hopeless.crashes) == (0, 5, 15)
    assert hopeless.spent["track"] == hopeless.spent["decode"] == 0
    assert hopeless.bottleneck in ("lost", "start")


def test_nothing_to_do_takes_no_time() -> None:
    found = simulate(replace(ONE, videos=0))
    assert (found.makespan, found.core_hours, found.utilisation, sum(found.spent.values())) == (0, 0, 0, 0)


@settings(deadline=None, max_examples=60)
@given(scenarios())
def test_time_and_videos_are_conserved(case: Scenario) -> None:
    found = simulate(case)
    each = found.spent["track"] / case.track
    assert found.done + found.failed == case.videos
    assert each == pytest.approx(found.done * case.frames, abs=1e-6 * max(1, case.videos * case.frames))
    assert set(found.spent) == set(ACTIVITIES)
    assert min(found.spent.values()) >= -1e-6
    assert sum(found.spent.values()) == pytest.approx(case.workers * found.makespan, rel=1e-6, abs=1e-6)
    assert found.crashes >= found.failed * case.tries
    assert 0 <= found.driver <= 1
    assert 0 <= found.store <= 1 + 1e-9


@settings(deadline=None, max_examples=60)
@given(scenarios(failures=0.0))
def test_no_batch_is_quicker_than_its_parts(case: Scenario) -> None:
    found = simulate(case)
    if not case.videos:
        return
    one = case.start + case.prepare + case.frames * (case.track + case.decode) + case.driver.claim + case.driver.end
    rounds = math.ceil(case.videos / case.workers)
    assert found.makespan >= case.start + rounds * (one - case.start) - 1e-6
    assert found.makespan >= case.videos * (case.driver.claim + case.driver.end) - 1e-6
    if case.store is not None:
        assert (
            found.makespan
            >= case.videos * case.store.seconds(case.store.video + case.frames * case.store.mask, 2) - 1e-6
        )
    assert found.failed == found.crashes == 0
    assert found.spent["lost"] == 0


@settings(deadline=None, max_examples=40)
@given(scenarios(failures=0.0, driver=Driver(), store=None), st.integers(1, 5))
def test_more_workers_are_never_slower_where_they_share_nothing(case: Scenario, more: int) -> None:
    assert simulate(replace(case, workers=case.workers + more)).makespan <= simulate(case).makespan + 1e-6


@settings(deadline=None, max_examples=30)
@given(scenarios())
def test_the_same_seed_gives_the_same_batch(case: Scenario) -> None:
    assert simulate(case) == simulate(case)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8), st.floats(0.1, 1))
def test_transfers_share_equally(asked: list[tuple[float, float]], share: float) -> None:
    """They end in the order of their sizes where they begin together, and the capacity is never exceeded."""
    events, ends = Events(), list[float]()
    shared = Shared(events, share)
    for begin, seconds in asked:
        events.at(begin, lambda seconds=seconds: shared.begin(seconds, lambda: ends.append(events.now)))
    while len(ends) < len(asked):
        events.step()
    work = sum(seconds for _, seconds in asked)
    assert shared.busy == pytest.approx(work, abs=1e-6)
    assert ends[-1] >= max(max(begin + seconds / share for begin, seconds in asked) - 1e-6, work)
    assert ends[-1] <= max(begin for begin, _ in asked) + work / share + 1e-6


def test_a_transfer_that_is_called_off_leaves_its_share_to_the_others() -> None:
    events, ends = Events(), dict[str, float]()
    shared = Shared(events, 1.0)
    lost = shared.begin(1.0, lambda: ends.update(lost=events.now))
    shared.begin(3.0, lambda: ends.update(kept=events.now))
    events.at(1.0, lambda: shared.call_off(lost))  # each has half a second's worth by then
    events.at(9.0, lambda: ends.update(end=events.now))
    while "end" not in ends:
        events.step()
    assert ends == {"kept": pytest.approx(3.5), "end": 9.0}
    assert shared.busy == pytest.approx(3.5)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"frames": 0}, {"track": 0.0, "decode": 0.0}, {"start": -1.0},
                                   {"failures": math.inf}, {"every": math.nan}, {"tries": 0}])  # fmt: skip
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(ONE, **wrong)


def test_the_script_prints_a_table() -> None:
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "scale.py"
    given = (
        "--clips 16 --frames 150 --seconds 0.1 --prepare 2 --start 0 --failures 0 --workers 1 2 --store 1e9 --details"
    )
    done = subprocess.run([sys.executable, str(script), *given.split()], capture_output=True, text=True, check=True)
    head, rule, one, two, empty, *shares = done.stdout.splitlines()
    columns = head.count("|")
    assert [line.count("|") for line in (rule, one, two)] == [columns] * 3
    assert (one.split("|")[1].strip(), one.split("|")[2].strip()) == ("1", "4.9 min")  # 16 x (2 + 150 x 0.1072) s
    assert (two.split("|")[1].strip(), two.split("|")[2].strip()) == ("2", "2.5 min")
    assert empty == ""
    assert len({line.count("|") for line in shares}) == 1
