"""``vos track`` with every kind of prompt over time: on the command line, in files, from other videos, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from clips import picture, square, write_clip, write_mask
from PIL import Image
from tiny_checkpoint import write_tiny_checkpoint
from tiny_seem import TINY

import vos
from cli.main import run
from vos.output import read_frames, read_run
from vos.prompt_file import prompts_schema

Captured = pytest.CaptureFixture[str]
COPY = ("--tracker", "copy", "--save", "masks", "-q")


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with clip.mp4 (12 frames), clip.png, and a picture other.png with its mask other-mask.png."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    write_mask(tmp_path / "clip.png")
    Image.fromarray(picture(9)).save("other.png")
    write_mask(tmp_path / "other-mask.png", 9)
    return tmp_path


def track(*arguments: str, out: str = "out") -> int:
    return run(["track", "clip.mp4", "-o", out, *arguments])


def ids_by_frame(out: str = "out") -> list[tuple[int, ...]]:
    return [tuple(found.id for found in frame.objects) for frame in read_frames(out)]


def overlap(frame: int, out: str = "out", object_id: int = 1) -> float:
    found, truth = vos.read_labels(Path(out) / "masks" / f"{frame:05d}.png") == object_id, square(frame)
    return float((found & truth).sum() / (found | truth).sum())


def write(document: Any, name: str = "p.json") -> str:
    Path(name).write_text(json.dumps(document))
    return name


def test_every_kind_at_its_time_composes(clip: Path) -> None:
    middle, edge = "8,20,12,28", "2,18,2,30,14,30,14,18"
    prompts = [
        "-p", "8,24", "-s", f"{middle}#2", "--polygon", f"{edge}@3#3", "-b", "0,16,16,32@0.25s#4", "-m", "clip.png@8#5",
        "-p", "1,1:-@4", "-s", "40,5,50,5:-@4#3", "--forget", "2@5", "--forget", "4@11", "-p", "8,24@11#4", "-p",
        "20,24@11#9",
    ]  # fmt: skip
    assert track(*prompts, *COPY) == 0
    assert ids_by_frame() == [
        *[(1, 2)] * 3, *[(1, 2, 3)] * 2, (1, 3), *[(1, 3, 4)] * 2, *[(1, 3, 4, 5)] * 3, (1, 3, 4, 5, 9),
    ]  # fmt: skip
    document: Any = read_run("out").options["prompts"]
    jsonschema.validate(document, json.loads(prompts_schema()))
    written = {(item["id"], prompt.get("frame")) for item in document["objects"] for prompt in item["prompts"]}
    assert written == {
        (1, 0), (2, 0), (3, 3), (4, 6), (5, 8), (1, 4), (3, 4), (2, 5), (4, 11), (9, 11),
    }  # fmt: skip
    assert track("--prompts", "out/run.json", *COPY, out="again") == 0
    for mask in Path("out/masks").iterdir():
        assert mask.read_bytes() == (Path("again/masks") / mask.name).read_bytes()


def test_files_of_prompts_add_up_with_the_command_line(clip: Path, capsys: Captured) -> None:
    ours = write({"version": 1, "objects": [{"id": 3, "prompts": [{"frame": 2, "mask": "clip.png"}]}]})
    shape = {"label": "thing", "shape_type": "rectangle", "points": [[10, 17], [26, 33]], "group_id": None}
    labelme = {"version": "5", "shapes": [shape], "imagePath": "clip_5.jpg", "imageHeight": 48, "imageWidth": 64}
    theirs = write(labelme, "labelme.json")
    assert track("--prompts", ours, "--prompts", theirs, "-b", "0,16,16,32", *COPY) == 0
    assert ids_by_frame() == [*[(1,)] * 2, *[(1, 3)] * 10]  # the thing is object 1, as it is the smallest id left
    said = capsys.readouterr().err
    assert "labelme.json was read as labelme shapes on frame 5: thing = object 1" in said
    assert [item.role for item in read_run("out").inputs] == ["video", "prompts", "mask", "prompts"]


def test_the_schema_is_printed_without_a_video(capsys: Captured) -> None:
    assert run(["track", "--prompts-schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_another_picture_or_video_shows_the_object(clip: Path, capsys: Captured) -> None:
    assert track("--reference", "other.png", "--reference-mask", "other-mask.png#4", "--save", "masks", "-q") == 0
    assert all(overlap(frame, object_id=4) > 0.6 for frame in range(12))
    document: Any = read_run("out").options["prompts"]
    reference = document["objects"][0]["prompts"][0]["reference"]
    assert reference["image"] == str(clip / "other.png")
    (clip / "clip.mp4").rename(clip / "shown.mp4")
    write_clip(clip / "clip.mp4", 10)
    given = ("--reference", "shown.mp4@9", "--reference-mask", "other-mask.png", "--save", "masks", "-q")
    assert track(*given, out="two") == 0
    assert all(overlap(frame, "two") > 0.6 for frame in range(10))
    assert track("--prompts", "two/run.json", "--save", "masks", "-q", out="again") == 0
    assert (Path("two/masks/00009.png")).read_bytes() == (Path("again/masks/00009.png")).read_bytes()


def test_a_memory_is_followed_in_another_video(clip: Path, capsys: Captured) -> None:
    assert track("-m", "clip.png#6", "--save-memory", "thing.memory", "--save", "masks", "-q") == 0
    assert capsys.readouterr().out.splitlines() == [str(Path("out") / "masks"), "thing.memory"]
    assert track("--memory", "thing.memory", "--save", "masks", "-q", out="two") == 0
    assert all(overlap(frame, "two", 6) > 0.6 for frame in range(12))
    run_record = read_run("two")
    assert run_record.ids == (6,)
    assert [item.role for item in run_record.inputs] == ["video", "memory"]
    more = ("-b", "0,16,16,32@4#2", "-p", "50,40:-@5#6", "--forget", "6@8", "--save-memory", "thing.memory")
    assert track("--memory", "thing.memory", *more, "--save", "masks", "-q", out="three") == 0
    assert ids_by_frame("three") == [*[(6,)] * 4, *[(2, 6)] * 4, *[(2,)] * 4]
    assert track("--prompts", "three/run.json", "--memory", "thing.memory", "--save", "masks", "-q", out="four") == 3
    assert "object 6 begins on frame 5 with marks of what it is not" in capsys.readouterr().err  # it was forgotten


@pytest.mark.parametrize("tracker", ["reference", "prompt-memory", "fused", "propagate"])
def test_a_model_reads_words_at_any_frame(clip: Path, monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    pytest.importorskip("instant_clip_tokenizer")
    write_tiny_checkpoint(clip / "tiny.safetensors", monkeypatch, trained="full")
    given = ("-t", "a square@2#3", "-p", "8,24", "--tracker", tracker, "--model", "tiny.safetensors")
    assert track(*given, "--save", "masks", "-q", "--end", "4") == 0
    assert ids_by_frame() == [(1,), (1,), (1, 3), (1, 3)]
    document: Any = read_run("out").options["prompts"]
    assert document["objects"][1] == {"id": 3, "prompts": [{"frame": 2, "text": "a square"}]}


def test_words_need_a_text_encoder(clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    wordless = replace(TINY, name="wordless", text=None)
    write_tiny_checkpoint(clip / "wordless.safetensors", monkeypatch, config=wordless, trained="full")
    assert track("-t", "a square", "--tracker", "fused", "--model", "wordless.safetensors") == 3
    assert "object 1 is given in words, which needs a model with a text encoder" in capsys.readouterr().err
    assert not Path("out").exists()


def test_python_follows_a_memory(clip: Path) -> None:
    with vos.open_video("clip.mp4") as video:
        for _ in vos.track(video, mask="clip.png", save_memory="thing.memory"):
            pass
        found = [result.masks for result in vos.track(video, memory="thing.memory")]
    assert [masks.ids for masks in found] == [(1,)] * 12
    assert (found[6].mask(1) & square(6)).sum() > 0.6 * square(6).sum()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "none.json"], "none.json cannot be read"),
        (["--prompts", "clip.png"], "clip.png is not JSON"),
        (["--prompts", "far.json"], "far.json: objects[0].prompts[0].point: frame 40 of a prompt is past the end"),
        (["--prompts", "out-of.json"], "out-of.json: objects[0].prompts[0].point: point 99,1 lies outside the image"),
        (["--prompts", "end.json"], "end.json: objects[0].prompts[0].forget: object 2 ends on frame 4 without having"),
        (["--prompts", "new.json"], "new.json: version: this program reads version 1, not 7"),
        (["-p", "5,20", "--forget", "2@4"], "object 2 ends on frame 4 without having begun"),
        (["-p", "5,20", "--forget", "1@40"], "frame 40 of a prompt is past the end"),
        (["-p", "5,20", "--forget", "1"], "'1' is not the end of an object; write ID@FRAME"),
        (["-p", "5,20:-"], "object 1 begins on frame 0 with marks of what it is not"),
        (["-t", "a cat@3#2"], "object 2 is given in words, which needs a model with a text encoder; give --model"),
        (["-s", "1,2,3"], "'1,2,3' is not a scribble"),
        (["--reference", "other.png"], "1 --reference and 0 --reference-mask were given"),
        (["--reference", "none.png", "--reference-mask", "other-mask.png"], "none.png"),
        (["--reference", "other.png@4", "--reference-mask", "other-mask.png"], "other.png has frames 0..0"),
        (
            ["--reference", "clip.mp4@99", "--reference-mask", "clip.png"],
            "clip.mp4 has frames 0..11, 0s to 0.46s, and not frame 99",
        ),
        (["--reference", "clip.mp4@9s", "--reference-mask", "clip.png"], "and not 9s"),
        (["--reference", "other.png", "--reference-mask", "black.png"], "black.png is empty"),
        (["--reference", "other.png", "--reference-mask", "none.png"], "none.png does not exist"),
        (
            ["--reference", "other.png", "--reference-mask", "other-mask.png", "--tracker", "copy"],
            "object 1 is shown on another picture, which tracker copy cannot use",
        ),
        (["--memory", "none.memory"], "none.memory cannot be read"),
        (["--memory", "clip.png"], "clip.png cannot be read"),
        (["-p", "5,20", "--save-memory", "clip.png"], "clip.png is there already and is no memory file"),
        (["-p", "5,20", "--save-memory", "."], ". is a folder; name a file for the memory"),
        (["-p", "5,20", "--save-memory", "a", "--tracker", "flow"], "tracker flow has no memory that lasts"),
        (["--memory", "strange.memory"], "was written by 'another'"),
        (["--memory", "strange.memory", "--direction", "both"], "a memory is followed forward, not in direction both"),
        ([], "nothing says what to follow"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_the_first_frame(
    clip: Path, capsys: Captured, arguments: list[str], words: str
) -> None:
    def one(prompt: dict[str, Any], **more: Any) -> Any:
        return {"version": 1, "objects": [{"id": 2, "prompts": [prompt]}], **more}

    write(one({"frame": 40, "point": [1, 1]}), "far.json")
    write(one({"point": [99, 1]}), "out-of.json")
    write(one({"frame": 4, "forget": True}), "end.json")
    write(one({"point": [1, 1]}, version=7), "new.json")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save("black.png")
    if "strange.memory" in arguments:
        _write_memory_of_another_model(clip / "strange.memory")
    before = {path.name for path in clip.iterdir()}
    assert run(["track", "clip.mp4", *arguments]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vos: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert {path.name for path in clip.iterdir()} == before


def _write_memory_of_another_model(path: Path) -> None:
    import torch

    from trackers.memory_bank import Entry, MemoryBank

    bank = MemoryBank()
    bank.write(Entry(0, (torch.zeros(4, 2),), {1: torch.ones(4)}, pinned=True))
    bank.save(path, model="another")
