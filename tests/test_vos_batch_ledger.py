"""The ledger of a batch: claims, heartbeats, takeover, ends, and what changed since; clocks of the test's own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import World, done, failed, finish, job, row_of, states

from seem_core.errors import InputError
from vos.batch.job import VideoOutcome
from vos.batch.ledger import Ledger
from vos.run_record import InputRecord

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def driver(world: World, tmp_path: Path) -> Iterator[Ledger]:
    with world.driver(tmp_path / "out", 1, real=True) as ledger:
        yield ledger


# ---- claims and ends


def test_videos_are_claimed_in_the_order_of_the_plan_and_once(driver: Ledger, tmp_path: Path) -> None:
    driver.enter([job(tmp_path, name) for name in ("z", "a", "m")])
    claimed = [row.name for row in iter(driver.claim, None)]
    assert claimed == ["z", "a", "m"]
    assert driver.claim() is None
    assert driver.unsettled() == 3


def test_a_video_can_be_claimed_by_name(driver: Ledger, tmp_path: Path) -> None:
    driver.enter([job(tmp_path, name) for name in "ab"])
    assert driver.claim("b") == row_of(driver, "b")
    assert driver.claim("b") is None
    assert driver.claim("c") is None


def test_two_drivers_share_and_leave_alone_what_is_not_theirs(world: World, tmp_path: Path) -> None:
    with world.driver(tmp_path / "out", 1) as one, world.driver(tmp_path / "out", 2) as two:
        one.enter([job(tmp_path, name) for name in "abc"])
        two.enter([job(tmp_path, name) for name in "cd"])
        taken = [ledger.claim() for ledger in (one, two, one, two, one, two)]
        assert [row and row.name for row in taken] == ["a", "c", "b", "d", None, None]
        assert [row.driver for row in one.rows()] == [1, 1, 2, 2]
        assert (one.unsettled(), two.unsettled(), one.drivers()) == (3, 2, 2)


def test_names_may_hold_any_bytes(driver: Ledger, tmp_path: Path) -> None:
    names = ["new\nline", os.fsdecode(b"\xff\xfe"), "tab\t'quote\" %", "  "]
    plan = [job(tmp_path, name) for name in names]
    driver.enter(plan)
    assert [row.name for row in iter(driver.claim, None)] == names
    driver.end(names[1], replace(failed(names[1]), message=f"{plan[1].video} is bad"))
    driver.close()
    with Ledger.read(tmp_path / "out") as ledger:
        assert [(row.name, row.video, row.out) for row in ledger.rows()] == [(j.name, j.video, j.out) for j in plan]
        assert row_of(ledger, names[1]).message == f"{plan[1].video} is bad"


def test_one_name_twice_is_refused(driver: Ledger, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two videos of the batch are called a; rename one"):
        driver.enter([job(tmp_path, "a"), job(tmp_path, "a")])


@pytest.mark.parametrize("cause", ["crash", "stall"])
def test_a_crash_is_tried_again_until_its_tries_are_used_up(driver: Ledger, tmp_path: Path, cause: str) -> None:
    driver.enter([job(tmp_path, "a")])
    for count in (1, 2, 3):
        assert driver.claim() is not None
        assert driver.end("a", failed("a", cause), tries=3) == ("failed" if count == 3 else "waiting")
        assert (row_of(driver, "a").tries, row_of(driver, "a").message) == (count, "so")
    assert driver.claim() is None


@pytest.mark.parametrize(("cause", "code"), [("input", 3), ("bug", 1), ("limit", 5), ("crash", 1), ("stall", 5)])
def test_what_would_fail_again_has_failed_at_once(driver: Ledger, tmp_path: Path, cause: str, code: int) -> None:
    driver.enter([job(tmp_path, "a")])
    driver.claim()
    assert row_of(driver, "a").exit_code is None
    assert driver.end("a", failed("a", cause), tries=1 if cause in ("crash", "stall") else 9) == "failed"
    assert row_of(driver, "a").exit_code == code


@pytest.mark.parametrize("outcome", [VideoOutcome("a", "interrupted", 2), failed("a", "disk")])
def test_an_interrupted_video_waits_and_loses_no_try(driver: Ledger, tmp_path: Path, outcome: VideoOutcome) -> None:
    driver.enter([job(tmp_path, "a")])
    driver.claim()
    driver.advance("a", 2, 3)
    assert driver.end("a", outcome) == "waiting"
    row = row_of(driver, "a")
    assert (row.tries, row.frame, row.total, row.again) == (0, 2, 3, "")


def test_given_back_or_left_a_video_waits(driver: Ledger, tmp_path: Path) -> None:
    driver.enter([job(tmp_path, name) for name in "ab"])
    driver.claim()
    driver.give_back("a")
    assert states(driver) == {"a": "waiting", "b": "waiting"}
    assert driver.claim() is not None
    driver.close()
    driver.close()
    with Ledger.read(tmp_path / "out") as ledger:
        assert states(ledger) == {"a": "waiting", "b": "waiting"}
        assert ledger.drivers() == 0
        with pytest.raises(ValueError, match="not opened as a driver"):
            ledger.claim()


def test_the_end_of_a_video_writes_what_run_json_says_it_read(driver: Ledger, tmp_path: Path) -> None:
    plan = job(tmp_path, "a")
    driver.enter([plan])
    driver.claim()
    finish(plan)
    assert driver.end("a", replace(done("a"), warnings=("w",))) == "done"
    row = row_of(driver, "a")
    assert row.inputs == {str(plan.video): InputRecord.of("", plan.video).sha256} | {
        plan.masks[0]: InputRecord.of("", str(plan.masks[0])).sha256
    }
    assert (row.frame, row.total, row.exit_code) == (3, 3, 0)


# ---- news, rate, time left


def test_news_are_written_with_the_heartbeat(world: World, driver: Ledger, tmp_path: Path) -> None:
    driver.enter([job(tmp_path, "a")])
    driver.claim()
    driver.begin("a", "worker 7")
    driver.beat(now=True)
    driver.advance("a", 10, 100)
    assert driver.beat() == ()
    assert row_of(driver, "a").frame == 0  # less than a second since
    world.now += 1
    driver.beat()
    world.now += 2
    driver.advance("a", 30, 100)
    driver.beat(now=True)
    world.now += 5
    row = row_of(driver, "a")
    assert (row.worker, row.frame, row.total, row.silent) == ("worker 7", 30, 100, 5)
    assert row.rate == pytest.approx(20 / 3)
    assert row.seconds_left == pytest.approx(70 * 3 / 20)


def test_the_rate_is_that_of_this_run(world: World, driver: Ledger, tmp_path: Path) -> None:
    driver.enter([job(tmp_path, "a")])
    driver.claim()
    driver.advance("a", 60, 100)
    driver.end("a", VideoOutcome("a", "interrupted"))
    assert row_of(driver, "a").rate is None
    driver.claim()
    assert row_of(driver, "a").rate is None
    for done_frames in (60, 70):
        world.now += 1
        driver.advance("a", done_frames, 100)
        driver.beat(now=True)
    assert row_of(driver, "a").rate == 10


# ---- drivers that are gone


def test_a_killed_drivers_video_is_taken_over_at_once(world: World, tmp_path: Path) -> None:
    one, two = world.driver(tmp_path / "out", 1), world.driver(tmp_path / "out", 2)
    for ledger in (one, two):
        ledger.enter([job(tmp_path, "a")])
    one.claim()
    assert two.claim() is None
    assert not row_of(two, "a").lapsed
    del world.living[1]
    assert row_of(two, "a").lapsed
    row = two.claim()
    assert row is not None
    assert (row.driver, row.tries, row.again) == (2, 0, "")


@pytest.mark.parametrize("change", ["other process", "other boot", "silence"])
def test_what_makes_a_driver_count_as_gone(world: World, tmp_path: Path, change: str) -> None:
    one = world.driver(tmp_path / "out", 1, lapse=30)
    one.enter([job(tmp_path, "a")])
    one.claim()
    if change == "other process":  # that got the same number
        world.living[1] += 1
    elif change == "other boot":
        world.boot, world.now = "next boot", 5.0
    else:
        world.now += 30.5
    two = world.driver(tmp_path / "out", 2)
    two.enter([job(tmp_path, "a")])
    assert two.claim() is not None


def test_a_driver_in_another_container_counts_by_its_heartbeat(world: World, tmp_path: Path) -> None:
    one = world.driver(tmp_path / "out", 1, space="container")
    one.enter([job(tmp_path, "a")])
    one.claim()
    del world.living[1]  # its number means nothing here
    two = world.driver(tmp_path / "out", 2)
    two.enter([job(tmp_path, "a")])
    assert two.claim() is None
    world.now += 31
    assert two.claim() is not None


def test_a_driver_that_beats_keeps_its_video_whatever_the_wall_clock_shows(world: World, tmp_path: Path) -> None:
    one, two = world.driver(tmp_path / "out", 1), world.driver(tmp_path / "out", 2)
    for ledger in (one, two):
        ledger.enter([job(tmp_path, "a")])
    one.claim()
    for hour in ("1970-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00"):
        world.wall = hour
        world.now += 20
        one.beat()
        two.beat()
        assert two.claim() is None
    one.end("a", done("a"))
    assert row_of(two, "a").ended == "2001-01-01T00:00:00+00:00"
    assert states(two) == {"a": "done"}


def test_a_driver_that_slept_learns_what_it_lost(world: World, tmp_path: Path) -> None:
    one, two = world.driver(tmp_path / "out", 1), world.driver(tmp_path / "out", 2)
    for ledger in (one, two):
        ledger.enter([job(tmp_path, name) for name in "abc"])
    one.claim("a")
    one.claim("b")
    world.now += 31
    two.beat()
    assert two.claim() is not None
    assert two.claim("c") is not None
    one.advance("a", 3, 3)
    assert one.beat() == ("a",)
    assert one.beat(now=True) == ()
    assert two.claim("b") is None  # that one it kept
    assert one.end("a", done("a")) == "running"
    assert row_of(one, "a").frame == 0
    assert two.end("a", failed("a")) == "failed"
    assert one.end("a", done("a")) == "failed"


def test_a_driver_that_was_removed_comes_back(world: World, tmp_path: Path) -> None:
    one = world.driver(tmp_path / "out", 1)
    one.enter([job(tmp_path, "a")])
    world.now += 31
    two = world.driver(tmp_path / "out", 2)  # removes it
    assert two.drivers() == 1
    one.beat()
    assert two.drivers() == 2
    assert one.claim() is not None


def test_to_claim_is_a_sign_of_life(world: World, tmp_path: Path) -> None:
    one, two = world.driver(tmp_path / "out", 1), world.driver(tmp_path / "out", 2)
    for ledger in (one, two):
        ledger.enter([job(tmp_path, "a")])
    world.now += 31  # one was hashing files, say
    assert one.claim() is not None
    assert two.claim() is None


def test_nothing_is_taken_over_while_an_orphaned_worker_writes(world: World, tmp_path: Path) -> None:
    one = world.driver(tmp_path / "out", 1)
    plan = [job(tmp_path, name) for name in "ab"]
    one.enter(plan)
    one.claim()
    plan[0].out.mkdir()
    with (plan[0].out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        del world.living[1]
        two = world.driver(tmp_path / "out", 2)
        two.enter(plan)
        row = two.claim()
        assert row is not None
        assert row.name == "b"
        assert two.claim() is None
    assert two.claim() is not None


def test_a_run_that_came_to_its_end_without_its_driver_is_done(world: World, tmp_path: Path) -> None:
    plan = job(tmp_path, "a")
    one = world.driver(tmp_path / "out", 1, real=True)
    one.enter([plan])
    one.claim()
    finish(plan)
    (plan.out / ".state").mkdir()
    for left in (".lock", ".state/00002-a.safetensors", ".state/.00003-a.safetensors.part"):
        (plan.out / left).touch()  # its worker was killed before it could remove them
    del world.living[1]
    two = world.driver(tmp_path / "out", 2, real=True)
    two.enter([plan])
    assert two.claim() is None
    assert states(two) == {"a": "done"}
    assert not [path for path in plan.out.iterdir() if path.name.startswith(".")]
    assert set(row_of(two, "a").inputs) == {str(plan.video), plan.masks[0]}


def test_what_is_made_anew_is_not_taken_for_done_by_its_old_results(world: World, tmp_path: Path) -> None:
    plan = job(tmp_path, "a")
    finish(plan)
    one = world.driver(tmp_path / "out", 1, real=True)
    assert [found.state for found in one.enter([replace(plan, overwrite=True)])] == ["waiting"]
    one.claim()
    del world.living[1]
    two = world.driver(tmp_path / "out", 2, real=True)
    two.enter([replace(plan, overwrite=True)])
    assert two.claim() is not None


def test_whole_masks_without_a_picture_wait_and_are_not_thrown_away(world: World, tmp_path: Path) -> None:
    plan = job(tmp_path, "a", save=frozenset({"masks", "overlay"}))
    one = world.driver(tmp_path / "out", 1, real=True)
    one.enter([plan])
    one.claim()
    finish(plan)
    one.close()
    two = world.driver(tmp_path / "out", 2, real=True)
    two.enter([plan])
    row = two.claim()
    assert row is not None
    assert row.again == ""
