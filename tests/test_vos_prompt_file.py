"""Files of prompts in our own format: there and back, against the schema, refusals, and runs repeated from run.json."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Clip, square, write_clip, write_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import vos
from seem_core.errors import MaskError, PromptError, VideoError, VosError
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from vos.output import read_run
from vos.prompt_file import PromptFile, PromptTarget, prompts_schema, read_prompts, write_prompts
from vos.prompt_sources import ReferenceFile
from vos.prompts import Forget, FramePrompt, Seconds, TimedPrompt
from vos.to_folder import track_to_folder

SIZE = (5, 7)
TARGET = PromptTarget(SIZE)
SCHEMA = json.loads(prompts_schema())
CHECK = jsonschema.Draft202012Validator(SCHEMA)

ids = st.integers(1, 65535) | st.integers(1, 3)
numbers = st.floats(-1e6, 1e6) | st.integers(-9, 9).map(float)
pairs = st.tuples(numbers, numbers)
words = st.text(min_size=1).filter(lambda text: text.strip() and not re.search("[\ud800-\udfff]", text))
masks = arrays(np.bool_, SIZE).filter(np.any)


@st.composite
def boxes(draw: st.DrawFn) -> BoxPrompt:
    (x0, x1), (y0, y1) = (
        sorted(draw(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]))) for _ in range(2)
    )
    return BoxPrompt(x0, y0, x1, y1, draw(ids))


@st.composite
def references(draw: st.DrawFn) -> ReferencePrompt:
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return ReferencePrompt(draw(arrays(np.uint8, (h, w, 3))), draw(arrays(np.bool_, (h, w)).filter(np.any)), draw(ids))


prompts: st.SearchStrategy[Prompt | Forget] = st.one_of(
    st.builds(PointPrompt, numbers, numbers, st.booleans(), ids),
    boxes(),
    st.builds(ScribblePrompt, st.lists(pairs, min_size=1).map(tuple), st.floats(0.1, 99), st.booleans(), ids),
    st.builds(PolygonPrompt, st.lists(pairs, min_size=3).map(tuple), st.booleans(), ids),
    st.builds(MaskPrompt, masks, ids),
    st.builds(TextPrompt, words, ids),
    references(),
    st.builds(Forget, ids),
)
moments = st.one_of(st.none(), st.integers(0, 10**6), st.floats(0, 1e6).map(Seconds))
timed = st.builds(TimedPrompt, prompts, moments)


def same(one: Prompt | Forget, other: Prompt | Forget) -> bool:
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
    )


def by_moment(items: list[TimedPrompt]) -> dict[Any, list[Prompt | Forget]]:
    found: dict[Any, list[Prompt | Forget]] = {}
    for item in items:
        found.setdefault(item.when, []).append(item.prompt)
    return found


@given(st.lists(timed, min_size=1, max_size=6), st.dictionaries(ids, words, max_size=2))
@settings(deadline=None, max_examples=50)
def test_prompts_come_back_as_they_were_in_their_order_on_every_frame(
    given: list[TimedPrompt], names: dict[int, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.json"
        write_prompts(path, given, names=names, video="clip.mp4")
        CHECK.validate(json.loads(path.read_text(encoding="utf-8")))
        found = read_prompts(path, TARGET)
    before, after = by_moment(given), by_moment(list(found.prompts))
    assert before.keys() == after.keys()
    for when, expected in before.items():
        assert len(after[when]) == len(expected)
        assert all(map(same, expected, after[when]))
    spoken = {item.prompt.object_id for item in given}
    assert found.names == {i: name for i, name in names.items() if i in spoken}
    assert found.video is not None
    assert found.video.name == "clip.mp4"


def test_what_needs_no_second_entry_of_an_object_has_none(tmp_path: Path) -> None:
    one, two = PointPrompt(1, 1, True, 1), PointPrompt(2, 2, True, 2)
    together = [FramePrompt(0, one), FramePrompt(0, two), FramePrompt(4, one), FramePrompt(5, two)]
    crossed = [FramePrompt(0, one), FramePrompt(0, two), FramePrompt(4, two), FramePrompt(4, one)]
    for items, listed in ((together, [1, 2]), (crossed, [1, 2, 1])):
        write_prompts(tmp_path / "p.json", items)
        written = json.loads((tmp_path / "p.json").read_text())
        assert [item["id"] for item in written["objects"]] == listed


# ---- what is refused


VALID: dict[str, Any] = {
    "version": 1,
    "video": "clip.mp4",
    "objects": [
        {
            "id": 1,
            "name": "cat",
            "prompts": [
                {"frame": 3, "point": [1, 2], "positive": False},
                {"seconds": 1.5, "box": [0, 0, 3, 3]},
                {"scribble": [[1, 1], [2, 2]], "width": 2},
                {"polygon": [[1, 1], [3, 1], [2, 3]]},
                {"mask": {"size": [5, 7], "counts": [3, 4, 28]}},
                {"text": "a cat"},
                {"reference": {"image": {"png": "@"}, "mask": {"size": [2, 2], "counts": [0, 4]}}},
                {"frame": 9, "forget": True},
            ],
        }
    ],
}


def valid() -> dict[str, Any]:
    from vos.prompt_writing import write_document

    picture = ReferencePrompt(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    shown: Any = write_document([TimedPrompt(picture)])["objects"]
    document: dict[str, Any] = json.loads(json.dumps(VALID))
    document["objects"][0]["prompts"][6]["reference"]["image"] = shown[0]["prompts"][0]["reference"]["image"]
    return document


def read(document: Any, folder: Path, target: PromptTarget = TARGET) -> PromptFile:
    path = folder / "p.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_prompts(path, target)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_kind_is_read(tmp_path: Path) -> None:
    found = read(valid(), tmp_path)
    kinds = [PointPrompt, BoxPrompt, ScribblePrompt, PolygonPrompt, MaskPrompt, TextPrompt, ReferencePrompt, Forget]
    assert [type(item.prompt) for item in found.prompts] == kinds
    assert [item.when for item in found.prompts] == [3, Seconds(1.5), None, None, None, None, None, 9]
    assert found.names == {1: "cat"}
    CHECK.validate(valid())


def _set(*path: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        *way, last, value = path
        for step in way:
            document = document[step]
        document[last] = value

    return change


P = ("objects", 0, "prompts")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("version", 2), "version: this program reads version 1, not 2; update seem-vos"),
        (_set("version", True), "version: this program reads version 1, not true"),
        (_set("extra", 1), "a file of prompts has no field 'extra'"),
        (_set("objects", {}), "objects: is a list, not {}"),
        (_set("objects", 0, 3), "objects[0]: an object is an object {...}, not 3"),
        (_set("objects", 0, "id", 0), "objects[0].id: is a whole number from 1 on, not 0"),
        (_set("objects", 0, "id", 65536), "objects[0].id: is a whole number from 1 to 65535, not 65536"),
        (_set("objects", 0, "colour", "red"), "objects[0]: an object has no field 'colour'"),
        (_set("objects", 0, "name", ""), "objects[0].name: is a text that is not empty"),
        (_set("objects", 0, "prompts", []), "objects[0].prompts: is a list of at least 1"),
        (_set(*P, 0, "frame", -1), "objects[0].prompts[0].frame: is a whole number from 0 on, not -1"),
        (_set(*P, 0, "frame", 1.5), "objects[0].prompts[0].frame: is a whole number"),
        (_set(*P, 0, "seconds", 1), "objects[0].prompts[0]: give 'frame' or 'seconds', not both"),
        (_set(*P, 1, "seconds", -1), "objects[0].prompts[1].seconds: is a number from 0 on, not -1"),
        (_set(*P, 0, "box", [1, 2, 3, 4]), "objects[0].prompts[0]: a prompt has one of"),
        (_set(*P, 0, {"frame": 3}), "; it has none"),
        (_set(*P, 0, "point", [1]), "objects[0].prompts[0].point: is a list of 2 numbers, not [1]"),
        (_set(*P, 0, "point", [1, True]), "objects[0].prompts[0].point: is a list of 2 numbers, not [1, true]"),
        (_set(*P, 0, "positive", 1), "objects[0].prompts[0].positive: is true or false, not 1"),
        (_set(*P, 0, "width", 1), "objects[0].prompts[0]: a prompt has no field 'width'"),
        (_set(*P, 1, "positive", True), "objects[0].prompts[1]: a prompt has no field 'positive'"),
        (_set(*P, 1, "box", [3, 0, 1, 3]), "objects[0].prompts[1].box: box 3,0,1,3 is empty"),
        (_set(*P, 2, "scribble", []), "objects[0].prompts[2].scribble: is a list of at least 1"),
        (_set(*P, 2, "scribble", 1, [1, 2, 3]), "objects[0].prompts[2].scribble[1]: is a list of 2 numbers"),
        (_set(*P, 2, "width", 0), "objects[0].prompts[2].width: is a number of pixels above 0"),
        (_set(*P, 3, "polygon", [[1, 1], [2, 2]]), "objects[0].prompts[3].polygon: is a list of at least 3"),
        (_set(*P, 4, "mask", 7), "objects[0].prompts[4].mask: a mask is an object {...}, not 7"),
        (_set(*P, 4, "mask", {"size": [5, 7], "counts": [35]}), "objects[0].prompts[4].mask: the mask is empty"),
        (_set(*P, 4, "mask", {"size": [5, 6], "counts": [0, 30]}), "mask: the mask is 6x5 (size is [height, width])"),
        (_set(*P, 4, "mask", {"size": [5, 7], "counts": [1]}), "objects[0].prompts[4].mask: the runs add up to 1"),
        (_set(*P, 4, "mask", {"size": [5, 7], "counts": [1.5]}), "mask: counts is a text or a list of whole numbers"),
        (_set(*P, 4, "mask", {"size": [5, 7]}), "objects[0].prompts[4].mask: a mask needs the field 'counts'"),
        (_set(*P, 4, "mask", "none.png"), "objects[0].prompts[4].mask: mask "),
        (_set(*P, 4, "mask", {"path": "none.png", "x": 1}), "objects[0].prompts[4].mask: a mask has no field 'x'"),
        (_set(*P, 5, "text", " "), "objects[0].prompts[5].text: is a text that is not empty"),
        (_set(*P, 6, "reference", {}), "objects[0].prompts[6].reference: a reference needs the field 'image' or"),
        (_set(*P, 6, "reference", "image", "none.jpg"), "objects[0].prompts[6].reference.image: none.jpg cannot be"),
        (_set(*P, 6, "reference", "image", {"png": "zzz"}), "prompts[6].reference.image: is not a PNG picture"),
        (_set(*P, 6, "reference", "frame", 3), "objects[0].prompts[6].reference: a reference has no field 'frame'"),
        (
            _set(*P, 6, "reference", {"video": "none.mp4", "mask": "m.png"}),
            "objects[0].prompts[6].reference.video: cannot read",
        ),
        (_set(*P, 7, "forget", False), "objects[0].prompts[7].forget: is true, or left out"),
        (lambda document: document.pop("version"), "a file of prompts needs the field 'version'"),
        (lambda document: document["objects"][0].pop("id"), "objects[0]: an object needs the field 'id'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    document = valid()
    change(document)
    with pytest.raises(VosError) as caught:
        read(document, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'p.json'}: ")
    assert message in said
    assert said.count("p.json") == 1
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no prompts: begin with"),
        ("{}", "holds no prompts: begin with"),
        ('{"version": 1, "version": 1, "objects": []}', "the field 'version' is given twice"),
        ('{"version": 1, "objects": [{"id": 1, "prompts": [{"point": [NaN, 1]}]}]}', "NaN is not a number"),
        ('{"version": 1, "objects": [{"id": 1, "prompts": [{"point": [1e999, 1]}]}]}', "is a list of 2 numbers"),
        ("[" * 100_000, "is not JSON"),
        ('{"state": "done", "options": {}}', "options: the options of a run needs the field 'prompts'"),
    ],
)
def test_what_is_no_file_of_prompts(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        read(text, tmp_path)
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(tmp_path / "none.json", TARGET)
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(tmp_path, TARGET)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70000) | st.floats(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def _nodes(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([way] if way else []), *(node for step, inner in steps for node in _nodes(inner, (*way, step)))]


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_is_read_fits_the_schema(data: st.DataObject) -> None:
    document = valid()
    way = data.draw(st.sampled_from(_nodes(document)))
    _set(*way, data.draw(anything))(document)
    with tempfile.TemporaryDirectory() as folder, suppress(VosError):
        read(document, Path(folder))
        CHECK.validate(document)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_an_unknown_field_is_refused_everywhere_and_by_the_schema(data: st.DataObject) -> None:
    document = valid()
    objects = [way for way in [(), *_nodes(document)] if isinstance(_at(document, way), dict)]
    _set(*data.draw(st.sampled_from(objects)), "unheard", 1)(document)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(VosError, match="unheard"):
        read(document, Path(folder))
    with pytest.raises(jsonschema.ValidationError):
        CHECK.validate(document)


def _at(value: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


# ---- files that are named in it


def test_masks_and_references_lie_beside_the_file(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[0], labels[3] = 2, 5
    vos.write_labels(tmp_path / "both.png", labels)
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "other.png")
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / "one.png")
    document = {
        "version": 1,
        "objects": [
            {"id": 2, "prompts": [{"mask": "both.png"}, {"frame": 4, "mask": {"path": "both.png", "value": 5}}]},
            {"id": 7, "prompts": [{"reference": {"image": "other.png", "mask": "one.png"}}]},
            {"id": 8, "prompts": [{"reference": {"image": "other.png", "mask": "one.png"}}]},
        ],
    }
    found = read(document, tmp_path)
    first, second, shown, shown_too = (item.prompt for item in found.prompts)
    assert isinstance(first, MaskPrompt)
    assert isinstance(second, MaskPrompt)
    assert isinstance(shown, ReferencePrompt)
    assert first.mask[0].all()
    assert not first.mask[1:].any()
    assert second.mask[3].all()
    assert shown.image.shape == (4, 6, 3)
    assert shown.mask.all()
    assert isinstance(shown_too, ReferencePrompt)
    assert shown_too.image is shown.image  # read once
    assert Counter(found.files.values()) == {"mask": 2, "reference": 1}
    assert found.prompts[2].origin.picture == tmp_path / "other.png"
    write_prompts(tmp_path / "again.json", found.prompts)
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["objects"][1]["prompts"][0]["reference"]["image"] == "other.png"
    document["objects"] = [{"id": 3, "prompts": [{"mask": "both.png"}]}]
    with pytest.raises(MaskError, match=r'both\.png holds the values 2, 5 and not 3; say which one with "value"'):
        read(document, tmp_path)


def test_a_frame_of_another_video_is_a_reference(tmp_path: Path) -> None:
    write_clip(tmp_path / "other.mp4")
    write_mask(tmp_path / "there.png", 6)
    reference = {"video": "other.mp4", "frame": 6, "mask": "there.png"}
    document = {"version": 1, "objects": [{"id": 1, "prompts": [{"reference": reference}]}]}
    found = read(document, tmp_path)
    (item,) = found.prompts
    assert isinstance(item.prompt, ReferencePrompt)
    with vos.open_video(tmp_path / "other.mp4") as video:
        assert (item.prompt.image == video[6].image).all()
    assert (item.prompt.mask == square(6)).all()
    write_prompts(tmp_path / "again.json", found.prompts)
    again = json.loads((tmp_path / "again.json").read_text())["objects"][0]["prompts"][0]["reference"]
    assert (again["video"], again["frame"]) == ("other.mp4", 6)
    reference["frame"] = 99
    with pytest.raises(PromptError, match=r"prompts\[0\]\.reference\.video: .*other\.mp4 has frames 0\.\.11"):
        read(document, tmp_path)
    reference.pop("frame")
    (item,) = read(document | {"objects": [{"id": 1, "prompts": [{"reference": reference}]}]}, tmp_path).prompts
    assert item.origin.frame == 0


def test_python_takes_files_and_references(tmp_path: Path) -> None:
    write_mask(tmp_path / "cat.png", 3)
    document = {"version": 1, "objects": [{"id": 4, "name": "cat", "prompts": [{"frame": 3, "mask": "cat.png"}]}]}
    (tmp_path / "p.json").write_text(json.dumps(document))
    path = tmp_path / "p.json"
    for items, last in ((path, (4,)), (str(path), (4,)), ([str(path), FramePrompt(9, Forget(4))], ())):
        found = [result.masks.ids for result in vos.track(Clip(), items, tracker="copy")]
        assert found == [()] * 3 + [(4,)] * 6 + [last] * 3
    document["objects"][0]["prompts"][0]["frame"] = 40  # type: ignore[index]
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(PromptError, match=r"p\.json: objects\[0\]\.prompts\[0\]\.mask: frame 40 of a prompt is past"):
        vos.track(Clip(), tmp_path / "p.json", tracker="copy")
    with pytest.raises(PromptError, match="object 1 is given in words, which needs a model"):
        vos.track(Clip(), TextPrompt("a cat"), tracker="copy")
    with pytest.raises(VideoError, match=r"none\.jpg"):
        vos.track(Clip(), ReferenceFile(tmp_path / "none.jpg", tmp_path / "cat.png"), tracker="copy")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(MaskError, match="64x48, the video is 9x9"):
        vos.track(Clip(), ReferenceFile(tmp_path / "small.png", tmp_path / "cat.png"), tracker="copy")


def test_a_run_is_repeated_from_its_run_json(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    write_mask(tmp_path / "cat.png", 2)
    (tmp_path / "p.json").write_text(
        json.dumps({"version": 1, "objects": [{"id": 2, "name": "cat", "prompts": [{"frame": 2, "mask": "cat.png"}]}]})
    )
    given = [
        tmp_path / "p.json",
        FramePrompt(5, BoxPrompt(2.5, 3, 20, 30, 9)),
        TimedPrompt(Forget(2), Seconds(8 / 24)),
    ]
    track_to_folder(tmp_path / "clip.mp4", tmp_path / "one", given, options=vos.TrackOptions("copy"), save={"masks"})
    run = read_run(tmp_path / "one")
    assert [item.role for item in run.inputs] == ["video", "prompts", "mask"]
    document = run.options["prompts"]
    CHECK.validate(document)
    assert document["objects"][0]["name"] == "cat"  # type: ignore[index, call-overload]
    (tmp_path / "cat.png").unlink()  # the masks lie in run.json
    again = track_to_folder(
        tmp_path / "clip.mp4",
        tmp_path / "two",
        tmp_path / "one" / "run.json",
        options=vos.TrackOptions("copy"),
        save={"masks"},
    )
    assert again.warnings == ()
    for mask in sorted((tmp_path / "one" / "masks").iterdir()):
        assert mask.read_bytes() == (tmp_path / "two" / "masks" / mask.name).read_bytes()
    assert read_run(tmp_path / "two").options["prompts"] == document
    write_clip(tmp_path / "other.mp4")
    other = track_to_folder(
        tmp_path / "other.mp4",
        tmp_path / "three",
        tmp_path / "one" / "run.json",
        options=vos.TrackOptions("copy"),
        save={"masks"},
    )
    assert len(other.warnings) == 1
    assert "was made for" in other.warnings[0]


def test_the_size_of_masks_is_that_of_the_frames() -> None:
    assert PromptTarget.video(Clip()).size == (HEIGHT, WIDTH)
