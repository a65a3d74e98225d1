"""Layouts: where masks, images and lists are found, in each form a dataset comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seem_core.errors import DatasetError
from vos.benchmarks.layouts import AnnotatedSequence, mask_files, open_layout, read_set
from vos.masks import write_labels


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, np.ones((4, 5), np.uint8)) if path.suffix == ".png" else path.write_text("bear\n")


def test_a_davis_root(tmp_path: Path) -> None:
    put(
        tmp_path / "Annotations/480p/bear/00000.png",
        tmp_path / "Annotations/288p/bear/00000.png",
        tmp_path / "JPEGImages/480p/bear/00000.png",
    )
    layout = open_layout(tmp_path)
    assert layout.annotations == tmp_path / "Annotations/480p"
    assert layout.sequence("bear").images == tmp_path / "JPEGImages/480p/bear"
    assert open_layout(tmp_path, "288p").sequence("bear").images is None
    with pytest.raises(DatasetError, match="no resolution 'Full-Resolution'; there is 288p, 480p"):
        open_layout(tmp_path, "Full-Resolution")


def test_a_root_without_resolutions(tmp_path: Path) -> None:
    put(tmp_path / "Annotations/a/00000.png", tmp_path / "JPEGImages/a/00000.png")
    layout = open_layout(tmp_path)
    assert layout.all_names() == ("a",)
    assert layout.sequence("a").images == tmp_path / "JPEGImages/a"


def test_folders_of_masks_and_one_folder(tmp_path: Path) -> None:
    put(tmp_path / "gt/b/1.png", tmp_path / "gt/a10/1.png", tmp_path / "gt/a9/1.png")
    assert open_layout(tmp_path / "gt").all_names() == ("a9", "a10", "b")
    single = open_layout(tmp_path / "gt/b")
    assert single.all_names() == ("b",)
    assert single.sequence("b").frames == ("1",)


def test_what_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no masks"):
        open_layout(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        open_layout(tmp_path / "none")
    put(tmp_path / "gt/a/1.png")
    with pytest.raises(DatasetError, match="'zebra' has no ground-truth masks"):
        open_layout(tmp_path / "gt").sequence("zebra")


def test_lists_are_found_by_year_and_plainly(tmp_path: Path) -> None:
    put(tmp_path / "Annotations/480p/bear/00000.png")
    for place, name in (("2017", "a"), ("2016", "b"), ("480p", "c"), (".", "d")):
        folder = tmp_path / "ImageSets" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"only-{name}.txt").write_text(name)
        (folder / "val.txt").write_text(name)
    layout = open_layout(tmp_path)
    assert layout.set_names("val") == ("a",)
    assert layout.set_names("val", "2016") == ("b",)
    assert layout.set_names("only-c") == ("c",)
    assert layout.set_names("only-d", "2017") == ("d",)
    with pytest.raises(DatasetError, match=r"no set 'test'.*2016/only-b"):
        layout.set_names("test")
    own = tmp_path / "mine.txt"
    own.write_text("x\ny\n")
    assert layout.set_names(str(own)) == ("x", "y")


def test_list_files_of_2016_and_odd_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    lines = [
        f"/JPEGImages/480p/{s}/{i:05d}.jpg /Annotations/480p/{s}/{i:05d}.png" for s in ("bear", "boat") for i in (0, 1)
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["# 2016", *lines, ""]).encode())
    assert read_set(path) == ("bear", "boat")
    path.write_text("\n\n")
    with pytest.raises(DatasetError, match="names no sequence"):
        read_set(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_set(path)


@pytest.mark.parametrize(
    ("frames", "sparse"),
    [(("00000", "00001", "00002"), False), (("5", "6"), False), (("00000", "00009"), True), (("a", "c"), False)],
)
def test_sparse_is_numbered_with_gaps(frames: tuple[str, ...], sparse: bool) -> None:
    assert AnnotatedSequence("x", {f: Path(f) for f in frames}, None).is_sparse == sparse


def test_masks_come_in_natural_order_and_hidden_files_do_not(tmp_path: Path) -> None:
    put(*(tmp_path / "s" / name for name in ("10.png", "9.png", ".8.png", "7.txt")))
    assert list(mask_files(tmp_path / "s")) == ["9", "10"]


def test_the_real_layouts(data_root: Path) -> None:
    davis, clips = open_layout(data_root / "davis"), open_layout(data_root / "clips")
    assert len(davis.set_names("dev")) == 8
    assert davis.set_names("dev-multi") == ("schoolgirls",)
    assert not davis.sequence("schoolgirls").is_sparse
    assert len(clips.set_names("dev-multi")) == 5
    assert all(clips.sequence(name).is_sparse for name in clips.set_names("dev-multi"))
