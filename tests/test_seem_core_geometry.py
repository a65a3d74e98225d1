"""Resizing and padding: round trips as properties, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import LimitError, MaskError, PromptError
from seem_core.geometry import Geometry, InputSize, resize_image, resized_size

SIDES = st.integers(1, 400)
SIZES = st.tuples(SIDES, SIDES).filter(lambda s: max(s) <= 20 * min(s))
RULES = st.one_of(
    st.integers(32, 200).map(InputSize), st.integers(32, 200).map(lambda short: InputSize(short, 2 * short))
)


@given(SIZES, RULES)
def test_the_rule_is_kept_and_shape_nearly_so(source: tuple[int, int], rule: InputSize) -> None:
    h, w = resized_size(source, rule)
    assert min(h, w) == rule.short or max(h, w) == rule.longest
    assert min(h, w) <= rule.short
    assert rule.longest is None or max(h, w) <= rule.longest
    assert (h <= w) == (source[0] <= source[1]) or h == w
    near, far = min(source), max(source)
    assert abs(max(h, w) * near - min(h, w) * far) <= max(near, far)  # off by less than one pixel of the other side


@given(SIZES, RULES, st.sampled_from([1, 32]))
def test_padding_is_least(source: tuple[int, int], rule: InputSize, divisor: int) -> None:
    geometry = Geometry.plan(source, rule, divisor)
    for padded, image in zip(geometry.padded, geometry.image, strict=True):
        assert padded % divisor == 0
        assert image <= padded < image + divisor


@given(SIZES, RULES, st.lists(st.tuples(st.floats(-0.5, 1e3), st.floats(-0.5, 1e3)), min_size=1, max_size=5))
def test_points_come_back(source: tuple[int, int], rule: InputSize, points: list[tuple[float, float]]) -> None:
    geometry = Geometry.plan(source, rule, 32)
    there = geometry.points_to_image(points)
    np.testing.assert_allclose(geometry.points_to_source(there), points, atol=1e-6)


@given(SIZES, RULES, st.data())
def test_every_pixel_lands_on_a_pixel(source: tuple[int, int], rule: InputSize, data: st.DataObject) -> None:
    geometry = Geometry.plan(source, rule, 32)
    x, y = data.draw(st.integers(0, source[1] - 1)), data.draw(st.integers(0, source[0] - 1))
    column, row = geometry.pixel_to_image(x, y)
    assert 0 <= column < geometry.image[1]
    assert 0 <= row < geometry.image[0]


@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_mask_comes_back(height: int, width: int, factor: int) -> None:
    """Up by a whole factor and back: the same mask but for the pixels at its rim."""
    source = (height, width)
    geometry = Geometry(source, (factor * height, factor * width), (factor * height + 5, factor * width + 3))
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    padded = geometry.mask_to_padded(mask)
    assert tuple(padded.shape[1:]) == geometry.padded
    assert not padded[:, geometry.image[0] :].any()
    assert not padded[:, :, geometry.image[1] :].any()
    back = geometry.logits_to_source(padded.float() - 0.5) > 0
    inner = mask[:, height // 4 + 1 : height // 2, width // 4 + 1 : width // 2]
    assert back[:, height // 4 + 1 : height // 2, width // 4 + 1 : width // 2].equal(inner)
    grown = torch.nn.functional.max_pool2d(mask.float(), 3, stride=1, padding=1) > 0
    assert not (back & ~grown).any()


def test_a_thin_stroke_survives_shrinking_where_it_is_sampled() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[:, :, 50] = True
    padded = Geometry((100, 100), (60, 60), (64, 64)).mask_to_padded(mask)
    assert padded[0, :60].any(dim=1).all()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "panoptic"])
def test_logits_reach_the_source_size(mode: str) -> None:
    geometry = Geometry.plan((48, 85), InputSize(64), 32)
    logits = torch.randn(2, geometry.padded[0] // 4, geometry.padded[1] // 4)
    assert geometry.logits_to_source(logits, mode).shape == (2, 48, 85)
    assert geometry.logits_to_image(logits).shape == (2, *geometry.image)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    assert resize_image(image, (5, 6)) is image
    assert resize_image(image, (10, 12)).shape == (10, 12, 3)


def test_extreme_shapes() -> None:
    assert Geometry.plan((1, 1), InputSize(512), 32).padded == (512, 512)
    with pytest.raises(LimitError, match="20000x10 would be encoded as"):
        Geometry.plan((10, 20_000), InputSize(512), 32)
    assert Geometry.plan((10, 20_000), InputSize(512, 1024), 32).image == (1, 1024)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -0.6), (85, 0), (0, 47.5), (float("nan"), 0)])
def test_points_outside_are_refused(x: float, y: float) -> None:
    with pytest.raises(PromptError, match="outside the image of 85x48"):
        Geometry.plan((48, 85), InputSize(64), 32).pixel_to_image(x, y)


def test_masks_of_another_size_are_refused() -> None:
    geometry = Geometry.plan((48, 85), InputSize(64), 32)
    with pytest.raises(MaskError, match=r"\(N, 48, 85\) bool"):
        geometry.mask_to_padded(torch.zeros(1, 85, 48, dtype=torch.bool))
    with pytest.raises(MaskError, match="float32"):
        geometry.mask_to_padded(torch.zeros(1, 48, 85))
