"""Folders of images as videos: order, names, pixel formats, gaps, and folders that are refused."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seem_core.errors import VideoError
from vos.frames import VideoSource
from vos.images import ImageSequence, natural_key, read_image
from vos.video import open_video


def picture(seed: int = 0, height: int = 6, width: int = 9) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, seed: int = 0, height: int = 6, width: int = 9) -> npt.NDArray[np.uint8]:
    image = picture(seed, height, width)
    Image.fromarray(image).save(path)
    return image


def test_natural_order_names_times_and_random_access(tmp_path: Path) -> None:
    names = ["a1.png", "a2.PNG", "A10.bmp", "a0011.tiff", "b.webp"]
    images = {}
    for seed, name in enumerate(reversed(names)):
        image = picture(seed)
        Image.fromarray(image).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        images[name] = image
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a1.png").write_bytes(b"left by a file manager")

    source = open_video(tmp_path, rate=10)
    assert isinstance(source, VideoSource)
    frames = list(source)
    assert [frame.name for frame in frames] == ["a1", "a2", "A10", "a0011", "b"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.seconds for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    for frame, name in zip(frames, names, strict=True):
        np.testing.assert_array_equal(frame.image, images[name])
        np.testing.assert_array_equal(source[frame.index].image, images[name])
        assert frame.image.flags.writeable
        assert frame.image.flags.c_contiguous
    assert [frame.index for frame in source.frames(1, None, 2)] == [1, 3]
    assert source.gaps == ()
    assert source.warnings == ()
    info = source.info
    assert (info.height, info.width, info.rate, info.frames, info.codec) == (6, 9, Fraction(10), 5, "images")
    assert (info.frames_declared, info.rotation, info.has_audio) == (None, 0, False)
    with pytest.raises(IndexError):
        source[5]
    with pytest.raises(IndexError):
        source[-1]
    with pytest.raises(IndexError):
        source.seconds(5)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_sort_by_value(numbers: list[int]) -> None:
    paths = sorted((Path(f"frame{number}.png") for number in numbers), key=natural_key)
    assert paths == [Path(f"frame{number}.png") for number in sorted(numbers)]


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names), key=lambda name: natural_key(Path("x", name))) == sorted(
        sorted(names, reverse=True), key=lambda name: natural_key(Path("x", name))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The eight orientations of EXIF 2.3, tag 0x0112: where the stored row 0 and column 0 belong."""
    upright = picture(height=6, width=9)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)


def test_pixel_formats_become_rgb8(tmp_path: Path) -> None:
    grey16 = np.array([[0, 255, 32768, 65535]], np.uint16)
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    grey8 = np.array([[0, 128, 127, 255]], np.uint8)
    expected16 = np.array([[0, 1, 128, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "grey16.png"), np.stack([expected16] * 3, -1))
    Image.fromarray(grey8).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey8] * 3, -1))

    rgb = picture()
    alpha = np.full((6, 9, 1), 10, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], -1)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), rgb)

    palette = Image.fromarray(grey8).convert("P")
    palette.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png")[..., 0], grey8)

    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "cmyk.jpg").mean((0, 1))
    assert red < 5
    assert green > 250
    assert blue > 250

    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert (read_image(tmp_path / "bits.png") == 255).all()

    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(VideoError, match="floating point"):
        read_image(tmp_path / "float.tif")


def test_unreadable_and_misfit_images_are_gaps_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"not an image")
    save(tmp_path / "1.png", 1)
    save(tmp_path / "2.png", 2, height=7)
    save(tmp_path / "3.jpg", 3)
    whole = (tmp_path / "3.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(whole[: len(whole) - 40])
    save(tmp_path / "4.png", 4)

    source = open_video(tmp_path)
    assert [frame.index for frame in source] == [1, 4]
    assert [frame.index for frame in source.frames(2)] == [4]
    assert source.gaps == (0, 2, 3)
    warnings = source.warnings
    assert len(warnings) == 3
    assert "0.png" in warnings[0]
    assert "2.png is 9x7" in warnings[1]
    assert "3.jpg" in warnings[2]
    assert source.info.frames == len(source) == 5
    with pytest.raises(VideoError, match=r"2\.png"):
        source[2]
    np.testing.assert_array_equal(source[4].image, picture(4))


def test_one_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    image = save(tmp_path / "frame%03d.png")  # FFmpeg would take the name for a pattern
    source = open_video(tmp_path / "frame%03d.png")
    assert len(source) == 1
    np.testing.assert_array_equal(source[0].image, image)


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        ImageSequence(tmp_path / "missing")
    with pytest.raises(VideoError, match="the folder is empty"):
        open_video(tmp_path)

    sequence = tmp_path / "JPEGImages" / "480p" / "bear"
    sequence.mkdir(parents=True)
    save(sequence / "00000.jpg")
    with pytest.raises(VideoError, match=r"did you mean .*bear"):
        open_video(sequence.parent)
    with pytest.raises(VideoError, match="holds no images"):
        open_video(tmp_path)

    save(sequence / "00000.png")
    with pytest.raises(VideoError, match=r"00000\.jpg and 00000\.png"):
        open_video(sequence)

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "1.png").write_bytes(b"x")
    with pytest.raises(VideoError, match="none of its 1 images"):
        open_video(damaged)
    with pytest.raises(VideoError, match="rate"):
        open_video(sequence, rate=0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is permitted to root")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    tmp_path.chmod(0)
    try:
        with pytest.raises(VideoError, match="rights"):
            open_video(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_davis_sequence(data_root: Path) -> None:
    source = open_video(data_root / "davis" / "JPEGImages" / "480p" / "flamingo")
    assert (source.info.height, source.info.width) == (480, 854)
    assert source.info.frames == len(source) == 80
    names = [frame.name for frame in source.frames(0, None, 20)]
    assert names == ["00000", "00020", "00040", "00060"]
    assert source.gaps == ()
