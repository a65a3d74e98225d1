"""The dense reader: shapes, matching against a plain implementation, objects that do not mix, weights on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import CheckpointError
from seem_core.reader import (
    DenseReader,
    FrameValues,
    Memory,
    ReaderConfig,
    Reading,
    _tiles,
    _untile,
    probabilities,
)
from seem_core.reader_weights import load_reader, save_reader

SMALL = ReaderConfig(key=16, local_key=8, window=2, value=16, local_value=4, decoder=(16, 16, 8, 8))


@pytest.fixture(scope="module")
def reader() -> DenseReader:
    torch.manual_seed(0)
    return SMALL.build().eval()


def some_masks(b: int, n: int, h: int, w: int) -> torch.Tensor:
    return probabilities(torch.randn(b, n, h // 2, w // 2))


def read_twice(reader: DenseReader, images: torch.Tensor, masks: torch.Tensor) -> Reading:
    """Masks known on images[0] and images[1], read on images[2]."""
    features = [reader.encode(x[None]) for x in images]
    known = [reader.write(f, masks) for f in features[:2]]
    return reader.read(features[2], Memory.of(known), known[1])


@torch.no_grad()
def test_shapes(reader: DenseReader) -> None:
    images = torch.rand(2, 3, 48, 80) * 255
    features = reader.encode(images)
    assert [tuple(x.shape) for x in vars(features).values()] == [
        (2, 16, 24, 40), (2, 24, 12, 20), (2, 40, 6, 10), (2, 112, 3, 5), (2, 16, 3, 5), (2, 8, 6, 10),
    ]  # fmt: skip
    assert torch.allclose(features.key.norm(dim=1), torch.ones(2, 3, 5), atol=1e-3)
    values = reader.write(features, some_masks(2, 3, 48, 80))
    assert values.value.shape == (2, 3, 17, 15)
    reading = reader.read(features, Memory.of([values, values]), values)
    assert reading.logits.shape == (2, 3, 24, 40)
    assert reading.presence.shape == reading.quality.shape == (2, 3)
    assert reading.prior.shape == (2, 3, 3, 5)
    assert reading.local_prior.shape == (2, 3, 6, 10)


def test_sides_must_be_multiples_of_16(reader: DenseReader) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        reader.encode(torch.zeros(1, 3, 40, 48))


@torch.no_grad()
def test_global_matching_is_softmax_over_all_cells(reader: DenseReader) -> None:
    torch.manual_seed(1)
    key, memory = F.normalize(torch.randn(1, 16, 15), dim=1), F.normalize(torch.randn(1, 16, 30), dim=1)
    value = torch.randn(1, 2, 17, 30)
    read, best = reader._match(key, Memory(memory, value, torch.zeros(1, 2, 32)))
    cosine = torch.einsum("bcl,bcm->blm", key, memory)
    weights = (cosine * 16).softmax(2)
    assert torch.allclose(read.view(1, 2, 17, 15), torch.einsum("blm,bncm->bncl", weights, value), atol=1e-4)
    assert torch.allclose(best[:, 0], cosine.amax(2), atol=1e-5)


@torch.no_grad()
def test_top_k_of_all_cells_changes_nothing_and_of_one_copies(reader: DenseReader) -> None:
    torch.manual_seed(2)
    key, memory = F.normalize(torch.randn(1, 16, 15), dim=1), F.normalize(torch.randn(1, 16, 30), dim=1)
    stored = Memory(memory, torch.randn(1, 1, 17, 30), torch.zeros(1, 1, 32))
    whole, _ = reader._match(key, stored)
    assert not torch.equal(reader._match(key, stored, 29)[0], whole)
    assert torch.allclose(reader._match(key, stored, 30)[0], whole, atol=1e-5)
    nearest = torch.einsum("bcl,bcm->blm", key, memory).argmax(2)[0]
    assert torch.allclose(reader._match(key, stored, 1)[0], stored.value[0, 0][:, nearest][None], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(h=st.integers(3, 19), w=st.integers(3, 19), seed=st.integers(0, 99))
def test_local_matching_is_softmax_inside_the_window(h: int, w: int, seed: int) -> None:
    torch.manual_seed(seed)
    reader = SMALL.build().eval()
    with torch.no_grad():
        reader.offset_bias.normal_()
        key, other = (F.normalize(torch.randn(1, 8, h, w), dim=1) for _ in range(2))
        local = torch.randn(1, 2, 5, h, w)
        empty = torch.zeros(1, 1, 1)
        values = FrameValues(empty, empty, empty, other, local, empty)
        read, best = reader._match_locally(key, values)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        dy, dx = (v.flatten()[None] - v.flatten()[:, None] for v in (y, x))  # key cell minus query cell
        outside = (dy.abs() > 2) | (dx.abs() > 2)
        cosine = key[0].flatten(1).T @ other[0].flatten(1)
        bias = reader.offset_bias[(dy + 2).clamp(0, 4), (dx + 2).clamp(0, 4)]
        affinity = (cosine * 16 + bias).masked_fill(outside, -torch.inf)
        expected = local[0].flatten(2) @ affinity.softmax(1).T
    assert torch.allclose(read[0].flatten(2), expected, atol=1e-4)
    assert best.shape == (1, 1, h, w)


@given(st.integers(1, 30), st.integers(1, 30))
def test_untile_undoes_tiles(h: int, w: int) -> None:
    maps = torch.randn(2, 3, h, w)
    assert torch.equal(_untile(_tiles(maps, 0), h, w), maps)


@torch.no_grad()
def test_blocks_of_queries_change_nothing(reader: DenseReader, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    key, memory = torch.randn(1, 16, 40), torch.randn(1, 16, 30)
    stored = Memory(memory, torch.randn(1, 1, 17, 30), torch.zeros(1, 1, 32))
    whole = reader._match(key, stored)
    monkeypatch.setattr("seem_core.reader.CACHED_AFFINITIES", 90)
    parts = reader._match(key, stored)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))


@torch.no_grad()
def test_order_of_objects_permutes_the_result(reader: DenseReader) -> None:
    torch.manual_seed(4)
    images, masks = torch.rand(3, 3, 48, 64) * 255, some_masks(1, 3, 48, 64)
    order = [2, 0, 1]
    straight, permuted = read_twice(reader, images, masks), read_twice(reader, images, masks[:, order])
    assert torch.allclose(straight.logits[:, order], permuted.logits, atol=1e-4)
    assert torch.allclose(straight.presence[:, order], permuted.presence, atol=1e-4)


@torch.no_grad()
def test_images_of_a_batch_do_not_mix(reader: DenseReader) -> None:
    torch.manual_seed(5)
    images, masks = torch.rand(2, 3, 48, 64) * 255, some_masks(2, 2, 48, 64)
    features = reader.encode(images)
    values = reader.write(features, masks)
    together = reader.read(features, Memory.of([values]), values)
    for i in range(2):
        one = reader.encode(images[i : i + 1])
        value = reader.write(one, masks[i : i + 1])
        alone = reader.read(one, Memory.of([value]), value)
        assert torch.allclose(together.logits[i], alone.logits[0], atol=1e-3)


def test_probabilities_share_a_pixel() -> None:
    logits = torch.randn(2, 3, 4, 5) * 10
    assert probabilities(logits).sum(1).max() <= 1 + 1e-6
    assert torch.allclose(probabilities(logits[:, :1]), logits[:, :1].sigmoid())


def test_weights_survive_the_disk(reader: DenseReader, tmp_path: Path) -> None:
    save_reader(reader.state_dict(), SMALL, tmp_path / "a.safetensors", facts={"steps": "0"})
    loaded = load_reader(tmp_path / "a.safetensors")
    assert loaded.config == SMALL
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in reader.state_dict().items())
    save_reader(reader.state_dict(), SMALL, tmp_path / "half.safetensors", facts={}, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    load_reader(tmp_path / "half.safetensors")


def test_damaged_or_foreign_weights_are_refused(reader: DenseReader, tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_reader(tmp_path / "noise.safetensors")
    save_reader(reader.state_dict(), replace(SMALL, value=32), tmp_path / "other.safetensors", facts={})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_reader(tmp_path / "other.safetensors")


@pytest.mark.cuda
def test_cuda_gives_the_cpu_result(reader: DenseReader) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(6)
    images, masks = torch.rand(3, 3, 64, 96) * 255, some_masks(1, 2, 64, 96)
    there = SMALL.build().eval()
    there.load_state_dict(reader.state_dict())
    there.cuda()
    with torch.no_grad():
        expected = read_twice(reader, images, masks).logits
        found = read_twice(there, images.cuda(), masks.cuda()).logits.cpu()
    assert (found - expected).norm() / expected.norm() < 2e-2  # TF32 convolutions keep about three digits
