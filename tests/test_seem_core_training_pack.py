"""The training pack: round trip, what is left out, damage named."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seem_core.errors import DatasetError
from seem_core.training.data_sources import DataSpec, MaskFile, find_clips
from seem_core.training.pack import Pack, PackOptions, boxes, decode_labels, encode_labels, pack


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 3)))
def test_labels_survive(labels: np.ndarray) -> None:
    assert np.array_equal(decode_labels(encode_labels(labels), *labels.shape), labels)


def test_runs_longer_than_two_bytes_survive() -> None:
    labels = np.zeros((300, 400), np.uint8)
    labels[250:, 100:] = 7
    assert np.array_equal(decode_labels(encode_labels(labels), 300, 400), labels)


def test_boxes() -> None:
    labels = np.zeros((10, 20), np.uint8)
    labels[2:5, 3:9] = 4
    labels[9, 19] = 2
    labels[0, 0] = 255  # ignored by convention
    big, small = sorted(boxes(labels), key=lambda o: -o.area)
    assert (big.id, big.area, big.x0, big.y0, big.x1, big.y1) == (4, 18, 3, 2, 9, 5)
    assert small.id == 2
    assert [o.id for o in boxes(labels, 0.02)] == [4]


def write(root: Path, name: str, image: np.ndarray, labels: np.ndarray, folder: str = "JPEGImages") -> None:
    masks = "Annotations" if folder == "JPEGImages" else "masks"
    source, stem = name.rsplit("/", 1)
    base = root / source if folder == "images" else root
    picture = base / folder / (f"{stem}.jpg" if folder == "images" else f"{name}.jpg")
    mask = base / masks / (f"{stem}.png" if folder == "images" else f"{name}.png")
    for path, content in ((picture, image), (mask, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), content)


def small_root(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for sequence, frames in (("boat", 24), ("flamingo", 3), ("drift-turn", 3)):
        for i in range(frames):
            image = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (80, 60))
            labels = np.zeros((60, 80), np.uint8)
            labels[10:40, 10 + i : 40 + i] = 1
            write(root / "davis", f"288p/{sequence}/{i:05d}", image, labels)
    sets = root / "davis" / "ImageSets"
    sets.mkdir()
    (sets / "train.txt").write_text("boat\ndrift-turn\n")
    (sets / "dev.txt").write_text("flamingo\n")
    for name in ("a", "b"):
        labels = np.zeros((400, 500), np.uint8)
        labels[100:300, 100:300] = 3
        write(root / "still", f"pets/{name}", np.full((400, 500, 3), (200, 100, 50), np.uint8), labels, "images")
    (root / "still" / "heldback.txt").write_text("pets/b 3\n")
    return root


def test_round_trip(tmp_path: Path) -> None:
    made = pack(small_root(tmp_path / "data"), tmp_path / "train.pack", PackOptions(still_side=200))
    assert sorted(clip.name for clip in made.clips) == ["davis/boat", "pets/a"]
    boat, still = (next(c for c in made.clips if c.name == name) for name in ("davis/boat", "pets/a"))
    assert len(boat.frames) == 12  # every second of 24
    assert (still.frames[0].height, still.frames[0].width) == (200, 250)
    image, labels = made.decode(still.frames[0])
    assert np.abs(image.astype(int) - (50, 100, 200)).max() < 12  # RGB
    assert np.array_equal(np.unique(labels), [0, 3])
    (target,) = still.frames[0].objects
    assert (target.id, target.x0, target.y0, target.x1, target.y1) == (3, 50, 50, 150, 150)
    decoded = list(made.decode_all(workers=2))
    assert len(decoded) == 13
    assert np.array_equal(decoded[0][1], made.decode(made.clips[0].frames[0])[1])


def test_nothing_held_back_is_packed(data_root: Path) -> None:
    clips = list(find_clips(DataSpec(data_root), exclude=PackOptions().exclude))
    names = {clip.name for clip in clips}
    banned = [
        f"{source}/{name}"
        for source in ("davis", "clips")
        for file in ("dev.txt", "dev-multi.txt")
        if (data_root / source / "ImageSets" / file).is_file()
        for name in (data_root / source / "ImageSets" / file).read_text().split()
    ]
    stills = [line.split()[0] for line in (data_root / "still" / "heldback.txt").read_text().splitlines()]
    assert len(banned) > 10
    assert len(stills) == 200
    assert not names & {*banned, *stills, "davis/drift-turn", "davis/motocross-bumps"}
    for source, folder in (("davis", "davis"), ("clips", "clips")):
        listed = {f"{source}/{n}" for n in (data_root / folder / "ImageSets" / "train.txt").read_text().split()}
        assert listed - names <= {"davis/drift-turn", "davis/motocross-bumps"}
    assert len(names) > 3400
    # the paths, not only the names: no picture of a held-out sequence under another name
    parts = {frame.image.parent.name for clip in clips if clip.source in ("davis", "clips") for frame in clip.frames}
    assert all(
        frame.image.parent.name == frame.mask.path.parent.name
        for clip in clips
        if clip.source in ("davis", "clips")
        for frame in clip.frames
        if isinstance(frame.mask, MaskFile)
    )
    assert not parts & {name.split("/")[1] for name in banned}


def test_damage_is_named(tmp_path: Path) -> None:
    root = small_root(tmp_path / "data")
    pack(root, tmp_path / "train.pack")
    whole = (tmp_path / "train.pack").read_bytes()
    (tmp_path / "short.pack").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"cut off|cannot be read"):
        Pack(tmp_path / "short.pack")
    (tmp_path / "other.pack").write_bytes(b"something else entirely")
    with pytest.raises(DatasetError, match="no training pack"):
        Pack(tmp_path / "other.pack")
    with pytest.raises(DatasetError, match="cannot be read"):
        Pack(tmp_path / "missing.pack")


def test_mask_of_another_size_and_missing_picture_are_named(tmp_path: Path) -> None:
    root = small_root(tmp_path / "data")
    mask = root / "davis" / "Annotations" / "288p" / "boat" / "00000.png"
    cv2.imwrite(str(mask), np.ones((10, 10), np.uint8))
    with pytest.raises(DatasetError, match=r"00000.png is \(10, 10\)"):
        pack(root, tmp_path / "train.pack")
    (root / "davis" / "JPEGImages" / "288p" / "boat" / "00000.jpg").unlink()
    with pytest.raises(DatasetError, match="missing"):
        pack(root, tmp_path / "train.pack")
    shutil.rmtree(root)
    with pytest.raises(DatasetError, match="is not there"):
        pack(root, tmp_path / "train.pack")
