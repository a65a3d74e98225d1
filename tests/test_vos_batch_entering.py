"""A plan that comes to its ledger again: what changed since, what is gone, what another driver works on; retrying."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import World, done, failed, finish, job, row_of, run_of, states, write

from seem_core.errors import InputError
from seem_core.prompts import TextPrompt
from vos.batch import fingerprints
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.ledger import Ledger
from vos.pipeline import TrackOptions
from vos.run_record import InputRecord


@pytest.fixture
def world() -> World:
    return World()


def second(world: World, plan: list[VideoJob], tmp_path: Path) -> tuple[list[tuple[str, str, str]], Ledger]:
    ledger = world.driver(tmp_path / "out", 9, real=True)
    found = ledger.enter(plan)
    return [(item.name, item.state, item.why) for item in found], ledger


@pytest.fixture
def settled(world: World, tmp_path: Path) -> list[VideoJob]:
    """A batch of which a is done and b failed, and nobody works on it."""
    plan = [job(tmp_path, name) for name in "ab"]
    with world.driver(tmp_path / "out", 1, real=True) as ledger:
        ledger.enter(plan)
        ledger.claim("a")
        finish(plan[0])
        ledger.end("a", done("a"))
        ledger.claim("b")
        ledger.end("b", failed("b"))
    return plan


def test_what_is_settled_stays_so_and_is_not_hashed_again(
    world: World, settled: list[VideoJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, ledger = second(world, settled, tmp_path)  # files were too young to trust their times
    ledger.close()
    monkeypatch.setattr(fingerprints.InputRecord, "of", None)
    monkeypatch.setattr(fingerprints, "_SETTLING_NS", 0)
    found, ledger = second(world, settled, tmp_path)
    assert found == [("a", "done", ""), ("b", "failed", "")]
    assert ledger.claim() is None


@pytest.fixture(autouse=True)
def files_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times at which an inode changed cannot be set back as those of its content can."""
    monkeypatch.setattr(fingerprints, "_SETTLING_NS", 0)


@pytest.mark.parametrize("suffix", ["mp4", "png"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_changed_file_is_noticed(
    world: World, settled: list[VideoJob], tmp_path: Path, suffix: str, name: str
) -> None:
    write(tmp_path / f"{name}.{suffix}", f"Content of {name}.{suffix}")  # same size, same time
    found, ledger = second(world, settled, tmp_path)
    entered = found["ab".index(name)]
    assert entered[1] == "waiting"
    assert f"{name}.{suffix} changed" in entered[2]
    row = ledger.claim()
    assert row is not None
    assert row.name == name
    assert "changed" in row.again
    assert (row.tries, row.message) == (0, "")


def test_a_file_that_was_only_touched_or_moved_has_not_changed(
    world: World, settled: list[VideoJob], tmp_path: Path
) -> None:
    os.utime(tmp_path / "a.mp4")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    moved = replace(settled[0], masks=(str(tmp_path / "elsewhere" / "a.png"),))
    found, _ = second(world, [moved], tmp_path)
    assert found == [("a", "done", "")]


def test_a_file_that_is_gone_leaves_its_results(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").unlink()
    assert second(world, settled[:1], tmp_path)[0] == [("a", "done", "")]


def test_a_file_that_prompts_named_is_noticed_too(world: World, tmp_path: Path) -> None:
    plan = job(tmp_path, "a")
    write(tmp_path / "named.png", "a picture that the prompts name")
    run = run_of(plan)
    run = replace(run, inputs=(*run.inputs, InputRecord.of("reference", tmp_path / "named.png")))
    with world.driver(tmp_path / "out", 1, real=True) as ledger:
        ledger.enter([plan])
        ledger.claim()
        plan.out.mkdir()
        (plan.out / "run.json").write_bytes(run.text())
        ledger.end("a", done("a"))
    found, ledger = second(world, [plan], tmp_path)
    assert found == [("a", "done", "")]
    ledger.close()
    write(tmp_path / "named.png", "another picture")
    assert second(world, [plan], tmp_path)[0] == [("a", "waiting", "reference named.png changed")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"options": TrackOptions("flow")}, "tracker was copy, is flow"),
        ({"options": TrackOptions("copy", max_side=480)}, "max_side was None, is 480"),
        ({"prompts": (TextPrompt("a dog"),)}, "what to follow is given otherwise"),
        ({"masks": ()}, "mask a.png is no longer given"),
        ({"prompts": ("more.json",)}, "prompts more.json is new"),
        ({"overwrite": True}, "it is to be overwritten"),
        ({"options": TrackOptions("copy", threads=3, device="cpu", max_pixels=10**9)}, ""),
    ],
)
def test_changed_settings_are_noticed_and_said(
    world: World, settled: list[VideoJob], tmp_path: Path, change: dict[str, object], why: str
) -> None:
    found, ledger = second(world, [replace(settled[0], **change)], tmp_path)
    assert found == [("a", "waiting" if why else "done", why)]
    assert row_of(ledger, "a").again == why
    assert (ledger.claim() is not None) == bool(why)


def test_what_is_made_anew_stays_so_until_it_is_done(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    changed = replace(settled[0], options=TrackOptions("flow"))
    _, ledger = second(world, [changed], tmp_path)
    assert ledger.claim() is not None
    ledger.end("a", VideoOutcome("a", "interrupted", 1))
    row = ledger.claim()
    assert row is not None
    assert row.again == "tracker was copy, is flow"
    finish(changed, number=1)
    ledger.end("a", done("a"))
    assert row_of(ledger, "a").again == ""
    ledger.close()
    assert second(world, [changed], tmp_path)[0] == [("a", "done", "")]


def test_results_that_are_gone_are_made_again(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    (tmp_path / "out" / "a" / "run.json").unlink()
    found, ledger = second(world, settled[:1], tmp_path)
    assert found == [("a", "waiting", "its results are gone")]
    assert row_of(ledger, "a").again == ""


def test_a_picture_that_is_wanted_now_is_said(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    wanted = replace(settled[0], save=frozenset({"masks", "contact"}))
    assert second(world, [wanted], tmp_path)[0] == [("a", "waiting", "contact.png was not made")]


def test_a_lost_ledger_is_made_again_from_the_folders(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    (tmp_path / "out" / "ledger.sqlite").unlink()
    found, ledger = second(world, settled, tmp_path)
    assert found == [("a", "done", ""), ("b", "waiting", "")]
    assert (row_of(ledger, "a").frame, row_of(ledger, "a").ended) == (3, "then")


def test_a_folder_with_other_results_is_not_thrown_away(world: World, settled: list[VideoJob], tmp_path: Path) -> None:
    (tmp_path / "out" / "ledger.sqlite").unlink()
    changed = replace(settled[0], options=TrackOptions("flow"))
    [(_, state, why)], ledger = second(world, [changed], tmp_path)
    assert state == "waiting"
    assert "holds a finished run that differs (tracker was copy, is flow)" in why
    assert row_of(ledger, "a").again == ""


def test_two_live_drivers_with_other_settings_do_not_mix(world: World, tmp_path: Path) -> None:
    with world.driver(tmp_path / "out", 1) as one:
        one.enter([job(tmp_path, "a")])
        two = world.driver(tmp_path / "out", 2)
        with pytest.raises(InputError, match=r"another vos batch works on .* \(a: tracker was copy, is flow\)"):
            two.enter([job(tmp_path, "a", options=TrackOptions("flow"))])
        assert two.enter([job(tmp_path, "b", options=TrackOptions("flow"))])[0].state == "waiting"
    assert two.enter([job(tmp_path, "a", options=TrackOptions("flow"))])[0].state == "waiting"


def test_a_driver_does_not_undo_what_a_live_one_did(world: World, tmp_path: Path) -> None:
    plan = job(tmp_path, "a", overwrite=True)
    one, two = world.driver(tmp_path / "out", 1, real=True), world.driver(tmp_path / "out", 2, real=True)
    one.enter([plan])
    one.claim()
    finish(plan)
    one.end("a", done("a"))
    assert two.enter([plan])[0].state == "done"
    assert two.claim() is None


def test_retry_lets_failed_videos_wait_with_all_their_tries(
    world: World, settled: list[VideoJob], tmp_path: Path
) -> None:
    with Ledger.amend(tmp_path / "out") as ledger:
        with pytest.raises(InputError, match="video 'a' has not failed, it is done"):
            ledger.retry(["b", "a"])
        with pytest.raises(InputError, match="has no video 'x'"):
            ledger.retry(["x"])
        assert states(ledger) == {"a": "done", "b": "failed"}
        assert ledger.retry() == ("b",)
        assert ledger.retry() == ()
        assert (row_of(ledger, "b").tries, row_of(ledger, "b").message) == (0, "")
    found, ledger = second(world, settled, tmp_path)
    assert found[1] == ("b", "waiting", "")
    assert ledger.claim() is not None


def test_a_running_driver_takes_up_what_is_retried(world: World, tmp_path: Path) -> None:
    driver = world.driver(tmp_path / "out", 1)
    driver.enter([job(tmp_path, "a")])
    driver.claim()
    driver.end("a", failed("a"))
    assert driver.unsettled() == 0
    with Ledger.amend(tmp_path / "out") as ledger:
        assert ledger.retry(["a"]) == ("a",)
    assert driver.unsettled() == 1
    assert driver.claim() is not None
