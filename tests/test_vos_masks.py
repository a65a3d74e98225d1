"""Mask files: what is written comes back, and every form a user may have means one thing or is refused."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from seem_core.errors import DiskFullError, MaskError, OutputError
from vos import label_files
from vos.masks import DAVIS_PALETTE, read_labels, read_prompt_mask, write_labels
from vos.plain_png import read_plain_png

SIZE = (24, 32)


def squares(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """A map of SIZE with one 6x6 square for each value."""
    labels = np.zeros(SIZE, dtype)
    for n, value in enumerate(values):
        y, x = 8 * (n // 4), 8 * (n % 4)
        labels[y : y + 6, x : x + 6] = value
    return labels


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def soft_disk(colour: tuple[int, ...] | int) -> np.ndarray:
    """An anti-aliased disk of one colour on black."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cover = np.clip(9 - np.hypot(y - 12, x - 16), 0, 1)
    return np.round(cover[..., None] * np.atleast_1d(colour)).astype(np.uint8).squeeze()


# label files


def test_palette_is_the_one_of_real_davis_files(data_root: Path) -> None:
    for path in ("davis/Annotations/480p/car-turn/00000.png", "clips/Annotations/bms_people1/00000.png"):
        with Image.open(data_root / path) as image:
            assert image.getpalette() == DAVIS_PALETTE.reshape(-1).tolist()


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_labels_of_8_bits_come_back(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "a.png"
    write_labels(path, labels)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette() == DAVIS_PALETTE.reshape(-1).tolist()
    back = read_labels(path)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)


@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_labels_of_16_bits_come_back(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "b.png"
    write_labels(path, labels)
    back = read_labels(path)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, labels)


def test_a_view_that_is_not_contiguous_is_written_right(tmp_path: Path) -> None:
    labels = squares(1, 2, 3).T[::2]
    write_labels(tmp_path / "a.png", labels, level=9)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from(["L", "P"]), st.integers(0, 9)
)
def test_the_quick_way_gives_what_the_decoder_gives(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, mode: str, level: int
) -> None:
    path = save(tmp_path_factory.getbasetemp() / "c.png", labels, mode, compress_level=level)
    quick = read_plain_png(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_labels(path), np.asarray(image))
        assert quick is not None or mode == "L"  # grey rows may be filtered
        if quick is not None:
            np.testing.assert_array_equal(quick, np.asarray(image))


def test_the_quick_way_leaves_what_is_not_plain(tmp_path: Path, data_root: Path) -> None:
    real = data_root / "davis/Annotations/480p/car-turn/00000.png"
    assert read_plain_png(real) is not None
    whole = real.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"IDAT") + 20] ^= 1
    for data in (b"", whole[:20], whole[:-30], whole[: len(whole) // 2], b"x" + whole, bytes(flipped)):
        (tmp_path / "a.png").write_bytes(data)
        assert read_plain_png(tmp_path / "a.png") is None
    assert read_plain_png(tmp_path / "none.png") is None
    for mode in ("RGB", "1", "I;16", "LA"):
        assert read_plain_png(save(tmp_path / "a.png", squares(1), mode)) is None
    assert read_plain_png(save(tmp_path / "a.jpg", squares(1))) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_not_labels(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", squares(1), mode)
    with pytest.raises(MaskError, match=rf"a\.png is {mode}"):
        read_labels(path)


def test_a_jpeg_is_not_labels(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="JPEG"):
        read_labels(save(tmp_path / "a.jpg", squares(255)))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(squares(1, 1))
    image.putpalette(DAVIS_PALETTE[: 2**bits].tobytes())
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(1, 1))


def test_grey_of_two_bits_keeps_its_values(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")  # writes what Pillow cannot: here only its one-bit form
    cv2.imwrite(str(tmp_path / "a.png"), squares(1) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(1))


def test_missing_text_and_truncated_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 9, SIZE, np.uint8)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("none.png", "text.png", "half.png"):
        for read in (read_labels, read_prompt_mask):
            with pytest.raises(MaskError, match=re.escape(name)):
                read(tmp_path / name)


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    for wrong in (np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.int64), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="labels"):
            write_labels(tmp_path / "a.png", wrong)


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a.png"):
        write_labels(tmp_path / "none" / "a.png", squares(1))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write_labels(tmp_path / "a.png", squares(1))

    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(code, "full")

    monkeypatch.setattr(label_files, "_write_new", half)
    with pytest.raises(DiskFullError, match=r"a.png"):
        write_labels(tmp_path / "a.png", squares(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(1))


# prompt masks


def test_palette_ids_are_kept_with_gaps_and_void_is_background(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", squares(2, 7, 255))
    mask = read_prompt_mask(tmp_path / "a.png", size=SIZE)
    assert mask.ids == (2, 7)
    np.testing.assert_array_equal(mask.labels, squares(2, 7))
    assert "void" in mask.warnings[0]


@pytest.mark.parametrize("value", [1, 5, 128, 255])
def test_two_grey_values_are_one_object(tmp_path: Path, value: int) -> None:
    mask = read_prompt_mask(save(tmp_path / "a.png", squares(value)))
    assert mask.ids == (1,)
    assert mask.labels.dtype == np.uint8
    np.testing.assert_array_equal(mask.labels, squares(1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_black_and_white_is_one_object_in_every_mode(tmp_path: Path, mode: str) -> None:
    mask = read_prompt_mask(save(tmp_path / "a.png", squares(255), mode))
    assert mask.ids == (1,)
    np.testing.assert_array_equal(mask.labels, squares(1))


def test_0_and_255_under_the_davis_palette_is_one_object(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", squares(255))
    assert read_prompt_mask(tmp_path / "a.png").ids == (1,)


def test_consecutive_small_greys_are_ids(tmp_path: Path) -> None:
    for values in ((1, 2, 3), (2, 3), (1, 2, 255)):
        mask = read_prompt_mask(save(tmp_path / "a.png", squares(*values)))
        assert mask.ids == tuple(v for v in values if v != 255)


def test_greys_with_gaps_need_a_word(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", squares(1, 3))
    with pytest.raises(MaskError, match="--mask-format ids"):
        read_prompt_mask(path)
    assert read_prompt_mask(path, mask_format="ids").ids == (1, 3)
    assert read_prompt_mask(path, mask_format="binary").ids == (1,)


@pytest.mark.parametrize("colour", [255, (255, 0, 0), (255, 255, 255)])
def test_an_antialiased_mask_is_refused_and_binary_reads_it(tmp_path: Path, colour: Any) -> None:
    path = save(tmp_path / "a.png", soft_disk(colour))
    with pytest.raises(MaskError, match="--mask-format"):
        read_prompt_mask(path)
    mask = read_prompt_mask(path, mask_format="binary")
    assert mask.ids == (1,)
    assert abs(int(mask.labels.sum()) - np.pi * 8.5**2) < 12


def test_a_soft_alpha_is_refused_and_binary_reads_it(tmp_path: Path) -> None:
    pixels = np.full((*SIZE, 4), 255, np.uint8)
    pixels[..., 3] = soft_disk(255)
    path = save(tmp_path / "a.png", pixels)
    with pytest.raises(MaskError, match="half-transparent"):
        read_prompt_mask(path)
    assert abs(int(read_prompt_mask(path, mask_format="binary").labels.sum()) - np.pi * 8.5**2) < 12


def test_colours_are_objects_and_transparent_is_background(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 4), np.uint8)
    for value, colour in ((1, (250, 10, 10)), (2, (10, 250, 10)), (3, (9, 9, 255))):
        pixels[squares(1, 2, 3) == value] = (*colour, 0 if value == 3 else 255)
    mask = read_prompt_mask(save(tmp_path / "a.png", pixels))
    assert mask.ids == (1, 2)
    np.testing.assert_array_equal(mask.labels, squares(2, 1))
    assert "#0afa0a = 1" in mask.warnings[0]


def test_davis_colours_saved_as_rgb_get_their_ids_back(tmp_path: Path) -> None:
    mask = read_prompt_mask(save(tmp_path / "a.png", DAVIS_PALETTE[squares(3, 1, 8)]))
    assert mask.ids == (1, 3, 8)
    np.testing.assert_array_equal(mask.labels, squares(3, 1, 8))


def test_a_palette_without_black_background_is_read_as_colours(tmp_path: Path) -> None:
    image = Image.fromarray(1 - squares(1))  # index 0 is the object, as a palette sorted by frequency may have it
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_prompt_mask(tmp_path / "a.png").labels, squares(1))


def test_a_photograph_is_refused(data_root: Path, tmp_path: Path) -> None:
    with Image.open(data_root / "davis/JPEGImages/480p/car-turn/00000.jpg") as image:
        image.save(tmp_path / "rgb.png")
        image.convert("L").save(tmp_path / "grey.png")
        image.quantize(256).save(tmp_path / "palette.png")
    for name in ("rgb.png", "grey.png", "palette.png"):
        with pytest.raises(MaskError, match="--mask-format"):
            read_prompt_mask(tmp_path / name)


def test_a_jpeg_needs_binary(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", squares(255))
    for mask_format in ("auto", "ids", "rgb"):
        with pytest.raises(MaskError, match=r"JPEG.*--mask-format binary"):
            read_prompt_mask(path, mask_format=mask_format)
    np.testing.assert_array_equal(read_prompt_mask(path, mask_format="binary").labels, squares(1))


def test_ids_above_255(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_labels(path, squares(300, 255, dtype=np.uint16))
    mask = read_prompt_mask(path, mask_format="ids")
    assert mask.ids == (255, 300)
    assert mask.labels.dtype == np.uint16
    assert not mask.warnings


@pytest.mark.parametrize(
    ("array", "ids"),
    [
        (squares(1) > 0, (1,)),
        (squares(1, 2).astype(np.int64), (1, 2)),
        (squares(1).astype(np.float32), (1,)),
        (squares(1)[None], (1,)),
    ],
)
def test_npy_arrays(tmp_path: Path, array: np.ndarray, ids: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", array)
    mask = read_prompt_mask(tmp_path / "a.npy", size=SIZE)
    assert mask.ids == ids
    np.testing.assert_array_equal(mask.labels > 0, array.reshape(SIZE) > 0)


def test_npy_probabilities_need_binary(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", soft_disk(255) / np.float32(255))
    with pytest.raises(MaskError, match=r"fractional.*binary"):
        read_prompt_mask(tmp_path / "a.npy")
    assert read_prompt_mask(tmp_path / "a.npy", mask_format="binary").ids == (1,)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 5), np.uint8),
        np.array(["x"]),
        np.full(SIZE, -1),
        np.full(SIZE, np.nan),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_npy_arrays_that_are_no_mask(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MaskError, match=r"a.npy"):
        read_prompt_mask(tmp_path / "a.npy")


def test_pickled_npy_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(MaskError, match=r"a.npy"):
        read_prompt_mask(tmp_path / "a.npy")


@pytest.mark.parametrize("factor", [2, 3])
def test_a_whole_multiple_is_resized_with_a_warning(tmp_path: Path, factor: int) -> None:
    big = squares(1, 2).repeat(factor, 0).repeat(factor, 1)
    write_labels(tmp_path / "small.png", squares(1, 2))
    write_labels(tmp_path / "big.png", big)
    up = read_prompt_mask(tmp_path / "small.png", size=big.shape)
    down = read_prompt_mask(tmp_path / "big.png", size=SIZE)
    np.testing.assert_array_equal(up.labels, big)
    np.testing.assert_array_equal(down.labels, squares(1, 2))
    assert all("resized" in mask.warnings[0] for mask in (up, down))


@pytest.mark.parametrize("size", [(25, 32), (48, 32), (32, 24), (36, 48)])
def test_another_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write_labels(tmp_path / "a.png", squares(1))
    with pytest.raises(MaskError, match=f"32x24, the video is {size[1]}x{size[0]}"):
        read_prompt_mask(tmp_path / "a.png", size=size)


def test_an_object_that_a_resize_swallows_is_named(tmp_path: Path) -> None:
    labels = squares(1).repeat(2, 0).repeat(2, 1)
    labels[-2, -2] = 2
    write_labels(tmp_path / "a.png", labels)
    mask = read_prompt_mask(tmp_path / "a.png", size=SIZE)
    assert mask.ids == (1,)
    assert "objects 2" in mask.warnings[1]


@pytest.mark.parametrize("mask_format", ["auto", "ids", "binary", "rgb"])
def test_an_empty_mask_is_refused(tmp_path: Path, mask_format: Any) -> None:
    with pytest.raises(MaskError, match="empty"):
        read_prompt_mask(save(tmp_path / "a.png", squares()), mask_format=mask_format)


def test_rgb_format_takes_greys_as_colours(tmp_path: Path) -> None:
    mask = read_prompt_mask(save(tmp_path / "a.png", squares(40, 90)), mask_format="rgb")
    assert mask.ids == (1, 2)


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="'alpha' is unknown"):
        read_prompt_mask(save(tmp_path / "a.png", squares(1)), mask_format="alpha")  # type: ignore[arg-type]


def test_real_masks_mean_what_they_say(data_root: Path) -> None:
    mask = read_prompt_mask(data_root / "davis/Annotations/480p/schoolgirls/00000.png", size=(240, 432))
    assert mask.ids == (1, 2, 3, 4, 5, 6, 7)
    assert not mask.warnings
