"""Run lengths of masks: there and back, COCO's text as its documents show it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seem_core.coco_masks import decode_rle, encode_rle
from seem_core.errors import MaskError

# One annotation of a picture of 2211 rows and 2097 columns, from the description of an exporter of COCO files, which
# gives its area (6718) and box (x 504, y 842, 117 wide, 75 high) beside it.
PUBLISHED = (
    "WRQR14oT20K?D5M0O7I6K3M005K3M004L0N4N001O02N001N2O0001O2N00001O02N0000N3O0000002N00001O000O1O1000000000001O00000N2000"
    "0000O01000000000000N2000O10O1000N20O10000N200000O01000000N11000000000000N20000000000O3N00001O2N001O0N3O002M2O002M3L7"
    "J101H>A_SbS3"
)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    assert (decode_rle(mask.shape, encode_rle(mask)) == mask).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.data())
def test_long_runs_come_back(height: int, width: int, data: st.DataObject) -> None:
    mask = np.zeros((height, width), np.bool_)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[y:, x:] = True
    assert (decode_rle((height, width), encode_rle(mask)) == mask).all()


def test_the_published_text_has_the_published_area_and_box() -> None:
    mask = decode_rle((2211, 2097), PUBLISHED)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() == 6718
    assert (columns[0], rows[0], len(columns), len(rows)) == (504, 842, 117, 75)
    assert encode_rle(mask) == PUBLISHED


def test_runs_go_down_the_columns() -> None:
    expected = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert (decode_rle((2, 3), [1, 3, 2]) == expected).all()
    assert (decode_rle((2, 3), [0, 0, 1, 3, 2]) == expected).all()
    assert encode_rle(np.ones((2, 3), bool)) == "06"


@pytest.mark.parametrize(
    ("size", "counts", "words"),
    [
        ((2, 3), [1, 3], "the runs add up to 4 pixels, the mask's size 2x3 to 6"),
        ((2, 3), [8, -2], "add up to 6 pixels"),
        ((2, 3), "", "add up to 0 pixels"),
        ((2, 3), "6 ", "' ' is not possible"),
        ((2, 3), "6~", "'~' is not possible"),
        ((2, 3), "f", "cut off"),
        ((2, 3), "o" * 50 + "0", "'o' is not possible"),
        ((0, 3), [], "cannot have 0 rows"),
        ((10**6, 10**6), [10**12], "cannot have 1000000 rows"),
    ],
)
def test_what_is_no_mask_is_refused(size: tuple[int, int], counts: str | list[int], words: str) -> None:
    with pytest.raises(MaskError, match=words):
        decode_rle(size, counts)
