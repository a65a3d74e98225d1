"""Backbones beyond the recorded inputs: sizes, batches, precisions, refusals. Small ones with random weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.backbones.davit import DaViTConfig
from seem_core.backbones.focalnet import FocalNetConfig
from seem_core.backbones.parts import join_windows, split_windows
from seem_core.backbones.sam_vit import RelativeAttention, SamVitConfig, relative_table
from seem_core.errors import InputError

FOCAL_DW = FocalNetConfig(embed_dim=16, depths=(1, 1, 2, 1), focal_levels=2)
FOCAL = FocalNetConfig(embed_dim=16, depths=(1, 1, 2, 1), focal_levels=3, block="focal")
DAVIT = DaViTConfig(channels=(16, 32, 48, 64), heads=(2, 2, 3, 4), depths=(1, 1, 2, 1))
SAM = SamVitConfig(dim=32, depth=2, heads=2, global_blocks=(1,), window=3, image_size=64)
ANY_SIZE = (FOCAL_DW, FOCAL, DAVIT)
Config = FocalNetConfig | DaViTConfig | SamVitConfig


def build(config: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    return config.build().eval()


def image(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [*ANY_SIZE, SAM])
@torch.inference_mode()
def test_shapes(config: Config) -> None:
    pyramid = build(config)(image(2, 64, 64))
    for level, channels, stride in zip(pyramid, config.channels, (4, 8, 16, 32), strict=True):
        assert level.shape == (2, channels, 64 // stride, 64 // stride)


@pytest.mark.parametrize("config", [*ANY_SIZE, SAM])
@torch.inference_mode()
def test_batch_is_single_runs(config: Config) -> None:
    backbone, images = build(config), image(3, 64, 64)
    together = backbone(images)
    for i in range(3):
        for whole, single in zip(together, backbone(images[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i : i + 1], single, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [FOCAL_DW, FOCAL])
@pytest.mark.parametrize(("height", "width"), [(37, 61), (1, 1), (5, 130)])
@torch.inference_mode()
def test_focalnet_takes_odd_sizes(config: FocalNetConfig, height: int, width: int) -> None:
    pyramid = build(config)(image(1, height, width))
    h, w = math.ceil(height / 4), math.ceil(width / 4)
    for level in pyramid:
        assert level.shape[2:] == (h, w)
        assert level.isfinite().all()
        h, w = math.ceil(h / 2), math.ceil(w / 2)


@pytest.mark.parametrize("config", [*ANY_SIZE, SAM])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.inference_mode()
def test_precisions(config: Config, dtype: torch.dtype) -> None:
    reference = build(config)(image(1, 64, 64))
    pyramid = build(config).to(dtype)(image(1, 64, 64).to(dtype))
    bound = {torch.bfloat16: 0.1, torch.float16: 0.01, torch.float64: 1e-5}[dtype]
    for level, expected in zip(pyramid, reference, strict=True):
        assert level.dtype == dtype
        assert (level.float() - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("config", [*ANY_SIZE, SAM])
def test_gradients_reach_every_parameter(config: Config) -> None:
    backbone = build(config)
    sum(level.square().mean() for level in backbone(image(1, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", [*ANY_SIZE, SAM])
@torch.inference_mode()
def test_cuda_agrees_with_cpu(config: Config) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    reference = build(config)(image(1, 64, 64))
    for level, expected in zip(build(config).cuda()(image(1, 64, 64).cuda()), reference, strict=True):
        torch.testing.assert_close(level.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 32), (65, 65), (128, 128)])
def test_sam_refuses_other_sizes(height: int, width: int) -> None:
    with pytest.raises(InputError, match=f"64x64 images, not {width}x{height}"):
        build(SAM)(image(1, height, width))


@torch.inference_mode()
def test_head_by_head_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(24, 3, 4)
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, 12, 24)
    whole = attention(x, (3, 4))
    monkeypatch.setattr("seem_core.backbones.sam_vit.BIAS_ELEMENTS", 1)
    torch.testing.assert_close(attention(x, (3, 4)), whole)


def test_relative_table_by_hand() -> None:
    learned = torch.arange(5.0)[:, None]  # distances -2..2
    assert relative_table(learned, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 8))
def test_windows_go_and_come_back(batch: int, height: int, width: int, window: int) -> None:
    x = torch.arange(batch * height * width * 2.0).view(batch, height, width, 2)
    windows = split_windows(x, window)
    assert windows.shape == (batch * math.ceil(height / window) * math.ceil(width / window), window**2, 2)
    assert windows.sum() == x.sum()
    assert torch.equal(join_windows(windows, window, (batch, height, width)), x)
