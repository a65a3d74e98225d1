"""``vos segment`` as a user types it, with a tiny random SEEM: what is written, printed and refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import write_tiny_checkpoint
from tiny_seem import TINY

from cli.main import run
from seem_core.coco import COCO_PANOPTIC, COCO_THINGS
from seem_core.convert_file import COCO_CLASSES
from seem_core.errors import PromptError
from seem_core.prompts import TextPrompt
from seem_core.segmenter import SeemSegmenter
from seem_core.text import TextEncoder, byte_pairs
from vos.label_files import read_labels
from vos.prompt_file import PromptTarget, read_prompts
from vos.prompt_text import parse_polygon, parse_scribble, parse_words

Captured = pytest.CaptureFixture[str]
CLASSES = ("cat", "dog", "sky-other-merged", "background")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a picture of 90x70, another one of 60x50, masks on both, and a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, (height, width) in {"cat": (70, 90), "other": (50, 60)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(f"{name}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[10:30, 20:40] = 255
        Image.fromarray(mask).save(f"{name}-mask.png")
    Path("bad.png").write_text("not a picture")
    write_tiny_checkpoint(Path("tiny.safetensors"), monkeypatch, classes=CLASSES, trained="full")
    return tmp_path


def segment(*arguments: str, model: str = "tiny.safetensors") -> int:
    return run(["segment", "cat.png", "--model", model, *arguments])


def one_prompt(fields: str, head: str = '"version": 1', object_id: str = "1") -> str:
    return f'{{{head}, "objects": [{{"id": {object_id}, "prompts": [{{{fields}}}]}}]}}'


KINDS = {
    "point": ["-p", "30,20"],
    "points": ["-p", "30,20", "-p", "80,60:-", "-p", "5,5#3"],
    "box": ["-b", "20,10,40,30"],
    "scribble": ["-s", "20,10,30,20,40,30", "--width", "5"],
    "polygon": ["--polygon", "20,10,40,10,30,30#2"],
    "mask": ["-m", "cat-mask.png"],
    "mask with an id": ["-m", "cat-mask.png#7"],
    "text": ["--text", "the black cat#4"],
    "reference": ["--reference", "other.png", "--reference-mask", "other-mask.png"],
    "text and point": ["--text", "a cat", "-p", "30,20", "--output-query", "text"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt(folder: Path, capsys: Captured, kind: str) -> None:
    assert segment(*KINDS[kind], "-o", "out") == 0
    said = capsys.readouterr()
    made = [str(Path("out") / name) for name in ("masks.png", "overlay.png", "segments.json")]
    assert said.out.splitlines() == made
    assert said.err == ""
    result = json.loads((folder / "out" / "segments.json").read_text())
    labels = read_labels(folder / "out" / "masks.png")
    assert labels.shape == (70, 90)
    for found in result["objects"]:
        assert found["area"] == int((labels == found["id"]).sum())
        assert 0 <= found["score"] <= 1
        assert found["class_name"] in {"cat", "dog", "sky-other-merged", None}
    overlay = np.asarray(Image.open(folder / "out" / "overlay.png"))
    assert overlay.shape[1] == 90


def test_ids_are_those_that_were_given(folder: Path, capsys: Captured) -> None:
    options = [item for kind in ("points", "polygon", "mask with an id", "text") for item in KINDS[kind]]
    assert segment(*options, "-o", "out", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [found["id"] for found in result["objects"]] == [1, 2, 3, 4, 7]
    assert (result["mode"], result["model"], result["routing"]) == ("prompts", "tiny", "v0")


def test_the_overlay_shows_both_signs(folder: Path) -> None:
    assert segment("-p", "10,10", "-p", "80,60:-", "-o", "out") == 0
    overlay = np.asarray(Image.open("out/overlay.png")).astype(int)
    assert overlay[10, 10].argmax() == 1
    assert overlay[60, 80].argmax() == 2


def test_rounds_add_up_and_read_the_round_before(folder: Path, capsys: Captured) -> None:
    Path("two.json").write_text(one_prompt('"point": [80, 60], "positive": false'))
    assert segment("-p", "30,20", "--round", "two.json", "--round", "two.json", "-o", "rounds", "--json") == 0
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert [(item["prompts"], item["read_previous"]) for item in rounds] == [(1, False), (1, True), (1, True)]
    assert segment("-p", "30,20", "-p", "80,60:-", "-o", "one", "--json") == 0
    (single,) = json.loads(capsys.readouterr().out)["rounds"]
    assert rounds[1]["objects"] != single["objects"]  # the previous mask makes the difference


def test_the_round_before_may_be_a_file(folder: Path, capsys: Captured) -> None:
    assert segment("-m", "cat-mask.png", "-o", "first", "-q") == 0
    previous = np.zeros((70, 90), np.uint8)
    previous[10:30, 20:40] = 1
    Image.fromarray(previous).save("previous.png")
    capsys.readouterr()
    assert segment("-p", "30,20", "--previous", "previous.png", "-o", "second", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rounds"][0]["read_previous"] is True


def test_demo_goes_by_the_prompts_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    write_tiny_checkpoint(Path("demo.safetensors"), monkeypatch, routing="demo", trained="full")
    Path("two.json").write_text(one_prompt('"point": [80, 60]'))
    assert segment("-p", "30,20", "--round", "two.json", "-o", "out", "--json", model="demo.safetensors") == 0
    rounds = json.loads(capsys.readouterr().out)["rounds"]
    assert [item["read_previous"] for item in rounds] == [False, False]
    Image.fromarray(np.ones((70, 90), np.uint8)).save("previous.png")
    assert segment("-p", "3,3", "--previous", "previous.png", "-o", "no", model="demo.safetensors") == 3
    assert "does not read a previous mask" in capsys.readouterr().err


def test_panoptic(folder: Path, capsys: Captured) -> None:
    assert segment("--panoptic", "-o", "out", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["mode"], result["rounds"]) == ("panoptic", [])
    assert segment("--panoptic", "--vocabulary", "horse, grass-merged", "-o", "more", "--json") == 0
    for found in json.loads(capsys.readouterr().out)["objects"]:
        assert found["class_name"] in {"horse", "grass-merged"}
        assert found["thing"] == (found["class_name"] == "horse")


def test_panoptic_tells_coco_classes_apart_by_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """With the embeddings that conversion stored: nothing is encoded, so the text encoder is not asked."""
    write_tiny_checkpoint(Path("coco.safetensors"), monkeypatch, classes=COCO_CLASSES, trained="full")
    monkeypatch.setattr(TextEncoder, "forward", None)
    monkeypatch.setattr(SeemSegmenter, "panoptic", partialmethod(SeemSegmenter.panoptic, object_threshold=0.0))
    assert segment("--panoptic", "-o", "out", "--json", model="coco.safetensors") == 0
    result = json.loads(capsys.readouterr().out)
    labels = read_labels(Path("out/masks.png"))
    assert result["objects"]
    for found in result["objects"]:
        assert found["class_name"] in COCO_PANOPTIC
        assert found["thing"] == (found["class_name"] in COCO_THINGS)
        assert found["area"] == (labels == found["id"]).sum() > 0
    with Image.open("out/overlay.png") as overlay:
        assert overlay.width == 90
    assert json.loads(Path("out/segments.json").read_text())["objects"] == result["objects"]


def test_masks_of_an_untrained_model_come_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write_tiny_checkpoint(Path("raw.safetensors"), monkeypatch)
    assert segment("-p", "3,3", "-o", "out", "-q", model="raw.safetensors") == 0
    assert "mean nothing" in capsys.readouterr().err


def test_results_are_not_replaced_unasked(folder: Path, capsys: Captured) -> None:
    assert segment("-p", "30,20") == 0
    assert (folder / "cat_seem" / "masks.png").exists()
    assert segment("-p", "30,20") == 3
    assert "--overwrite" in capsys.readouterr().err
    assert segment("-p", "30,20", "--overwrite") == 0


def test_size_and_precision_are_options(folder: Path, capsys: Captured) -> None:
    assert segment("-p", "30,20", "--size", "96x110", "--precision", "bf16", "-o", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["encoded"] == [85, 110]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 3, "nothing says what to segment"),
        (["-p", "90,3"], 3, "outside the picture of 90x70"),
        (["-p", "3"], 3, "not a point"),
        (["-p", "3,3@4"], 3, "no frames"),
        (["-m", "cat-mask.png@4"], 3, "no frames"),
        (["-p", "3,3:-"], 3, "no positive mark"),
        (["-b", "5,5,2,2"], 3, "is empty"),
        (["--scribble", "1,2,3"], 3, "not a scribble"),
        (["--polygon", "1,2,3,4"], 3, "three corners"),
        (["--text", "   "], 3, "text prompt is empty"),
        (["-m", "other-mask.png"], 3, "60x50"),
        (["-m", "missing.png"], 3, "missing.png"),
        (["--reference", "other.png"], 3, "give one mask for each"),
        (["--reference", "other.png", "--reference-mask", "cat-mask.png"], 3, "90x70"),
        (["--reference", "bad.png", "--reference-mask", "cat-mask.png"], 3, "bad.png"),
        (["--panoptic", "-p", "3,3"], 3, "leave out the prompts"),
        (["--panoptic", "--vocabulary", " , "], 3, "vocabulary is empty"),
        (["--panoptic", "--vocabulary", "cat,cat"], 3, "more than once"),
        (["-p", "3,3", "--output-query", "text"], 3, "has no words"),
        (["-p", "3,3", "--size", "5"], 2, "--size takes"),
        (["-p", "3,3", "--size", "60000"], 5, "would be encoded as"),
        (["-p", "3,3", "--previous", "other-mask.png"], 3, "60x50"),
        (["-p", "3,3", "--model", "magic"], 4, "magic"),
        (["-p", "3,3", "--model", "cat.png"], 4, "cat.png"),
        (["-p", "3,3", "-o", "cat.png"], 3, "cat.png"),
        (["-p", "3,3", "-o", "cat.png/out"], 3, "cat.png"),
        (["--round", "missing.json"], 3, "missing.json"),
        (["--round", "cat.png"], 3, "not JSON"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    folder: Path, capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    before = {path.name for path in folder.iterdir()} | {"cache"}
    assert segment(*arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vos: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert {path.name for path in folder.iterdir()} <= before


def test_words_need_a_model_that_reads(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    wordless = replace(TINY, name="wordless", text=None)
    write_tiny_checkpoint(Path("wordless.safetensors"), monkeypatch, config=wordless, trained="full")
    for arguments in (["--text", "a cat"], ["--panoptic"], ["-p", "3,3", "--vocabulary", "cat"]):
        assert segment(*arguments, model="wordless.safetensors") == 3
        assert "has no text encoder" in capsys.readouterr().err
    assert segment("-p", "3,3", "-o", "out", model="wordless.safetensors") == 0


def test_words_need_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    byte_pairs.cache_clear()
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    for arguments in (["--text", "a cat"], ["--panoptic", "--vocabulary", "a thing"]):
        assert segment(*arguments) == 3
        assert "pip install 'seem-vos[text]'" in capsys.readouterr().err
    assert segment("-p", "3,3", "-o", "out") == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", '{"version": 1, "objects": [...]}'),
        (one_prompt('"point": [1, 1]', '"version": 2'), "round.json: version: this program reads version 1, not 2"),
        ('{"version": 1, "objects": {}}', "round.json: objects: is a list, not {}"),
        (one_prompt('"point": [99, 1]'), "round.json: objects[0].prompts[0].point: point 99,1 lies outside"),
        (
            one_prompt('"point": [1, 1], "frame": 0'),
            "objects[0].prompts[0]: a picture has no frames; leave out 'frame'",
        ),
        (one_prompt('"forget": true'), "objects[0].prompts[0]: a picture has no frames; leave out 'forget'"),
        (one_prompt('"mask": "none.png"'), "objects[0].prompts[0].mask: mask none.png does not exist"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_round_file_is_checked(folder: Path, capsys: Captured, content: str, words: str) -> None:
    Path("round.json").write_text(content)
    assert segment("--round", "round.json") == 3
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_round_file_holds_every_kind(folder: Path, capsys: Captured) -> None:
    prompts = [
        {"point": [30, 20]},
        {"box": [20, 10, 40, 30]},
        {"scribble": [[20, 10], [30, 20]], "width": 4, "positive": True},
        {"polygon": [[20, 10], [40, 10], [30, 30]]},
        {"mask": "cat-mask.png"},
        {"text": "a cat"},
        {"reference": {"image": "other.png", "mask": "other-mask.png"}},
    ]
    objects = [{"id": i, "prompts": [prompt]} for i, prompt in enumerate(prompts, 1)]
    (folder / "sub").mkdir()
    for name in ("cat-mask.png", "other.png", "other-mask.png"):
        (folder / name).rename(folder / "sub" / name)
    (folder / "sub" / "all.json").write_text(json.dumps({"version": 1, "objects": objects}))
    target = PromptTarget.picture(Path("cat.png"), (70, 90))
    assert len(read_prompts("sub/all.json", target).prompts) == 7
    assert segment("--round", "sub/all.json", "-o", "out", "--json") == 0
    assert [found["id"] for found in json.loads(capsys.readouterr().out)["objects"]] == [1, 2, 3, 4, 5, 6, 7]


def test_written_prompts() -> None:
    assert parse_scribble("1,2,3,4:-#5", 2.0).prompt.object_id == 5
    assert parse_polygon("1,2,3,4,5,6").prompt.object_id == 1
    assert parse_words("number #1 of them#12").prompt == TextPrompt("number #1 of them", 12)
    assert parse_words("a\nb").prompt.object_id == 1
    with pytest.raises(PromptError, match="background"):
        parse_words("cat#0")
