"""``vos batch`` when things go wrong under it: kills, full disks, bad files, two at once. Each as a real process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batch_runs import BOUND, COPY, RUN, batch_run, digest, gone, run_batch_to_end
from clips import picture, write_clip, write_mask
from PIL import Image

from vos.batch.job import VideoJob, run_video
from vos.batch.ledger import Ledger
from vos.output import read_frames, read_run
from vos.pipeline import TrackOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

FRAMES = 300
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long video and two short ones, with masks."""
    folder = tmp_path_factory.mktemp("clips")
    for name, frames in zip(NAMES, (FRAMES, 5, 5), strict=True):
        write_clip(folder / f"{name}.mp4", frames)
        write_mask(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def quiet(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each video comes to where nothing goes wrong."""
    out = tmp_path_factory.mktemp("quiet")
    for name in NAMES:
        masks, options = (str(clips / f"{name}.png"),), TrackOptions(tracker="copy")
        job = VideoJob(name, clips / f"{name}.mp4", out / name, (), masks, options, frozenset({"masks"}))
        assert run_video(job).outcome == "done"
    return {name: digest(out / name) for name in NAMES}


def check_equal(out: Path, quiet: dict[str, str]) -> None:
    """All results are those of the quiet run, and nothing else is there."""
    assert {name: digest(out / name) for name in NAMES} == quiet
    for name in NAMES:
        assert read_run(out / name).state == "done"
        assert {path.name for path in (out / name).iterdir()} <= {"masks", "frames.jsonl", "run.json", ".lock"}


def check_whole(out: Path) -> None:
    """What an unfinished video has is whole: every line has its mask, and no other file looks like one."""
    names = {record.mask for record in read_frames(out)}
    assert names <= {f"masks/{path.name}" for path in (out / "masks").glob("[0-9]*.png")}
    for path in (out / "masks").glob("[0-9]*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert read_run(out).state != "done"


def wait_for(reached: object) -> None:
    deadline = time.monotonic() + BOUND
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def under_way(out: Path, frames: int = 20) -> None:
    """Returns when the first video has some frames."""
    masks = out / "first" / "masks"
    wait_for(lambda: masks.is_dir() and len(os.listdir(masks)) >= frames)


def states(out: Path) -> dict[str, str]:
    with Ledger.read(out) as ledger:
        return {row.name: row.state for row in ledger.rows()}


def test_a_killed_driver_takes_its_workers_along_and_the_same_command_goes_on(
    clips: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with batch_run(str(clips), "-o", str(out), *COPY) as run:
        run.until("started", "first")
        under_way(out)
        workers = run.workers()
        assert workers
        run.process.kill()
    for worker in workers:
        wait_for(lambda worker=worker: gone(worker))
    check_whole(out / "first")
    code, printed, again = run_batch_to_end(str(clips), "-o", str(out), *COPY)
    assert (code, again.other) == (0, [])
    assert "3 videos: 3 done" in printed
    check_equal(out, quiet)


def test_a_killed_worker_costs_its_video_nothing_but_time(clips: Path, quiet: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with batch_run(str(clips), "-o", str(out), *COPY) as run:
        run.until("started", "first")
        under_way(out)
        for worker in run.workers():
            os.kill(worker, signal.SIGKILL)
        lost = run.until("finished", "first")
        code, _ = run.finish()
    assert (lost["outcome"], lost["cause"], lost["state"]) == ("failed", "crash", "waiting")
    assert "SIGKILL" in lost["message"]
    assert code == 0
    check_equal(out, quiet)


def test_two_drivers_share_the_work_and_do_nothing_twice(clips: Path, quiet: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with batch_run(str(clips), "-o", str(out), *COPY) as one:
        one.until("started", "first")
        worker = one.workers()[0]
        os.kill(worker, signal.SIGSTOP)  # so that the other one comes in time
        with batch_run(str(clips), "-o", str(out), *COPY) as two:
            two.until("finished", "second")
            os.kill(worker, signal.SIGCONT)
            assert two.finish()[0] == 0
        assert one.finish()[0] == 0
    assert "first done" in one.finished()
    assert sorted([*one.finished(), *two.finished()]) == [f"{name} done" for name in NAMES]
    check_equal(out, quiet)


def test_the_second_driver_takes_over_what_a_killed_one_had(clips: Path, quiet: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with batch_run(str(clips), "-o", str(out), *COPY) as one:
        one.until("started", "first")
        os.kill(one.workers()[0], signal.SIGSTOP)
        with batch_run(str(clips), "-o", str(out), *COPY) as two:
            two.until("started", "second")
            one.process.kill()
            code, printed = two.finish()
    assert (code, "3 videos: 3 done" in printed) == (0, True)
    assert "first done" in two.finished()
    check_equal(out, quiet)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of which the long video's masks fill, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_before_a_disk_is_full_the_batch_stops_and_with_more_room_goes_on(
    clips: Path, quiet: dict[str, str], small_disk: Path
) -> None:
    out = small_disk / "out"
    code, printed, run = run_batch_to_end(str(clips), "-o", str(out), *COPY)
    assert code == 5
    assert "3 videos: 3 waiting" in printed or run.other[0].startswith("vos: error: no room to write ")  # the ledger
    check_whole(out / "first")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run_batch_to_end(str(clips), "-o", str(out), *COPY)[0] == 0
    check_equal(out, quiet)


def test_a_worker_without_room_stops_the_batch_and_fails_no_video(tmp_path: Path) -> None:
    """A file-size limit that lets the ledger grow, and stops frames.jsonl of a video with many objects."""
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name in ("first", "second"):
        write_clip(clips / f"{name}.mp4", FRAMES)
    labels = (np.arange(48 * 64, dtype=np.int64).reshape(48, 64) // 64).astype(np.uint8)  # an object per row
    Image.fromarray(labels).save(clips / "first.png")
    write_mask(clips / "second.png")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); {RUN}"
    more = ("--mask-format", "ids")
    code, printed, run = run_batch_to_end(str(clips), "-o", str(out), *COPY, *more, code=limit)
    assert (code, run.other) == (5, []), printed
    assert "2 videos: 2 waiting" in printed
    assert any(event["event"] == "stopping" and "no room to write" in event["message"] for event in run.events)
    check_whole(out / "first")
    assert states(out) == {"first": "waiting", "second": "waiting"}


def test_images_that_vanish_while_they_are_read_cost_their_video_alone(tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    (clips / "images").mkdir(parents=True)
    for n in range(600):
        Image.fromarray(picture(n)).save(clips / "images" / f"{n:05d}.bmp")
    write_mask(clips / "images.png")
    write_clip(clips / "other.mp4", 5)
    write_mask(clips / "other.png")
    with batch_run(str(clips), "-o", str(out), *COPY) as run:
        run.until("started", "images")
        shutil.rmtree(clips / "images")
        code, _ = run.finish()
    assert run.other == []
    assert code in (0, 6)
    end = next(event for event in run.events if event["event"] == "finished" and event["video"] == "images")
    assert end["outcome"] == "done" or end["cause"] == "input"
    assert "Traceback" not in end["message"]
    assert "other done" in run.finished()


def test_bad_files_fail_by_themselves_with_a_sentence(tmp_path: Path, data_root: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(data_root / "videos", clips)
    clips.chmod(0o755)
    (clips / "zero.mp4").touch()
    whole = (clips / "realshort.mp4").read_bytes()
    (clips / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (32, 32)).save(clips / "picture.png")
    (clips / "picture.png").rename(clips / "mislabelled.mp4")
    (clips / "absurd.gif").write_bytes(b"GIF89a" + b"\xff\xff\xff\xff" + bytes(100))
    (clips / "loop.mp4").symlink_to("loop.mp4")
    table = clips / "table.jsonl"
    rows = [{"video": video.name, "box": "4,4,20,20", "end": 8} for video in sorted(clips.iterdir())]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, run = run_batch_to_end(str(table), "-o", str(out), *COPY)
    assert (code, run.other) == (6, [])
    ends = {e["video"]: e["cause"] or e["outcome"] for e in run.events if e["event"] == "finished"}
    bad = {"zero", "truncated", "absurd", "loop", "AudioVideoInterleave"}
    good = {path.stem for path in (data_root / "videos").iterdir()} - bad
    assert {name for name, end in ends.items() if end == "input"} >= bad
    assert {name for name, end in ends.items() if end == "done"} >= good
    assert set(ends.values()) == {"input", "done"}
    assert not any("Traceback" in str(event) for event in run.events)
    assert max(map(len, printed.splitlines())) <= 80


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    names = [b"a b", b"line\nbreak", b"caf\xe9", "tür\u202e".encode(), b"-o", b"a;touch x"]
    for name in names:
        write_clip(clips / "made.mp4", 3).rename(clips / os.fsdecode(name + b".mp4"))
        write_mask(clips / "made.png").rename(clips / os.fsdecode(name + b".png"))
    code, printed, run = run_batch_to_end(str(clips), "-o", str(out), *COPY)
    assert (code, run.other) == (0, []), printed
    assert sorted(os.fsencode(path.name) for path in out.iterdir() if path.is_dir()) == sorted(names)
    assert len(run.finished()) == len(names)
    assert not (tmp_path / "x").exists()
    assert "\u202e" not in printed


def test_a_place_that_cannot_be_written_is_one_sentence(clips: Path) -> None:
    code, printed, run = run_batch_to_end(str(clips), "-o", "/proc/vos-results", *COPY)
    assert (code, printed) == (3, "")
    assert len(run.other) == 1
    assert run.other[0].startswith("vos: error: cannot ")
