"""What a plan will take: frames and objects as tracking finds them, costs that grow as they must, `vos batch -n`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import require

from cli.batch_plan import plan_lines
from cli.main import run
from seem_core.errors import VideoError
from trackers import TRACKERS
from vos.batch.estimate import PlanEstimate, VideoEstimate, estimate_plan, look
from vos.batch.job import VideoJob
from vos.batch.plan import Plan, plan_batch
from vos.batch.rates import SIZES, Curve, rate_of
from vos.label_files import write_labels
from vos.pipeline import TrackOptions
from vos.to_folder import track_to_folder
from vos.video import open_video
from vos.video_writer import VideoWriter

COPY = TrackOptions(tracker="copy", device="cpu")


def clip(path: Path, frames: int = 12, width: int = 64, height: int = 48) -> Path:
    with VideoWriter(path, height, width, Fraction(10)) as writer:
        for n in range(frames):
            writer.write(np.full((height, width, 3), 10 * n, np.uint8), n / 10)
    return path


def mask(path: Path, objects: int = 1, width: int = 64, height: int = 48) -> Path:
    labels = np.zeros((height, width), np.uint8)
    for i in range(objects):
        labels[4:12, 4 + 6 * i : 9 + 6 * i] = i + 1
    write_labels(path, labels)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "clips"
    place.mkdir()
    for name, objects in (("one", 1), ("three", 3)):
        clip(place / f"{name}.mp4")
        mask(place / f"{name}.png", objects)
    return place


def estimate(job: VideoJob) -> VideoEstimate:
    return estimate_plan(Plan((job,))).videos[0]


def test_frames_and_objects_are_those_of_tracking(folder: Path, tmp_path: Path) -> None:
    box = {"id": 7, "prompts": [{"frame": 3, "box": [4, 16, 20, 32]}]}
    (folder / "three.json").write_text(json.dumps({"version": 1, "objects": [box]}))
    options = replace(COPY, start=1, end=10, stride=2)
    plan = plan_batch([folder], tmp_path / "out", options=options)
    found = estimate_plan(plan)
    for job, item in zip(plan.videos, found.videos, strict=True):
        done = track_to_folder(job.video, job.out, job.prompts, mask=job.masks, options=job.options, save={"masks"})
        assert (item.frames, item.objects) == (done.frames, len(done.objects))
        assert (item.frames_from, item.size, item.problem) == ("header", (48, 64), "")
    assert [item.objects for item in found.videos] == [1, 4]


def test_every_real_file(data_root: Path) -> None:
    """The header may promise more than can be decoded; sizes are exact, also of what is turned."""
    files = sorted((data_root / "videos").iterdir())
    require(bool(files), "no videos in the data")
    for path in files:
        try:
            length = look(path)
        except VideoError:
            with pytest.raises(VideoError):
                open_video(path)
            continue
        if not length.frames:
            continue
        video = open_video(path)
        assert length.size == (video.info.height, video.info.width), path
        assert len(video) <= length.frames <= 1.1 * len(video) + 2, path


def test_a_folder_of_images_and_a_file_without_a_length(tmp_path: Path, data_root: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    (place / "0.png").write_bytes(b"not an image")
    for n in range(1, 4):
        mask(place / f"{n}.png")
    assert look(place).frames == 4
    assert look(place).frames_from == "images"
    assert look(place).size == (48, 64)
    assert look(data_root / "videos" / "no_duration.webm").frames_from == "counted"


def test_what_will_fail_is_known_before(folder: Path, tmp_path: Path) -> None:
    mask(folder / "one.png", width=60)
    (folder / "three.json").write_text('{"version": 1, "objects": [{"id": 0}]}')
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    clip(folder / "late.mp4", frames=3)
    clip(folder / "early.mp4")
    mask(folder / "early.png")
    (folder / "early.json").write_text(
        '{"version": 1, "objects": [{"id": 2, "prompts": [{"frame": 2, "point": [4, 4]}]}]}'
    )
    for name in ("zero", "text", "late"):
        mask(folder / f"{name}.png")
    plan = plan_batch([folder], tmp_path / "out", options=replace(COPY, start=5))
    found = estimate_plan(plan)
    said = {item.name: item.problem for item in found.videos}
    assert set(found.failing) == set(said) == {"early", "late", "one", "text", "three", "zero"}
    assert "mask" in said["one"]
    assert "60x48, the video is 64x48" in said["one"]
    assert "three.json: objects[0].id" in said["three"]
    assert "the file is empty" in said["zero"]
    assert "not a video" in said["text"]
    assert "frame 2 of a prompt is not among the tracked frames 5..11" in said["early"]
    assert said["late"] == "start 5 is past the end; the video has 3 frames"
    assert (found.frames, found.seconds, found.disk, found.unknown) == (0, 0, 0, ())


def test_costs_grow_with_what_is_asked_for(folder: Path, tmp_path: Path) -> None:
    plan = plan_batch([folder], tmp_path / "out", options=replace(COPY, tracker="flow"), save=frozenset({"masks"}))
    one, three = plan.videos
    usual = estimate(one)
    assert usual.seconds is not None
    assert usual.memory is not None
    assert usual.disk is not None

    def seconds(**changes: object) -> float:
        return estimate(replace(one, options=replace(one.options, **changes))).seconds or 0.0  # type: ignore[arg-type]

    assert seconds(end=6) < usual.seconds < seconds(direction="both")
    assert (estimate(three).seconds or 0) >= usual.seconds
    with_overlay = estimate(replace(one, save=frozenset({"masks", "overlay"})))
    assert (with_overlay.seconds or 0) > usual.seconds
    assert (with_overlay.disk or 0) > usual.disk
    assert estimate(replace(one, options=replace(one.options, tracker="reference", model="unknown"))).seconds is None


def test_workers_share_the_time_but_not_one_video(folder: Path, tmp_path: Path) -> None:
    plan = plan_batch([folder], tmp_path / "out", options=COPY)
    alone, two, many = (estimate_plan(plan, workers=n) for n in (1, 2, 50))
    longest = max(item.seconds or 0 for item in alone.videos)
    assert alone.seconds == pytest.approx(sum(item.seconds or 0 for item in alone.videos))
    assert two.seconds == pytest.approx(max(alone.seconds / 2, longest))
    assert many.seconds == longest
    assert alone.memory == max(item.memory or 0 for item in alone.videos)
    assert two.memory == many.memory == sum(item.memory or 0 for item in alone.videos)
    assert alone.disk == many.disk > 0
    assert alone.disk_free is not None


def test_finished_videos_set_the_pace(folder: Path, tmp_path: Path) -> None:
    plan = plan_batch([folder], tmp_path / "out", options=COPY)
    before = estimate_plan(plan)
    assert "not on this machine" in before.basis[0]
    one = plan.videos[0]
    track_to_folder(one.video, one.out, mask=one.masks, options=COPY, save={"masks"})
    record = json.loads((one.out / "run.json").read_text())
    record["seconds"] = 12 * 1000.0  # twelve frames, a thousand seconds each
    (one.out / "run.json").write_text(json.dumps(record))
    after = estimate_plan(plan)
    assert [item.done for item in after.videos] == [True, False]
    assert after.videos[0].seconds == 0
    assert (after.videos[1].seconds or 0) > 10_000
    assert "as 1 finished video in" in after.basis[0]
    assert estimate_plan(Plan((replace(one, overwrite=True),))).videos[0].done is False
    record["state"] = "interrupted"
    (one.out / "run.json").write_text(json.dumps(record))
    assert estimate_plan(plan).videos[0].done is False


def test_what_is_measured() -> None:
    assert all(rate_of(name, None) is not None for name in ("lite", "propagate", "fused", "flow", "copy"))
    assert rate_of("fused", None) == rate_of("lite", None)
    assert rate_of("reference", None) is None
    assert {"lite", "propagate", "flow", "copy"} <= set(TRACKERS)


@given(st.floats(0.0001, 80), st.integers(1, 200))
def test_curves_go_through_their_points_and_never_fall_below_nothing(megapixels: float, objects: int) -> None:
    curve = Curve((1.0, 3.0, 9.0), (0.5, 2.0))
    assert [curve.at(size, 1) for size in SIZES] == pytest.approx([1, 3, 9])
    assert curve.at(SIZES[2], 4) == pytest.approx(9 + 3 * 2)
    assert curve.at(megapixels, objects) >= 1
    assert curve.at(megapixels, objects + 1) > curve.at(megapixels, objects)
    assert curve.at(2 * megapixels, objects) >= curve.at(megapixels, objects)
    assert Curve((9.0, 3.0, 1.0)).at(megapixels, objects) >= 0
    assert math.isfinite(curve.at(megapixels, objects))


def test_dry_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    clip(folder / "a very long name that no narrow terminal can show in one column\n of a table.mp4")
    mask(folder / "a very long name that no narrow terminal can show in one column\n of a table.png")
    clip(folder / "nothing.mp4")
    mask(folder / "broken.png")
    (folder / "broken.mp4").write_text("not a video")
    words = ["batch", str(folder), "-o", str(tmp_path / "out"), "-n", "--tracker", "copy", "--device", "cpu"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > 80 and str(folder) not in line] == []
    lines = said.splitlines()
    assert lines[0].split() == ["video", "frames", "size", "objects", "time", "memory", "disk"]
    assert [line.split()[1:3] for line in lines if line.startswith("one ")] == [["12", "64x48"]]
    assert "will fail" in said
    assert "nothing says what to follow in it:" in said
    assert str(folder / "nothing.mp4") in said
    assert "4 videos, 1 that will fail: 36 frames, about" in said
    assert not (tmp_path / "out").exists()

    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in found["videos"]} >= {"one", "three", "broken"}
    assert found["without_prompt"] == [str(folder / "nothing.mp4")]
    assert found["total"]["frames"] == 36
    assert found["total"]["failing"] == ["broken"]
    assert found["videos"][-1]["out"] == str(tmp_path / "out" / "three")


def test_a_full_disk_is_said() -> None:
    item = VideoEstimate("a", Path("a.mp4"), 10, "header", (48, 64), 1, 5.0, 10**9, 10**12)
    found = PlanEstimate((item,), 2, 10, 5.0, 10**9, 10**12, 10**9, (), ("a",), ("basis",))
    text = "\n".join(plan_lines(Plan(()), found, 80))
    assert "the results will not fit on this disk" in text
    assert "1 video: 10 frames, about 5 s, 1.0 GB of memory with 2 workers" in text
    assert "not in all of these sums: 1" in text
