"""The border refiner: it begins as the identity, a crop is as good as the whole, and its file is read strictly."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from seem_core.errors import CheckpointError, InputError
from seem_core.refiner import (
    MARGIN,
    PRESENT,
    SURE,
    BorderRefiner,
    Cues,
    RefinerConfig,
    bounded,
    crops,
    largest_part,
    strongest_other,
)
from seem_core.refiner_weights import load_refiner, save_refiner

SMALL = RefinerConfig(half=3, quarter=4, eighth=5, cues=6, finest=4, fine=8, coarse=8)


def features(h: int, w: int, pictures: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Of pictures of h x w cells of stride 4."""
    sizes = ((SMALL.half, 2 * h, 2 * w), (SMALL.quarter, h, w), (SMALL.eighth, h // 2, w // 2))
    generator = torch.Generator().manual_seed(0)
    half, quarter, eighth = (torch.randn(pictures, *size, generator=generator) for size in sizes)
    return half, quarter, eighth


def trained() -> BorderRefiner:
    """A refiner that changes something."""
    torch.manual_seed(0)
    model = SMALL.build().eval()
    torch.nn.init.normal_(model.leave.weight, std=0.2)
    return model


def known(masks: Tensor) -> Tensor:
    """(N, 3, h, w): both versions say the same, nothing is known of the appearance."""
    return torch.stack([masks, masks, torch.zeros_like(masks)], 1)


def doubled(masks: Tensor) -> Tensor:
    """(N, 2 h, 2 w)."""
    return F.interpolate(masks[None], scale_factor=2, mode="bilinear")[0]


def discs(h: int, w: int, *places: tuple[int, int, int]) -> Tensor:
    """(N, h, w) soft discs: row, column, radius."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([(r - ((y - a) ** 2 + (x - b) ** 2).sqrt() + 0.5).clamp(0, 1) for a, b, r in places])


@torch.no_grad()
def test_it_begins_as_the_identity() -> None:
    model = SMALL.build()
    masks = discs(40, 64, (15, 20, 8), (22, 40, 9))
    refined = model.refine(model.look(*features(40, 64)), known(masks))
    assert torch.equal(refined > 0.5, doubled(torch.logit(masks, SURE)).sigmoid() > 0.5)
    logits = model(model.look(*features(40, 64)), known(masks[:1]), known(masks[1:]))
    torch.testing.assert_close(logits, doubled(torch.logit(masks[:1], SURE)))


@torch.no_grad()
def test_shapes() -> None:
    model = trained()
    cues = model.look(*features(24, 32, pictures=2))
    assert (cues.finest.shape, cues.fine.shape, cues.coarse.shape) == ((2, 4, 48, 64), (2, 6, 24, 32), (2, 6, 12, 16))
    own = torch.rand(3, 3, 24, 32)
    assert model(cues.of(torch.tensor([0, 1, 1])), own, torch.zeros_like(own)).shape == (3, 48, 64)
    assert model.refine(model.look(*features(24, 32)), own).shape == (3, 48, 64)
    assert model.refine(model.look(*features(24, 32)), own[:0]).shape == (0, 48, 64)


@torch.no_grad()
def test_a_crop_says_what_the_whole_says_away_from_its_border() -> None:
    model, inner = trained(), 40  # farther than convolutions reach
    cues, mask = model.look(*features(96, 128)), discs(96, 128, (50, 60, 12))
    own = known(mask)
    rows, columns = slice(20, 84), slice(30, 94)
    whole = model(cues, own, torch.zeros_like(own))
    part = model(cues.crop(rows, columns), own[:, :, rows, columns], torch.zeros(1, 3, 64, 64))
    inside = slice(inner, -inner)
    there = whole[:, 40:168, 60:188]
    torch.testing.assert_close(part[:, inside, inside], there[:, inside, inside], rtol=0, atol=1e-4)
    refined = model.refine(cues, own)[0]
    assert (refined - whole[0].sigmoid())[doubled(mask)[0] > PRESENT].abs().max() < 0.05


@torch.no_grad()
def test_nothing_appears_where_there_is_none_of_an_object() -> None:
    model = trained()
    masks = torch.cat([discs(48, 64, (10, 12, 5)), torch.zeros(1, 48, 64)])
    refined = model.refine(model.look(*features(48, 64)), known(masks))
    assert refined[1].count_nonzero() == 0
    assert refined[0, 90:, 120:].count_nonzero() == 0


@torch.no_grad()
def test_the_same_input_gives_the_same_masks_in_any_order_of_objects() -> None:
    model = trained()
    masks = known(discs(48, 64, (10, 12, 5), (14, 22, 7), (30, 40, 9)))
    cues = model.look(*features(48, 64))
    first, again = model.refine(cues, masks), model.refine(cues, masks)
    assert torch.equal(first, again)
    torch.testing.assert_close(model.refine(cues, masks.flip(0)).flip(0), first, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_crops_hold_their_object_and_have_few_sizes(h4: int, w4: int, data: st.DataObject) -> None:
    h, w = 4 * h4, 4 * w4
    top, left = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    bottom, right = data.draw(st.integers(top, h - 1)), data.draw(st.integers(left, w - 1))
    mask = torch.zeros(1, h, w)
    mask[0, top : bottom + 1, left : right + 1] = 1
    ((n, (rows, columns)),) = crops(mask)
    assert n == 0
    for side, first, last, size in ((rows, top, bottom, h), (columns, left, right, w)):
        assert 0 <= side.start <= max(0, first - MARGIN + 1)
        assert min(size, last + MARGIN) <= side.stop <= size
        assert side.start % 2 == side.stop % 2 == 0
        assert (side.stop - side.start) % 24 == 0 or side.stop - side.start == size


def test_what_stands_apart_does_not_grow() -> None:
    prior = discs(48, 96, (20, 20, 9), (20, 70, 4)).amax(0)
    refined = bounded(torch.full((96, 192), 0.9), prior)
    each = prior.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(refined[:, 100:], torch.where(each > PRESENT, each.clamp(max=0.9), 0)[:, 100:])
    assert refined[40, 40 + 18 + 8] == pytest.approx(0.9)  # near the larger part it may
    assert bounded(torch.full((96, 192), 0.9), torch.zeros_like(prior)).count_nonzero() == 0
    halves = discs(8, 8, (4, 4, 3))[0]
    assert torch.equal(largest_part(halves > 0.5), halves > 0.5)


def test_the_strongest_other() -> None:
    masks = torch.tensor([0.1, 0.7, 0.4])[:, None, None].expand(3, 2, 2)
    assert [float(strongest_other(masks, n)[0, 0]) for n in range(3)] == pytest.approx([0.7, 0.4, 0.7])
    assert strongest_other(masks[:1], 0).count_nonzero() == 0


@torch.no_grad()
def test_calibrated_features_come_out_alike_whatever_their_scale() -> None:
    half, quarter, eighth = features(32, 32, pictures=2)
    model = SMALL.build()
    model.calibrate(half * 40 + 7, quarter * 0.01 - 3, eighth)
    cues = model.look(half * 40 + 7, quarter * 0.01 - 3, eighth)
    assert 0.1 < float(cues.fine.std()) < 3
    assert float(cues.fine.mean()) < 3


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    model = trained()
    save_refiner(model.state_dict(), SMALL, tmp_path / "r.safetensors", facts={"seed": "3"})
    again = load_refiner(tmp_path / "r.safetensors")
    assert again.config == SMALL
    for a, b in itertools.zip_longest(model.state_dict().values(), again.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no border refiner"):
        load_refiner(tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not much")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_refiner(tmp_path / "damaged.safetensors")
    state = trained().state_dict()
    state.pop("leave.bias")
    save_refiner(state, SMALL, tmp_path / "short.safetensors", facts={})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_refiner(tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="at least 1"):
        RefinerConfig(cues=0)


def test_cues_of_pictures_and_crops() -> None:
    cues = Cues(*(torch.arange(float(side**2)).view(1, 1, side, side) for side in (16, 8, 4)))
    part = cues.crop(slice(2, 6), slice(4, 8))
    assert part.finest[0, 0, 0, 0] == 72
    assert part.fine[0, 0, 0, 0] == 20
    assert part.coarse[0, 0, 0, 0] == 6
