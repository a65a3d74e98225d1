"""Working on a smaller image: sizes, prompts on it, and label maps back at source size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, ScribblePrompt, TextPrompt
from trackers.base import ObjectMasks
from vos.working_size import WorkingSize, resize_labels, scale_prompt

sides = st.integers(1, 200)


def disks(height: int, width: int) -> np.ndarray:
    """Two touching halves of a disk, ids 3 and 300, in (H, W) uint16."""
    y, x = np.mgrid[:height, :width]
    inside = ((x + 0.5) / width - 0.5) ** 2 + ((y + 0.5) / height - 0.5) ** 2 < 0.16
    return np.where(inside, np.where(x < width / 2, 3, 300), 0).astype(np.uint16)


@given(sides, sides, st.integers(1, 300))
def test_the_longer_side_is_bounded_and_nothing_is_enlarged(h: int, w: int, max_side: int) -> None:
    size = WorkingSize.of((h, w), max_side)
    assert max(size.working) == min(max(h, w), max_side)
    assert min(size.working) >= 1
    assert abs(size.working[0] * w - size.working[1] * h) <= max(h, w)  # same shape, to a rounded pixel


def test_without_a_bound_everything_passes_untouched() -> None:
    size = WorkingSize.of((48, 64), None)
    image = np.zeros((48, 64, 3), np.uint8)
    masks = ObjectMasks((1,), np.ones((48, 64), np.uint8), np.ones(1, np.float32), np.zeros(1, bool))
    point = PointPrompt(1, 2)
    assert size.image(image) is image
    assert size.back(masks) is masks
    assert size.prompt(point) is point


@given(st.floats(0, 639), st.floats(0, 479), st.sampled_from([(240, 320), (120, 160), (97, 131)]))
def test_a_point_keeps_its_place_relative_to_the_borders(x: float, y: float, new: tuple[int, int]) -> None:
    point = scale_prompt(PointPrompt(x, y, False, 5), (480, 640), new)
    assert isinstance(point, PointPrompt)
    assert (point.positive, point.object_id) == (False, 5)
    assert (point.x + 0.5) / new[1] == pytest.approx((x + 0.5) / 640)
    assert (point.y + 0.5) / new[0] == pytest.approx((y + 0.5) / 480)


def test_boxes_strokes_and_words() -> None:
    assert scale_prompt(BoxPrompt(-0.5, -0.5, 639.5, 479.5), (480, 640), (240, 320)) == BoxPrompt(
        -0.5, -0.5, 319.5, 239.5
    )
    assert scale_prompt(ScribblePrompt(((1.5, 3.5),), 4.0), (480, 640), (240, 320)) == ScribblePrompt(
        ((0.5, 1.5),), 2.0
    )
    text = TextPrompt("the dog")
    assert scale_prompt(text, (480, 640), (240, 320)) is text


def test_a_thin_mask_does_not_vanish() -> None:
    mask = np.zeros((480, 640), bool)
    mask[200, 300] = True
    small = scale_prompt(MaskPrompt(mask, 9), (480, 640), (48, 64))
    assert isinstance(small, MaskPrompt)
    assert small.object_id == 9
    assert np.argwhere(small.mask).tolist() == [[20, 30]]


@pytest.mark.parametrize(("small", "large"), [((60, 80), (480, 640)), ((61, 83), (300, 417)), ((90, 70), (91, 71))])
def test_labels_come_back_where_they_were(small: tuple[int, int], large: tuple[int, int]) -> None:
    back, truth = resize_labels(disks(*small), (3, 300), large), disks(*large)
    assert back.shape == large
    assert back.dtype == np.uint16
    for i in (3, 300):
        a, b = back == i, truth == i
        assert (a & b).sum() / (a | b).sum() > 0.95
    inside = np.argwhere(disks(*large) > 0)
    middle = back[inside[:, 0].mean().astype(int)]
    first, last = np.flatnonzero(middle)[[0, -1]]
    assert (middle[first:last] > 0).all()  # no crack between objects that touch


@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.integers(3, 20), st.integers(1, 4), st.integers(1, 4))
def test_nothing_is_invented_and_plain_areas_are_kept(seed: int, h: int, w: int, fy: int, fx: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (h, w)).astype(np.uint8)
    back = resize_labels(labels, (1, 2, 3), (h * fy, w * fx))
    assert set(np.unique(back)) <= {0, 1, 2, 3}
    if fy == fx == 1:
        assert (back == labels).all()
    flat = resize_labels(np.full((h, w), 2, np.uint8), (2,), (h * fy, w * fx))
    assert (flat == 2).all()
