"""Prompts of other tools: DAVIS scribbles, labelme shapes and COCO annotations, known by their content."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Clip
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vos
from seem_core.coco_masks import encode_rle
from seem_core.errors import MaskError, PromptError, VosError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, Prompt, ScribblePrompt
from vos.areas import fill_polygons
from vos.prompt_file import PromptFile, PromptTarget, frame_number, read_prompts
from vos.prompt_json import Numbering

SIZE = (20, 40)
TARGET = PromptTarget(SIZE, frame_number)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PromptFile]:
    def from_text(document: Any, target: PromptTarget = TARGET, name: str = "p.json", **options: Any) -> PromptFile:
        (tmp_path / name).write_text(json.dumps(document))
        return read_prompts(tmp_path / name, target, **options)

    return from_text


Read = Callable[..., PromptFile]


def kinds(file: PromptFile) -> list[tuple[type[Prompt], int, Any]]:
    return [(type(item.prompt), item.prompt.object_id, item.when) for item in file.prompts]


def box_of(prompt: Any) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask's pixels, x1 and y1 excluded."""
    assert isinstance(prompt, MaskPrompt)
    rows, columns = np.flatnonzero(prompt.mask.any(1)), np.flatnonzero(prompt.mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# ---- areas


@given(st.integers(0, 30), st.integers(0, 15), st.integers(1, 9), st.integers(1, 4))
def test_a_rectangle_of_whole_pixels_is_filled_exactly(x: int, y: int, w: int, h: int) -> None:
    corners = tuple((a - 0.5, b - 0.5) for a, b in ((x, y), (x + w, y), (x + w, y + h), (x, y + h)))
    expected = np.zeros(SIZE, bool)
    expected[y : y + h, x : x + w] = True
    assert (fill_polygons([corners], SIZE) == expected).all()


def test_a_polygon_has_its_area_and_parts_add_up() -> None:
    triangle = ((1.5, 1.5), (121.5, 1.5), (1.5, 91.5))
    assert abs(fill_polygons([triangle], (100, 130)).sum() - 120 * 90 / 2) < 60
    parts = [((0, 0), (5, 0), (5, 5), (0, 5)), ((3, 3), (9, 3), (9, 9), (3, 9))]
    both = fill_polygons(parts, SIZE)
    assert (both == (fill_polygons(parts[:1], SIZE) | fill_polygons(parts[1:], SIZE))).all()
    assert not fill_polygons([((50, 50), (60, 50), (60, 60))], SIZE).any()


# ---- DAVIS


def davis(*strokes: tuple[int, int, list[list[float]]], frames: int = 9) -> dict[str, Any]:
    lists: list[list[dict[str, Any]]] = [[] for _ in range(frames)]
    for frame, object_id, path in strokes:
        lists[frame].append({"path": path, "object_id": object_id, "start_time": 0, "end_time": 900})
    return {"scribbles": lists, "sequence": "dogs", "annotated_frame": 3}


def test_davis_scribbles_are_fractions_of_the_picture(read: Read) -> None:
    file = read(davis((3, 2, [[0, 0], [1, 1]]), (3, 1, [[0.5, 0.5]])))
    assert [(item.prompt, item.when) for item in file.prompts] == [
        (ScribblePrompt(((0, 0), (39, 19)), object_id=2), 3),
        (ScribblePrompt(((19.5, 9.5),), object_id=1), 3),
    ]
    assert file.warnings == ("p.json was read as DAVIS scribbles: objects 1, 2 on frames 3",)


def test_davis_background_is_what_every_object_is_not(read: Read) -> None:
    file = read(davis((0, 1, [[0, 0]]), (2, 0, [[0, 1]]), (5, 4, [[1, 1]]), (5, 0, [[1, 0]])))
    signs = [(item.when, item.prompt.object_id, getattr(item.prompt, "positive", None)) for item in file.prompts]
    assert signs == [(0, 1, True), (2, 1, False), (5, 4, True), (5, 1, False), (5, 4, False)]


def test_davis_scribbles_on_a_picture(read: Read) -> None:
    target = replace(TARGET, timeless=True)
    assert kinds(read(davis((3, 1, [[0, 0]])), target)) == [(ScribblePrompt, 1, None)]
    with pytest.raises(PromptError, match="strokes lie on frames 0, 3, but a picture has no frames"):
        read(davis((3, 1, [[0, 0]]), (0, 1, [[0, 0]])), target)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (davis((3, 1, [[0, 1.2]])), "p.json: scribbles[3][0].path: has coordinates outside 0..1"),
        (davis((3, 0, [[0, 1]])), "p.json: scribbles: no stroke lies on an object"),
        (davis((3, 70000, [[0, 1]])), "p.json: scribbles[3][0].object_id: is a whole number up to 65535"),
        (davis((3, 1, [])), "p.json: scribbles[3][0].path: is a list of at least 1"),
        ({"scribbles": [3]}, "p.json: scribbles[0]: is a list of strokes, not 3"),
        ({"scribbles": [[{"path": [[0, 0]]}]]}, "p.json: scribbles[0][0]: a stroke needs the field 'object_id'"),
    ],
)
def test_what_are_no_davis_scribbles(read: Read, document: Any, words: str) -> None:
    with pytest.raises(PromptError, match=re.escape(words)):
        read(document)


def test_a_davis_stroke_past_the_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(davis((15, 1, [[0, 0]]), frames=20)))
    with pytest.raises(PromptError, match=r"p\.json: scribbles\[15\]\[0\]: frame 15 of a prompt is past the end"):
        vos.track(Clip(), tmp_path / "p.json", tracker="copy")


# ---- labelme


def labelme(*shapes: tuple[Any, ...], name: str = "clip_00007.jpg", size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Shapes as (label, type, points, group)."""
    listed = [
        {"label": s[0], "shape_type": s[1], "points": s[2], "group_id": s[3] if len(s) > 3 else None, "flags": {}}
        for s in shapes
    ]
    return {
        "version": "5.5.0", "flags": {}, "shapes": listed, "imagePath": name, "imageData": None,
        "imageHeight": size[0], "imageWidth": size[1],
    }  # fmt: skip


SQUARE = [[10, 5], [20, 5], [20, 15], [10, 15]]


def test_labelme_shapes_become_prompts_of_objects_by_label(read: Read) -> None:
    file = read(
        labelme(
            ("cat", "polygon", SQUARE),
            ("dog", "rectangle", [[30, 10], [22, 2]]),
            ("cat", "point", [[12.5, 7.5]]),
            ("ball", "linestrip", [[1.5, 1.5], [3.5, 1.5]]),
            ("moon", "circle", [[30, 15], [33, 15]]),
        )
    )
    assert kinds(file) == [
        (MaskPrompt, 1, 7), (BoxPrompt, 2, 7), (PointPrompt, 1, 7), (ScribblePrompt, 3, 7), (MaskPrompt, 4, 7),
    ]  # fmt: skip
    square, box, point, line, moon = (item.prompt for item in file.prompts)
    assert box_of(square) == (10, 5, 20, 15)
    assert box == BoxPrompt(21.5, 1.5, 29.5, 9.5, 2)  # from the corner of the picture to centres of pixels
    assert point == PointPrompt(12, 7, True, 1)
    assert line == ScribblePrompt(((1, 1), (3, 1)), object_id=3)
    assert isinstance(moon, MaskPrompt)
    assert abs(moon.mask.sum() - np.pi * 9) < 4
    assert file.names == {1: "cat", 2: "dog", 3: "ball", 4: "moon"}
    (note,) = file.warnings
    assert note == (
        "p.json was read as labelme shapes on frame 7: cat = object 1, dog = object 2, ball = object 3, moon = object 4"
    )


def test_labelme_groups_and_several_areas_of_one_label(read: Read) -> None:
    far = [[30, 1], [35, 1], [35, 6]]
    grouped = read(labelme(("cat", "polygon", SQUARE, 5), ("cat", "polygon", far, 5), ("cat", "polygon", far, 6)))
    assert kinds(grouped) == [(MaskPrompt, 1, 7), (MaskPrompt, 2, 7)]
    assert box_of(grouped.prompts[0].prompt) == (10, 1, 35, 15)
    alone = read(labelme(("cat", "polygon", SQUARE), ("cat", "polygon", far)))
    assert kinds(alone) == [(MaskPrompt, 1, 7), (MaskPrompt, 2, 7)]
    numbered = read(labelme(("3", "polygon", SQUARE), ("3", "polygon", far), ("12", "point", [[1, 1]])))
    assert kinds(numbered) == [(MaskPrompt, 3, 7), (PointPrompt, 12, 7)]
    assert numbered.names == {}
    with pytest.raises(PromptError, match=r"shapes\[2\]: 2 areas are labelled 'cat', and this does not say which"):
        read(labelme(("cat", "polygon", SQUARE), ("cat", "polygon", far), ("cat", "point", [[1, 1]])))


def test_a_label_means_the_same_object_in_every_file(read: Read) -> None:
    numbering = Numbering()
    ours = {"version": 1, "objects": [{"id": 7, "name": "cat", "prompts": [{"point": [1, 1]}]}]}
    read(ours, name="ours.json", numbering=numbering)
    one = labelme(("dog", "point", [[1, 1]]), ("cat", "point", [[2, 2]]))
    two = labelme(("bird", "point", [[1, 1]]), ("dog", "point", [[2, 2]]), name="9.png")
    assert kinds(read(one, numbering=numbering)) == [(PointPrompt, 1, 7), (PointPrompt, 7, 7)]
    assert kinds(read(two, name="two.json", numbering=numbering)) == [(PointPrompt, 2, 9), (PointPrompt, 1, 9)]


def test_labelme_masks_and_pictures_of_another_size(read: Read) -> None:
    patch = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(patch, "PNG")
    document = labelme(("cat", "mask", [[4, 3], [5, 4]]))
    document["shapes"][0]["mask"] = base64.b64encode(patch.getvalue()).decode()
    (item,) = read(document).prompts
    assert isinstance(item.prompt, MaskPrompt)
    assert np.argwhere(item.prompt.mask).tolist() == [[3, 4], [4, 4], [4, 5]]
    double = read(labelme(("cat", "polygon", [[2 * x, 2 * y] for x, y in SQUARE]), size=(40, 80)))
    assert box_of(double.prompts[0].prompt) == (10, 5, 20, 15)
    with pytest.raises(MaskError, match="it was drawn on a picture of 30x40, the video is 40x20"):
        read(labelme(("cat", "polygon", SQUARE), size=(40, 30)))


def test_what_labelme_calls_no_frame_is_the_first_one(read: Read) -> None:
    file = read(labelme(("cat", "point", [[1, 1]]), name="holiday.jpg"))
    assert kinds(file) == [(PointPrompt, 1, None)]
    assert "on the first tracked frame" in file.warnings[0]
    assert kinds(read(labelme(("cat", "point", [[1, 1]])), replace(TARGET, timeless=True))) == [(PointPrompt, 1, None)]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("cat", "cube", SQUARE), 'shapes[0].shape_type: "cube" is not known'),
        (("cat", "polygon", SQUARE[:2]), "shapes[0].points: is a list of at least 3"),
        (("cat", "rectangle", [[1, 1], [1, 5]]), "shapes[0].points: the rectangle is empty"),
        (("cat", "polygon", [[1, 1], [1, 5], [1, 3]]), "shapes[0].points: the area is empty"),
        (("cat", "mask", [[1, 1], [1, 5]]), "shapes[0]: a shape needs the field 'mask'"),
        (("", "point", [[1, 1]]), "shapes[0].label: is a text that is not empty"),
        (("cat", "point", [[1, 1]], [2]), "shapes[0].group_id: is a whole number or null, not [2]"),
    ],
)
def test_what_is_no_labelme_shape(read: Read, shape: tuple[Any, ...], words: str) -> None:
    with pytest.raises(VosError, match=re.escape(f"p.json: {words}")):
        read(labelme(shape))


# ---- COCO


def coco(*annotations: dict[str, Any], images: tuple[str, ...] = ("00003.jpg",)) -> dict[str, Any]:
    listed = [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(images)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    whole = [{"id": i, "image_id": 0, "category_id": 1, "iscrowd": 0, **a} for i, a in enumerate(annotations)]
    return {"info": {}, "licenses": [], "images": listed, "annotations": whole, "categories": categories}


FLAT = [10, 5, 20, 5, 20, 15, 10, 15]


def test_coco_polygons_runs_and_boxes(read: Read) -> None:
    mask = np.zeros(SIZE, bool)
    mask[2:4, 30:33] = True
    file = read(
        coco(
            {"segmentation": [FLAT, [30, 0, 34, 0, 34, 2, 30, 2]]},
            {"segmentation": {"size": [*SIZE], "counts": encode_rle(mask)}, "category_id": 2},
            {"segmentation": [], "bbox": [5, 5, 10, 4]},
        )
    )
    assert kinds(file) == [(MaskPrompt, 1, 3), (MaskPrompt, 2, 3), (BoxPrompt, 3, 3)]
    polygons, runs, box = (item.prompt for item in file.prompts)
    assert isinstance(polygons, MaskPrompt)
    assert polygons.mask.sum() == 108
    assert isinstance(runs, MaskPrompt)
    assert (runs.mask == mask).all()
    assert box == BoxPrompt(4.5, 4.5, 14.5, 8.5, 3)
    assert file.names == {1: "cat", 2: "dog", 3: "cat"}
    (note,) = file.warnings
    assert note == ("p.json was read as COCO annotations on frames 3: cat = object 1, dog = object 2, cat = object 3")


def test_coco_objects_over_several_images(read: Read) -> None:
    images = ("3.jpg", "frame_000009.png")
    poly = {"segmentation": [FLAT]}
    by_category = coco(poly, {**poly, "category_id": 2}, {**poly, "image_id": 1, "category_id": 2}, images=images)
    assert kinds(read(by_category)) == [(MaskPrompt, 1, 3), (MaskPrompt, 2, 3), (MaskPrompt, 2, 9)]
    tracks: list[dict[str, Any]] = [
        {**poly, "track_id": 8},
        {**poly, "attributes": {"occluded": False, "track_id": 4}},
        {**poly, "image_id": 1, "track_id": 4},
    ]
    assert kinds(read(coco(*tracks, images=images))) == [(MaskPrompt, 1, 3), (MaskPrompt, 2, 3), (MaskPrompt, 2, 9)]
    with pytest.raises(PromptError, match=r"annotations\[0\]: 2 annotations of one image are called 'cat'"):
        read(coco(poly, poly, {**poly, "image_id": 1}, images=images))


def test_coco_images_are_the_frames_of_their_names(read: Read, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "frames" / name)
    target = PromptTarget.video(vos.open_video(tmp_path / "frames"))
    poly = {"segmentation": [FLAT]}
    images = ("train/c.jpg", "z.jpg", "b.jpg")
    file = read(coco(poly, {**poly, "image_id": 1}, {**poly, "image_id": 2}, images=images), target)
    assert kinds(file) == [(MaskPrompt, 1, 2), (MaskPrompt, 1, 1)]
    assert "(1 annotations of other images were passed over)" in file.warnings[0]
    with pytest.raises(PromptError, match="none of them is a frame of the video"):
        read(coco(poly, images=("x.jpg", "z.jpg")), target)
    assert kinds(read(coco(poly, images=("holiday.jpg",)))) == [(MaskPrompt, 1, None)]
    picture = PromptTarget.picture(Path("b.png"), SIZE)
    assert kinds(read(coco(poly, {**poly, "image_id": 2}, images=images), picture)) == [(MaskPrompt, 1, None)]
    by_field = coco(poly, poly, images=("x.jpg", "z.jpg"))
    by_field["images"][0]["frame_id"] = 6
    assert {when for *_, when in kinds(read(by_field))} == {6}


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"image_id": 7}, "annotations[0].image_id: 7 is none of the images"),
        ({"segmentation": [FLAT[:-1]]}, "annotations[0].segmentation[0]: a polygon is a list x, y, x, y, ... of"),
        ({"segmentation": [FLAT[:4]]}, "annotations[0].segmentation[0]: a polygon is a list x, y, x, y, ... of"),
        ({"segmentation": [["a", *FLAT[1:]]]}, "annotations[0].segmentation[0].corners[0]: is a list of 2 numbers"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "annotations[0].segmentation: the mask is empty"),
        ({"segmentation": {"size": [9, 9], "counts": "0"}}, "annotations[0].segmentation: its size is 9x9, that of"),
        ({"segmentation": {"size": [*SIZE], "counts": 4}}, "annotations[0].segmentation: counts is a text or a list"),
        ({"segmentation": {"size": [*SIZE], "counts": [3]}}, "annotations[0].segmentation: the runs add up to 3"),
        ({"bbox": [1, 1, 0, 4]}, "annotations[0].bbox: is empty; it is x, y, width and height"),
        ({}, "annotations[0]: an annotation needs the field 'bbox'"),
    ],
)
def test_what_is_no_coco_annotation(read: Read, annotation: dict[str, Any], words: str) -> None:
    with pytest.raises(VosError, match=re.escape(f"p.json: {words}")):
        read(coco(annotation))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("00040.jpg", 40), ("a/b/clip_00040.png", 40), ("a\\b\\frame7.jpg", 7), ("clip-2.0012.jpg", 12), ("12", 12),
        ("cat.jpg", None), ("cat2.jpg", None), ("", None), ("7.cat.jpg", None),
    ],
)  # fmt: skip
def test_the_frame_that_a_name_says(name: str, number: int | None) -> None:
    assert frame_number(name) == number


def test_the_target_of_a_clip_goes_by_numbers() -> None:
    target = PromptTarget.video(Clip())
    assert target.size == (HEIGHT, WIDTH)
    assert target.frame_called("frame_0003.png") == 3


def test_files_of_one_run_share_their_numbering(tmp_path: Path) -> None:
    area = [[4, 20], [20, 20], [20, 30], [4, 30]]
    for name, label, frame in (("a.json", "dog", 0), ("b.json", "bird", 3), ("c.json", "dog", 5)):
        (tmp_path / name).write_text(
            json.dumps(labelme((label, "polygon", area), name=f"{frame}.png", size=(HEIGHT, WIDTH)))
        )
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    found = [result.masks.ids for result in vos.track(Clip(), files, tracker="copy")]
    assert found == [(1,)] * 3 + [(1, 2)] * 9
