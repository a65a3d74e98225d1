"""Both pixel decoders beyond the recorded inputs: shapes, batches, precisions; deformable sampling by definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.backbones.parts import Pyramid
from seem_core.deformable import DeformableConfig, cell_centres, sample
from seem_core.pixel_decoder import EncoderFpnConfig
from seem_core.positions import sine_positions

FPN = EncoderFpnConfig(channels=64, heads=4, layers=2, hidden=96)
DEFORMABLE = DeformableConfig(channels=64, heads=4, layers=2, hidden=96, points=2)
CHANNELS = (8, 16, 24, 32)
Config = EncoderFpnConfig | DeformableConfig


def build(config: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    return config.build(CHANNELS).eval()


def pyramid(batch: int, height: int, width: int) -> Pyramid:
    generator = torch.Generator().manual_seed(1)
    strides = (4, 8, 16, 32)
    return Pyramid(
        *(
            torch.randn(batch, c, -(-height // s), -(-width // s), generator=generator)
            for c, s in zip(CHANNELS, strides, strict=True)
        )
    )


@pytest.mark.parametrize("config", [FPN, DEFORMABLE])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 33)])
@torch.inference_mode()
def test_shapes(config: Config, height: int, width: int) -> None:
    decoder, levels = build(config), pyramid(2, height, width)
    features = decoder(levels)
    assert [m.shape for m in features.levels] == [
        (2, 64, *m.shape[2:]) for m in (levels.res5, levels.res4, levels.res3)
    ]
    assert features.finest.shape == (2, 64, *levels.res2.shape[2:])
    assert decoder.mask_features(features.finest).shape == features.finest.shape


@pytest.mark.parametrize("config", [FPN, DEFORMABLE])
@torch.inference_mode()
def test_batch_is_single_runs(config: Config) -> None:
    decoder, levels = build(config), pyramid(3, 64, 96)
    together = decoder(levels)
    for i in range(3):
        single = decoder(Pyramid(*(level[i : i + 1] for level in levels)))
        for whole, alone in zip((*together.levels, together.finest), (*single.levels, single.finest), strict=True):
            torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [FPN, DEFORMABLE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.inference_mode()
def test_precisions(config: Config, dtype: torch.dtype) -> None:
    levels = pyramid(1, 64, 96)
    reference = build(config)(levels)
    features = build(config).to(dtype)(Pyramid(*(level.to(dtype) for level in levels)))
    bound = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-5}[dtype]
    pairs = zip((*features.levels, features.finest), (*reference.levels, reference.finest), strict=True)
    for level, expected in pairs:
        assert level.dtype == dtype
        assert (level.float() - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("config", [FPN, DEFORMABLE])
def test_gradients_reach_every_parameter(config: Config) -> None:
    decoder = build(config)
    features = decoder(pyramid(1, 64, 96))
    outputs = (*features.levels, decoder.mask_features(features.finest))
    sum(level.square().mean() for level in outputs).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", [FPN, DEFORMABLE])
@torch.inference_mode()
def test_cuda_agrees_with_cpu(config: Config) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    levels = pyramid(1, 64, 96)
    reference = build(config)(levels)
    features = build(config).cuda()(Pyramid(*(level.cuda() for level in levels)))
    for level, expected in zip(features.levels, reference.levels, strict=True):
        torch.testing.assert_close(level.cpu(), expected, atol=1e-4, rtol=1e-4)


def sample_by_grid(
    values: torch.Tensor, places: torch.Tensor, weights: torch.Tensor, sizes: tuple[tuple[int, int], ...]
) -> torch.Tensor:
    """The definition, level by level: bilinear samples with zeros outside, weighted and summed."""
    B, _, heads, c = values.shape
    total = torch.zeros(B, places.shape[1], heads, c)
    start = 0
    for level, (h, w) in enumerate(sizes):
        maps = values[:, start : start + h * w].permute(0, 2, 3, 1).reshape(B * heads, c, h, w)
        grid = (places[:, :, :, level] + 0.5) / torch.tensor([w, h]) * 2 - 1  # (B, T, heads, points, 2)
        read = F.grid_sample(maps, grid.transpose(1, 2).flatten(0, 1), padding_mode="zeros", align_corners=False)
        read = read.view(B, heads, c, *read.shape[2:]).permute(0, 3, 1, 4, 2)  # (B, T, heads, points, c)
        total += (read * weights[:, :, :, level, :, None]).sum(3)
        start += h * w
    return total.flatten(2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3), st.data())
def test_sampling_is_bilinear_with_zeros_outside(batch: int, sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    T, heads, points, c = 5, 2, 3, 4
    values = torch.randn(batch, sum(h * w for h, w in sizes), heads, c, generator=generator)
    places = torch.rand(batch, T, heads, len(sizes), points, 2, generator=generator) * 12 - 3  # some lie far outside
    weights = torch.rand(batch, T, heads, len(sizes), points, generator=generator)
    expected = sample_by_grid(values, places, weights, tuple(sizes))
    torch.testing.assert_close(sample(values, places, weights, tuple(sizes)), expected, atol=1e-4, rtol=1e-4)


def test_cell_centres_by_hand() -> None:
    centres = cell_centres((1, 2), torch.device("cpu"))
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5]]  # (x, y)


@given(st.integers(1, 9), st.integers(1, 9))
def test_sine_positions_are_separable(height: int, width: int) -> None:
    waves = sine_positions(height, width, 16)
    assert waves.shape == (1, 16, height, width)
    assert torch.equal(waves[:, :8], waves[:, :8, :, :1].expand(-1, -1, -1, width))  # rows
    assert torch.equal(waves[:, 8:], waves[:, 8:, :1].expand(-1, -1, height, -1))  # columns
    assert torch.equal(sine_positions(height, width, 16, dtype=torch.float64), waves.double())
