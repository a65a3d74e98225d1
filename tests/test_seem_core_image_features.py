"""Late mask features: every shortcut equals the full projection."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.image_features import MaskFeatures, bilinear_mean_weights
from seem_core.visual_sampler import sample_bilinear


def features(batch: int, size: tuple[int, int], kernel: int, seed: int = 0) -> MaskFeatures:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(batch, 5, *size, generator=g, dtype=torch.float64)
    weight = torch.randn(7, 5, kernel, kernel, generator=g, dtype=torch.float64)
    return MaskFeatures(base, weight, torch.randn(7, generator=g, dtype=torch.float64))


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_resized(rows: int, columns: int, kernel: int, batch: int) -> None:
    late = features(batch, (8 * rows, 8 * columns), kernel)
    sizes = [(rows, columns), (2 * rows, 2 * columns), (4 * rows, 4 * columns)]
    for size, resized in zip(sizes, late.resized(sizes), strict=True):
        expected = F.interpolate(late.full(), size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized, expected)


def test_resized_by_other_factors_goes_the_long_way() -> None:
    late = features(1, (9, 10), 3)
    (resized,) = late.resized([(4, 3)])
    torch.testing.assert_close(resized, F.interpolate(late.full(), size=(4, 3), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("images", "objects"), [(1, 1), (1, 3), (2, 2)])
def test_logits(kernel: int, images: int, objects: int) -> None:
    late = features(images, (6, 7), kernel)
    embeddings = torch.randn(objects, 4, 7, dtype=torch.float64)
    expected = torch.einsum("bqc,bchw->bqhw", embeddings, late.full().expand(objects, -1, -1, -1))
    torch.testing.assert_close(late.logits(embeddings), expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6), st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_mean_at(points: list[tuple[float, float]], kernel: int) -> None:
    late = features(2, (5, 8), kernel)
    where = torch.tensor(points, dtype=torch.float64)
    expected = sample_bilinear(late.full()[1], where).mean(dim=0)
    torch.testing.assert_close(late.mean_at(1, where), expected, atol=1e-6, rtol=1e-6)


def test_mean_weights_sum_to_one() -> None:
    cells = torch.rand(50, 2) * torch.tensor([4.0, 6.0])
    assert bilinear_mean_weights(cells, (5, 7)).sum() == pytest.approx(1.0)
