"""Training data from every layout: what is found, what is left out, what is merged, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from seem_core.coco_masks import decode_rle, encode_rle, fill_polygon
from seem_core.errors import DatasetError, InputError
from seem_core.training.coco_instances import (
    CocoPicture,
    decode_segmentation,
    read_coco,
    refine_masks,
)
from seem_core.training.data_sources import DataSpec, MaskFile, find_clips, recognise
from seem_core.training.pack import Pack, pack

SIZE = (48, 64)


def labels_with(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """(H, W) uint8: id, rows r0:r1 and columns c0:c1."""
    labels = np.zeros(SIZE, np.uint8)
    for value, r0, r1, c0, c1 in boxes:
        labels[r0:r1, c0:c1] = value
    return labels


BOX = labels_with((1, 10, 30, 10, 40))


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png" and picture.ndim == 2:
        Image.fromarray(picture).save(path)
    else:
        cv2.imwrite(str(path), picture)
    return path


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)


def clip_names(spec: DataSpec, **more: Any) -> list[str]:
    return [clip.name for clip in find_clips(spec, **more)]


# --- folders ---------------------------------------------------------------------------------------------------------


def stills(root: Path, names: tuple[str, ...] = ("a", "b"), end: str = ".jpg") -> Path:
    for i, name in enumerate(names):
        save(root / f"images/{name}{end}", picture(i))
        save(root / f"masks/{name}.png", BOX)
    return root


def test_folder_of_pictures(tmp_path: Path) -> None:
    root = stills(tmp_path / "mine")
    stills(root, ("c",), end=".PNG")
    (tmp_path / "heldback.txt").write_text("mine/b 1\n")
    (root / "names.json").write_text(json.dumps({"a": ["background", "dog"]}))
    made = pack(root, tmp_path / "a.pack")
    assert [clip.name for clip in made.clips] == ["mine/a", "mine/c"]
    assert made.classes == ("dog",)
    assert [clip.frames[0].objects[0].category for clip in made.clips] == [0, -1]


def test_folders_of_other_names_and_one_class_for_all(tmp_path: Path) -> None:
    stills(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    (tmp_path / "masks").rename(tmp_path / "truth")
    spec = DataSpec(tmp_path, "folder", images="photos", masks="truth", class_name="screw")
    made = pack([spec], tmp_path / "a.pack")
    assert made.classes == ("screw",)
    assert all(o.category == 0 for clip in made.clips for f in clip.frames for o in f.objects)


def test_ids_can_be_parts_of_one_object(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", labels_with((3, 0, 5, 0, 5), (9, 5, 9, 0, 5), (255, 20, 22, 0, 5)))
    assert set(np.unique(MaskFile(path, merge=True).labels(*SIZE))) == {0, 1}
    assert set(np.unique(MaskFile(path).labels(*SIZE))) == {0, 3, 9, 255}


def test_grey_masks_of_0_and_255_are_binary(tmp_path: Path) -> None:
    assert np.array_equal(MaskFile(save(tmp_path / "m.png", BOX * 255)).labels(*SIZE), BOX)
    assert np.array_equal(MaskFile(save(tmp_path / "b.png", BOX.astype(bool))).labels(*SIZE), BOX)


def test_masks_that_hold_no_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="3 channels"):
        MaskFile(save(tmp_path / "rgb.png", picture())).labels(*SIZE)
    with pytest.raises(DatasetError, match="holds the id 300"):
        MaskFile(save(tmp_path / "wide.png", BOX.astype(np.uint16) * 300)).labels(*SIZE)
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="cannot be read"):
        MaskFile(tmp_path / "none.png").labels(*SIZE)


def test_masks_all_empty_and_no_pictures_are_named(tmp_path: Path) -> None:
    root = stills(tmp_path / "mine")
    for mask in (root / "masks").iterdir():
        save(mask, np.zeros(SIZE, np.uint8))
    with pytest.raises(DatasetError, match=r"masks of all 2 pictures .* are empty"):
        pack(root, tmp_path / "a.pack")
    assert not (tmp_path / "a.pack").exists()
    (tmp_path / "bare/images").mkdir(parents=True)
    (tmp_path / "bare/masks").mkdir()
    with pytest.raises(DatasetError, match="no picture with a mask"):
        pack(tmp_path / "bare", tmp_path / "a.pack")
    with pytest.raises(DatasetError, match="no training data under"):
        recognise(tmp_path)
    with pytest.raises(DatasetError, match="is not there"):
        recognise(tmp_path / "nowhere")


def test_options_belong_to_their_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind 'folder' has no option 'lvis'"):
        DataSpec(tmp_path, "folder", lvis=tmp_path)
    with pytest.raises(InputError, match="needs the kind of data"):
        DataSpec(tmp_path, split="train")


# --- sequences -------------------------------------------------------------------------------------------------------


def sequence(root: Path, name: str, frames: int, resolution: str = "480p") -> None:
    for i in range(frames):
        save(root / "JPEGImages" / resolution / name / f"{i:05d}.jpg", picture(i))
        save(root / "Annotations" / resolution / name / f"{i:05d}.png", BOX)


def test_davis_lists_by_name_and_by_path(tmp_path: Path) -> None:
    for name in ("bear", "boat", "dog"):
        sequence(tmp_path, name, 3)
    sets = tmp_path / "ImageSets"
    (sets / "2017").mkdir(parents=True)
    (sets / "2017/train.txt").write_text("bear\nboat\n")
    (sets / "dev.txt").write_text("boat\n")
    assert recognise(tmp_path) == "davis"
    assert clip_names(DataSpec(tmp_path, "davis")) == [f"{tmp_path.name}/bear"]
    assert clip_names(DataSpec(tmp_path, "davis"), exclude=("bear",)) == []
    (sets / "480p").mkdir()
    (sets / "480p/val.txt").write_text("/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png\n")
    assert clip_names(DataSpec(tmp_path, "davis", split="val")) == [f"{tmp_path.name}/dog"]
    with pytest.raises(DatasetError, match=r"no list test\.txt"):
        clip_names(DataSpec(tmp_path, "davis", split="test"))


def test_only_dense_sequences_are_thinned(tmp_path: Path) -> None:
    sequence(tmp_path, "long", 24)
    sequence(tmp_path, "short", 6)
    long, short = find_clips(DataSpec(tmp_path, "davis", thinning=4))
    assert (len(long.frames), len(short.frames)) == (6, 6)


def test_youtube_vos_with_classes(tmp_path: Path) -> None:
    sequence(tmp_path / "train", "0a", 2, resolution="")
    save(tmp_path / "train/JPEGImages/0a/00002.jpg", picture())  # a picture without a mask is none of ours
    meta = {"videos": {"0a": {"objects": {"1": {"category": "ape", "frames": ["00000"]}}}}}
    (tmp_path / "train/meta.json").write_text(json.dumps(meta))
    assert recognise(tmp_path) == "youtube-vos"
    made = pack(tmp_path, tmp_path / "a.pack")
    assert made.classes == ("ape",)
    assert [len(clip.frames) for clip in made.clips] == [2]


# --- COCO ------------------------------------------------------------------------------------------------------------


def test_polygons_fill_pixels_whose_centre_is_inside() -> None:
    square = np.array([(2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0)])
    mask = fill_polygon(square, 8, 10)
    assert mask.sum() == 12
    assert mask[1:4, 2:6].all()
    assert not fill_polygon(square + 0.6, 8, 10)[1].any()
    assert fill_polygon(square - 3, 8, 10).sum() == 3  # cut off by the border


@given(st.integers(3, 9), st.integers(0, 2**31))
def test_polygons_agree_with_a_crossing_test(corners: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, 20, (corners, 2))
    mask = fill_polygon(points, 15, 17)
    for y, x in rng.integers(0, 15, (10, 2)):
        inside = False
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            cy, cx = y + 0.5, x + 0.5
            if (y0 <= cy) != (y1 <= cy) and cx > x0 + (cy - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
        assert mask[y, x] == inside


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    runs = np.diff(np.r_[starts, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def packed(counts: list[int]) -> str:
    """COCO's compressed text, written from its description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            group, value = value & 0x1F, value >> 5
            more = value != (-1 if group & 0x10 else 0)
            text += chr(48 + (group | 0x20 if more else group))
    return text


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_run_lengths_survive(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    assert encode_rle(mask) == packed(counts)
    for form in (counts, packed(counts)):
        assert np.array_equal(decode_segmentation({"size": list(mask.shape), "counts": form}, *mask.shape), mask)


def test_known_compressed_run_lengths() -> None:
    runs = [5, 2, 2, 2, 5]  # the fourth is 2 + 0, the fifth 2 + 3
    assert np.array_equal(decode_rle((4, 4), "52203"), decode_rle((4, 4), runs))


def annotation(image: int, category: int, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    segmentation = {"size": list(mask.shape), "counts": packed(run_lengths(mask))}
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "area": int(mask.sum()), **more}


def instances(path: Path, annotations: list[dict[str, Any]]) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 8, "file_name": "000008.jpg"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_with_crowds_and_small_objects_on_top(tmp_path: Path) -> None:
    big, small = labels_with((1, 0, 40, 0, 40)) > 0, labels_with((1, 10, 20, 10, 20)) > 0
    crowd = labels_with((1, 0, 48, 50, 64)) > 0
    path = instances(
        tmp_path / "instances.json",
        [annotation(7, 18, small), annotation(7, 3, big), annotation(7, 18, crowd, iscrowd=1)],
    )
    save(tmp_path / "000007.jpg", picture())
    made = pack(path, tmp_path / "a.pack")
    (clip,) = made.clips  # the picture without objects is left out
    labels = made.decode(clip.frames[0])[1]
    assert np.array_equal(labels == 1, small)
    assert np.array_equal(labels == 2, big & ~small)
    assert np.array_equal(labels == 255, crowd)
    assert made.classes == ("dog", "car")
    assert {o.id: made.classes[o.category] for o in clip.frames[0].objects} == {1: "dog", 2: "car"}


def test_lvis_masks_take_the_place_of_coarser_ones(tmp_path: Path) -> None:
    coarse, fine = labels_with((1, 10, 30, 10, 40)) > 0, labels_with((1, 11, 30, 11, 40)) > 0
    other = labels_with((1, 35, 45, 10, 40)) > 0
    path = instances(tmp_path / "coco.json", [annotation(7, 3, coarse), annotation(7, 18, other)])
    lvis = instances(tmp_path / "lvis.json", [annotation(7, 3, fine), annotation(8, 3, other)])
    (plain,), (merged,) = read_coco(path), read_coco(path, lvis)
    assert np.array_equal(plain.labels(*SIZE) == 1, coarse)
    assert np.array_equal(merged.labels(*SIZE) == 1, fine)
    assert np.array_equal(merged.labels(*SIZE) == 2, other)


def test_overlap_by_mask_or_by_box() -> None:
    full = labels_with((1, 10, 30, 10, 30)) > 0
    ring = full.copy()
    ring[12:28, 12:28] = False  # the same box, hardly the same pixels
    assert refine_masks([full], [ring], "mask")[0] is full
    assert refine_masks([full], [ring], "box")[0] is ring
    assert refine_masks([full], [np.zeros_like(full)], "box")[0] is full


def test_damaged_instance_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DatasetError, match="no JSON"):
        read_coco(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DatasetError, match="no COCO instance file"):
        read_coco(tmp_path / "a.json")
    wrong = CocoPicture("x.jpg", ({"segmentation": {"size": [3, 3], "counts": [9]}},), (), {}, where="a.json")
    with pytest.raises(DatasetError, match=r"x\.jpg in a\.json"):
        wrong.labels(*SIZE)


def test_packs_travel_to_other_processes(tmp_path: Path) -> None:
    made = pack(stills(tmp_path / "mine"), tmp_path / "a.pack")
    again: Pack = pickle.loads(pickle.dumps(made))
    assert again.fingerprint == made.fingerprint
    assert np.array_equal(again.decode(again.clips[0].frames[0])[1], BOX)
