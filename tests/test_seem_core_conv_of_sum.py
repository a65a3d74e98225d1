"""The convolution of a sum that is never made, and a norm known before its input: the same as in the plain order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.conv_of_sum import conv_of_sum, moments, norm_as_affine
from seem_core.pixel_decoder import ConvNorm, fuse, merge


def adapter_and_layer(dtype: torch.dtype = torch.float64) -> tuple[ConvNorm, ConvNorm]:
    torch.manual_seed(0)
    pair = ConvNorm(12, 64, 1, relu=False), ConvNorm(64, 64, 3, relu=True)
    for layer in pair:
        torch.nn.init.normal_(layer.norm.weight, 1.0, 0.3)
        torch.nn.init.normal_(layer.norm.bias, 0.0, 0.5)
        layer.to(dtype)
    return pair


def maps(batch: int, h: int, w: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    fine = 3 * torch.randn(batch, 12, 2 * h, 2 * w, generator=generator, dtype=torch.float64) + 5
    return fine.to(dtype), torch.randn(batch, 64, h, w, generator=generator, dtype=torch.float64).to(dtype)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 2), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_conv_of_sum(h: int, w: int, batch: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    kernel = torch.randn(5, 4, 3, 3, generator=g, dtype=torch.float64)
    projection = torch.randn(4, 3, generator=g, dtype=torch.float64)
    fine = torch.randn(batch, 3, 2 * h, 2 * w, generator=g, dtype=torch.float64)
    coarse = torch.randn(batch, 4, h, w, generator=g, dtype=torch.float64)
    together = F.conv2d(fine, projection[:, :, None, None]) + F.interpolate(coarse, scale_factor=2, mode="nearest")
    expected = F.conv2d(together, kernel, padding=1)
    torch.testing.assert_close(conv_of_sum(kernel, projection, fine, coarse), expected)


@torch.inference_mode()
def test_a_norm_is_known_before_its_input() -> None:
    adapter, _ = adapter_and_layer()
    fine, _ = maps(1, 5, 7)
    scale, shift = norm_as_affine(adapter.norm, adapter.weight.flatten(1), fine[0])
    plain = F.conv2d(fine, adapter.weight)
    torch.testing.assert_close(scale[:, None, None] * plain + shift[:, None, None], adapter(fine))


def test_moments_far_from_zero_keep_their_digits() -> None:
    cells = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) + 1000.0
    mean, covariance = moments(cells)
    exact = cells.double()
    torch.testing.assert_close(mean.double(), exact.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(covariance.double(), exact.T.cov(correction=0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 4e-3)]
)
@torch.inference_mode()
def test_merging_equals_the_plain_order(dtype: torch.dtype, bound: float) -> None:
    adapter, layer = adapter_and_layer()
    fine, coarse = maps(2, 6, 9)
    expected = layer(fuse(adapter(fine), coarse))
    for module in (adapter, layer):
        module.to(dtype)
    found = merge(adapter, layer, fine.to(dtype), coarse.to(dtype))
    assert found.dtype == dtype
    assert (found.double() - expected).norm() <= bound * expected.norm()


def test_odd_sizes_and_gradients_go_the_plain_way() -> None:
    adapter, layer = adapter_and_layer()
    fine, coarse = maps(1, 4, 5)
    with torch.no_grad():
        odd = fine[:, :, :7]
        torch.testing.assert_close(merge(adapter, layer, odd, coarse), layer(fuse(adapter(odd), coarse)))
    (gradient,) = torch.autograd.grad(merge(adapter, layer, fine, coarse).sum(), adapter.weight)
    assert gradient.abs().sum() > 0
