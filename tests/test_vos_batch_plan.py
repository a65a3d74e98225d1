"""The plan of a batch: which videos, prompts and names; what is passed over is said, what is wrong is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from seem_core.errors import InputError
from seem_core.prompts import TextPrompt
from vos.batch.job import job_files
from vos.batch.plan import Plan, plan_batch, why_unusable
from vos.pipeline import TrackOptions
from vos.prompt_sources import ReferenceFile
from vos.prompt_text import parse_prompts
from vos.prompts import TimedPrompt
from vos.run_record import RUN_FILE

WORDS = parse_prompts(texts=["the cat"])
PROMPTS = '{"version": 1, "objects": []}'


def make(folder: Path, *names: str) -> Path:
    """Files with some content, and folders where a name ends with a slash. Nothing of them is decoded here."""
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text(PROMPTS if path.suffix == ".json" else "x")
    return folder


def names(plan: Plan) -> list[str]:
    return [job.name for job in plan.videos]


def test_prompts_beside_each_video(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "b10.mp4", "b10.png", "b2.MOV", "b2.json", "c.mkv", "c.png", "c.json", "notes.txt")
    make(clips, "without.webm", "other.mp4", "d/", "d.png", ".hidden.mp4", ".hidden.png")
    make(clips / "d", "1.jpg", "2.jpg")
    (clips / "other.json").write_text('{"title": "about something else"}')
    options = TrackOptions(tracker="copy")
    plan = plan_batch([clips], tmp_path / "out", options=options, save=frozenset({"masks"}), overwrite=True)
    assert names(plan) == ["b2", "b10", "c", "d"]
    assert [job.masks for job in plan.videos] == [(), (str(clips / "b10.png"),), (str(clips / "c.png"),),
                                                  (str(clips / "d.png"),)]  # fmt: skip
    assert [job.prompts for job in plan.videos] == [(clips / "b2.json",), (), (clips / "c.json",), ()]
    assert [job.out for job in plan.videos] == [tmp_path / "out" / name for name in names(plan)]
    assert all(job.options is options and job.overwrite and job.save == {"masks"} for job in plan.videos)
    assert plan.without_prompt == (clips / "other.mp4", clips / "without.webm")
    assert plan.problems == plan.notes == ()


def test_a_folder_of_prompts(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.png", "b.mp4", "c.mp4")
    prompts = make(tmp_path / "prompts", "b.png", "c.json", "d.png", "e.txt")
    plan = plan_batch([clips], tmp_path / "out", prompts_folder=prompts)
    assert names(plan) == ["b", "c"]  # what lies beside a.mp4 does not count
    assert plan.without_prompt == (clips / "a.mp4",)
    assert plan.notes == (f"{prompts / 'd.png'} belongs to no video",)
    with pytest.raises(InputError, match="is not a folder"):
        plan_batch([clips], tmp_path / "out", prompts_folder=prompts / "b.png")


def test_what_holds_for_every_video(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.png", "b.mp4")
    reference = ReferenceFile(Path("cat.jpg"), Path("cat.png"))
    plan = plan_batch([clips], tmp_path / "out", shared=[reference, *WORDS])
    assert [job.prompts for job in plan.videos] == [(reference, *WORDS)] * 2
    assert plan.videos[0].masks == (str(clips / "a.png"),)
    assert plan.without_prompt == ()
    assert isinstance(WORDS[0], TimedPrompt)
    assert WORDS[0].prompt == TextPrompt("the cat", 1)
    remembered = plan_batch([clips], tmp_path / "out", options=TrackOptions(memory="cats.memory"))
    assert names(remembered) == ["a", "b"]
    assert ("memory", Path("cats.memory")) in job_files(remembered.videos[1])


def test_several_inputs_of_every_kind(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "z.mp4", "z.png", "a.mp4", "a.png")
    more = make(tmp_path / "more", "film.mp4", "film.json", "film 2.divx", "film 2.png", "images/")
    make(more / "images", "1.png", "2.png")
    make(more, "images.png")
    (tmp_path / "list.txt").write_text("clips\nmore/film.mp4\r\n\nmore/film 2.divx\n")
    (tmp_path / "list.txt").write_bytes(b"more/film.mp4\r\n\r\nmore/film 2.divx\r\nmore/images\r\n")
    plan = plan_batch([clips / "z.mp4", tmp_path / "list.txt", clips / "a.mp4"], tmp_path / "out")
    assert names(plan) == ["z", "film", "film 2", "images", "a"]  # as named
    assert plan.videos[3].video == more / "images"
    assert names(plan_batch([more / "images"], tmp_path / "out")) == ["images"]
    with pytest.raises(InputError, match=r"there is no .*nothere.mp4"):
        plan_batch([clips, tmp_path / "nothere.mp4"], tmp_path / "out")
    with pytest.raises(InputError, match="neither a video nor a table"):
        plan_batch([more / "film.json"], tmp_path / "out")


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.mov", "a.png", "b.mp4", "b.avi")
    with pytest.raises(InputError, match=r"a\.mov and .*a\.mp4 would both write to .*out/a"):
        plan_batch([clips], tmp_path / "out")
    (clips / "a.mov").unlink()
    assert len(plan_batch([clips], tmp_path / "out").without_prompt) == 2  # nothing is written for either
    other = make(tmp_path / "other", "a.mp4", "a.png")
    with pytest.raises(InputError, match="column 'name' of a table"):
        plan_batch([clips, other], tmp_path / "out")
    with pytest.raises(InputError, match="is named twice"):
        plan_batch([other / "a.mp4", other], tmp_path / "out")


def test_results_are_not_taken_for_videos(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.png", "out/", "earlier/")
    make(clips / "out", "contact.png")
    make(clips / "earlier", "contact.png")
    (clips / "earlier" / RUN_FILE).write_text("{}")
    assert names(plan_batch([clips], clips / "out")) == ["a"]
    (tmp_path / "link").symlink_to(clips)
    assert names(plan_batch([tmp_path / "link"], clips / "out")) == ["a"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.png", "b.mp4", "loop.png", "far.png")
    (clips / "self").symlink_to(clips)
    (clips / "up").symlink_to("..")
    (clips / "loop.mp4").symlink_to("loop.mp4")
    (clips / "far.mp4").symlink_to("nowhere.mp4")
    (clips / "b.png").symlink_to("b.png")
    make(tmp_path, "x.png")
    plan = plan_batch([clips], tmp_path / "out")
    assert names(plan) == ["a", "b", "far", "loop"]
    assert {problem.name: problem.message.split(": ")[-1] for problem in plan.problems} == {
        "b": "its symbolic links lead in a circle",
        "far": "it does not exist",
        "loop": "its symbolic links lead in a circle",
    }
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match="has a mask of its first frame"):
        plan_batch([tmp_path / "round"], tmp_path / "out")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "with space.mp4", "with space.png", "two\nlines.mp4", "two\nlines.json")
    odd = os.fsdecode(b"caf\xe9")
    for suffix in (".mp4", ".png"):
        (clips / f"{odd}{suffix}").write_text("x")
    plan = plan_batch([clips], tmp_path / "out")
    assert sorted(names(plan)) == sorted(["with space", "two\nlines", odd])
    listed = b"\0".join(os.fsencode(job.video) for job in plan.videos) + b"\0"
    (tmp_path / "videos.lst").write_bytes(listed)
    assert plan_batch([tmp_path / "videos.lst"], tmp_path / "out") == plan
    (tmp_path / "videos.txt").write_bytes(b"clips/caf\xe9.mp4\nclips/with space.mp4")
    assert names(plan_batch([tmp_path / "videos.txt"], tmp_path / "out")) == [odd, "with space"]


def test_files_that_cannot_be_used_are_jobs(tmp_path: Path) -> None:
    clips = make(
        tmp_path / "clips", "zero.mp4", "zero.png", "good.mp4", "good.png", "pipe.png", "empty.mp4", "empty.png"
    )
    (clips / "zero.mp4").write_bytes(b"")
    (clips / "empty.png").write_bytes(b"")
    os.mkfifo(clips / "pipe.mp4")
    (clips / "broken.json").write_text("{")
    make(clips, "broken.mp4")
    plan = plan_batch([clips], tmp_path / "out")
    assert names(plan) == ["broken", "empty", "good", "pipe", "zero"]
    assert [(problem.name, problem.message.removeprefix("video ").split(" ")[0]) for problem in plan.problems] == [
        ("empty", "mask"),
        ("pipe", str(clips / "pipe.mp4")),
        ("zero", str(clips / "zero.mp4")),
    ]
    assert why_unusable(clips / "pipe.mp4") == "it is not a regular file"
    assert why_unusable(clips / "zero.mp4") == "the file is empty"
    assert why_unusable(Path("a\0b")) is not None
    assert why_unusable(clips) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    clips = make(tmp_path / "clips", "a.mp4", "a.png", "closed/")
    (clips / "a.mp4").chmod(0)
    (clips / "closed").chmod(0)
    try:
        plan = plan_batch([clips], tmp_path / "out")
    finally:
        (clips / "closed").chmod(0o700)
    assert [problem.name for problem in plan.problems] == ["a"]
    assert "permission denied" in plan.problems[0].message
    assert "closed is passed over" in plan.notes[0]


def test_nothing_to_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video file"):
        plan_batch([make(tmp_path / "empty")], tmp_path / "out")
    clips = make(tmp_path / "clips", "a.mp4", "b.mp4")
    with pytest.raises(InputError, match=r"none of the 2 videos .* put a\.png beside a\.mp4"):
        plan_batch([clips], tmp_path / "out")
    prompts = make(tmp_path / "prompts")
    with pytest.raises(InputError, match=r"put a\.png into .*prompts for a\.mp4"):
        plan_batch([clips], tmp_path / "out", prompts_folder=prompts)


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "..", ".git", "a\\b", "ledger.sqlite", "ledger.sqlite-wal", "report.html"]
)
def test_no_name_leads_out_of_the_results(tmp_path: Path, name: str) -> None:
    make(tmp_path / "clips", "a.mp4", "a.png")
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"video": "clips/a.mp4", "name": name}))
    with pytest.raises(InputError, match=r"^.*t\.jsonl line 1: "):
        plan_batch([table], tmp_path / "out")


def test_a_table(tmp_path: Path) -> None:
    make(tmp_path / "clips", "a.mp4", "a.png", "b.mp4", "b.png", "c.mp4")
    table = tmp_path / "t.csv"
    table.write_text(
        "video,mask,name,start,text\n"
        "clips/a.mp4,masks/x.png,first,10,\n"
        "clips/a.mp4,masks/y.png@40#2,second,,\n"
        "clips/b.mp4,,,5,\n"
        "clips/b.mp4,,b in words,,the cat\n"
        "clips/c.mp4,,,,\n"
        "gone.mp4,masks/x.png,,,\n"
    )
    make(tmp_path / "masks", "x.png", "y.png")
    plan = plan_batch([table], tmp_path / "out", options=TrackOptions(tracker="copy", end=90))
    assert names(plan) == ["first", "second", "b", "b in words", "gone"]
    first, second, by_rule, words, _ = plan.videos
    assert first.masks == (str(tmp_path / "masks" / "x.png"),)
    assert (first.options.start, first.options.end, first.options.tracker) == (10, 90, "copy")
    mask = second.masks[0]
    assert not isinstance(mask, str)
    assert (mask.path, mask.when, mask.object_id) == (tmp_path / "masks" / "y.png", 40, 2)
    assert by_rule.masks == (str(tmp_path / "clips" / "b.png"),)  # the row says nothing, so the rule does
    assert words.masks == ()
    assert words.prompts == WORDS
    assert plan.without_prompt == (tmp_path / "clips" / "c.mp4",)
    assert [problem.name for problem in plan.problems] == ["gone"]
    table.write_text("video,mask,start\nclips/a.mp4,clips/a.png,95\n")
    with pytest.raises(InputError, match=r"t\.csv line 2: start 95 with end 90"):
        plan_batch([table], tmp_path / "out", options=TrackOptions(end=90))


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in a store is listed, not looked into."""
    there = ("a.mp4", "a.png", "b.mp4", "b.json", "c.mp4", "readme.txt", ".d.mp4")
    folder = Path("s3://bucket/clips")
    monkeypatch.setattr("vos.batch.plan.list_folder", lambda place: tuple(Path(place) / name for name in there))
    plan = plan_batch([folder], Path("s3://bucket/out"))
    assert names(plan) == ["a", "b"]
    assert plan.videos[0].masks == (str(folder / "a.png"),)
    assert plan.videos[1].prompts == (folder / "b.json",)
    assert plan.without_prompt == (folder / "c.mp4",)
    assert plan.problems == ()
    table = tmp_path / "t.csv"
    table.write_text("video,mask\ns3://bucket/clips/c.mp4,local.png\nlocal.mp4,s3://bucket/masks/m.png@4\n")
    plan = plan_batch([table], tmp_path / "out")
    assert plan.videos[0].video == folder / "c.mp4"
    assert plan.videos[0].masks == (str(tmp_path / "local.png"),)
    assert job_files(plan.videos[1])[1] == ("mask", Path("s3://bucket/masks/m.png"))
    with pytest.raises(InputError, match="a table is read from a file"):
        plan_batch([folder / "t.csv"], tmp_path / "out")
