"""Label maps at source size: one owner per pixel, the same in blocks as at once, little memory."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trackers import borders
from trackers.borders import label_map, upsample_rows
from trackers.dense import shrink_mask
from trackers.merge import soft_aggregate
from trackers.quadtree import to_cells, to_maps

SIZES = st.integers(1, 70)


def shares(rng: np.random.Generator, n: int, h: int, w: int) -> np.ndarray:
    masks = rng.random((n, h, w), np.float32) * (rng.random((n, h, w)) < 0.6)
    return soft_aggregate(torch.from_numpy(masks)).numpy()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), SIZES, SIZES)
@settings(deadline=None, max_examples=60)
def test_rows_are_those_of_plain_bilinear_upsampling(
    seed: int, n: int, h: int, w: int, height: int, width: int
) -> None:
    share = np.random.default_rng(seed).random((h, w), np.float32)
    whole = torch.nn.functional.interpolate(torch.from_numpy(share)[None, None], (height, width), mode="bilinear")
    np.testing.assert_allclose(upsample_rows(share, 0, height, height, width), whole[0, 0], atol=1e-5)
    half = height // 2
    parts = [upsample_rows(share, a, b, height, width) for a, b in ((0, half), (half, height)) if b > a]
    np.testing.assert_allclose(np.concatenate(parts), upsample_rows(share, 0, height, height, width), atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 12), st.integers(1, 12), SIZES, SIZES)
@settings(deadline=None, max_examples=60)
def test_a_pixel_belongs_to_the_largest_share(seed: int, n: int, h: int, w: int, height: int, width: int) -> None:
    maps = shares(np.random.default_rng(seed), n, h, w)
    ids = [3 * i + 2 for i in range(n)]
    labels = label_map(maps, ids, height, width)
    full = np.stack([upsample_rows(m, 0, height, height, width) for m in maps])
    np.testing.assert_array_equal(labels, np.array([0, *ids])[full.argmax(0)])


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = shares(np.random.default_rng(0), 4, 20, 30)
    whole = label_map(maps, [1, 2, 3, 4], 111, 173)
    monkeypatch.setattr(borders, "BLOCK_PIXELS", 500)
    np.testing.assert_array_equal(label_map(maps, [1, 2, 3, 4], 111, 173), whole)


def test_ids_above_a_byte_take_two() -> None:
    maps = shares(np.random.default_rng(0), 2, 8, 8)
    assert label_map(maps, [1, 255], 16, 16).dtype == np.uint8
    labels = label_map(maps, [1, 256], 16, 16)
    assert labels.dtype == np.uint16
    assert 256 in labels


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(deadline=None)
def test_shares_add_up_and_follow_the_order_of_objects(seed: int, n: int) -> None:
    masks = torch.from_numpy(np.random.default_rng(seed).random((n, 5, 7)))
    order = torch.from_numpy(np.random.default_rng(seed + 1).permutation(n))
    merged = soft_aggregate(masks)
    torch.testing.assert_close(merged.sum(0), torch.ones(5, 7, dtype=masks.dtype))
    torch.testing.assert_close(soft_aggregate(masks[order])[1:], merged[1:][order])
    torch.testing.assert_close(merged[1:].argmax(0), masks.argmax(0))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None)
def test_the_quadtree_order_keeps_cells_together(h: int, w: int, n: int) -> None:
    maps = torch.arange(n * 16 * h * w, dtype=torch.float32).view(n, 4 * h, 4 * w)
    cells = to_cells(maps)
    assert torch.equal(to_maps(cells, h, w), maps)
    coarse = torch.nn.functional.avg_pool2d(maps[None], 4)[0].flatten(1)
    torch.testing.assert_close(cells.view(n, h * w, 16).mean(2), coarse)
    fine = torch.nn.functional.avg_pool2d(maps[None], 2)[0]
    torch.testing.assert_close(cells.view(n, -1, 4).mean(2)[:, :4].view(n, 2, 2), fine[:, :2, :2])


def test_a_tiny_mask_still_fills_a_cell() -> None:
    mask = np.zeros((2160, 3840), np.bool_)
    mask[1000, 2000] = True
    assert shrink_mask(mask, 120, 216).max() == 1
    disc = cv2.circle(np.zeros((480, 864), np.uint8), (400, 200), 80, 1, -1) > 0
    assert shrink_mask(disc, 120, 216).sum() * 16 == pytest.approx(disc.sum(), rel=1e-3)
