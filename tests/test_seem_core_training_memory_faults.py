"""Faults that remembered masks get in training: a part that is wrong moves along with its picture, masks wear out."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.training.memory_faults import NEAR, StrayPart, border_band, wear
from seem_core.training.refiner_task import Ageing, RefinerTaskConfig

SIZE = 48


def a_scene(shift: int = 0) -> tuple[Tensor, Tensor]:
    """(1, 2, h, w) masks of a square, and (C, h / 2, w / 2) features: square, a stripe beside it, the rest; all of it
    moved to the right by ``shift`` cells of stride 8."""
    mask = torch.zeros(1, 2, SIZE, SIZE)
    mask[..., 16:32, 12 + 2 * shift : 24 + 2 * shift] = 1
    keys = torch.zeros(3, SIZE // 2, SIZE // 2)
    keys[0] = 1
    keys[:, 8:16, 6 + shift : 12 + shift] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    keys[:, 8:16, 12 + shift : 15 + shift] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    return mask, keys


def a_part(adds: bool, both: bool = False) -> StrayPart:
    """The stripe where ``adds``, else a piece of the square."""
    look = torch.tensor([0.0, 0.0, 1.0] if adds else [0.0, 1.0, 0.0])
    return StrayPart(0, look, (24, 26) if adds else (24, 20), 9.0, 0.9, adds, both)


@pytest.mark.parametrize("adds", [True, False])
def test_a_part_is_wrong_in_the_sharp_masks_alone_and_moves_with_the_picture(adds: bool) -> None:
    part = a_part(adds)
    for shift in range(4):
        masks, keys = a_scene(shift)
        spoilt = part.spoil(masks, keys)
        assert torch.equal(spoilt[:, 0], masks[:, 0])
        changed = spoilt[0, 1] != masks[0, 1]
        assert changed.sum() > 20
        assert (spoilt[0, 1][changed] == float(adds)).all()
        where = F.interpolate(keys[None], scale_factor=2)[0, 2 if adds else 1] > 0
        assert where[changed].all()


def test_a_part_may_be_wrong_in_both_versions() -> None:
    masks, keys = a_scene()
    spoilt = a_part(True, both=True).spoil(masks, keys)
    assert torch.equal(spoilt[:, 0], spoilt[:, 1])
    assert spoilt.sum() > masks.sum()


def test_parts_begin_near_a_border_and_are_made_of_alike_cells() -> None:
    masks, keys = a_scene()
    kinds = set()
    for seed in range(40):
        part = StrayPart.begin(masks, keys, random.Random(seed))
        assert part is not None
        assert border_band(masks[:, 1], NEAR)[0][part.middle] == 1
        assert 0 <= part.alike <= 1 + 1e-6
        kinds.add((part.adds, part.both))
    assert len(kinds) == 4
    assert StrayPart.begin(torch.zeros(2, 2, SIZE, SIZE), keys, random.Random(0)) is None


def test_wear_blurs_masks_as_they_were_read_and_no_others() -> None:
    masks, _ = a_scene()
    worn = wear(masks, 0.5)
    assert torch.equal(worn[:, 1], masks[:, 1])
    assert torch.equal(wear(masks, 0.0), masks)
    between = (worn[:, 0] > 0) & (worn[:, 0] < 1)
    assert 0 < int(between.sum()) < 4 * 2 * (16 + 12)
    assert torch.equal(worn[:, 0] > 0.5, masks[:, 0] > 0.5)


def test_without_a_share_of_clips_memory_is_left_alone() -> None:
    masks, keys = a_scene()
    for seed in range(20):
        rng = random.Random(seed)
        ageing = Ageing.draw(RefinerTaskConfig(), 8, rng)
        assert all(ageing.age(t, masks, keys, rng) is masks for t in range(1, 8))


def test_a_clip_that_is_led_astray_is_so_on_a_few_early_frames() -> None:
    masks, keys = a_scene()
    config = RefinerTaskConfig(astray=1.0)
    for seed in range(20):
        rng = random.Random(seed)
        ageing = Ageing.draw(config, 8, rng)
        wrong = [t for t in range(1, 8) if not torch.equal(ageing.age(t, masks, keys, rng), masks)]
        assert set(wrong) <= set(ageing.astray)
        assert 1 <= ageing.astray.start <= 4
