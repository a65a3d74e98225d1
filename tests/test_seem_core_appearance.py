"""The linear model of an object's appearance: it tells apart what can be told apart, wherever it is."""

from __future__ import annotations

import torch
from torch import Tensor

from seem_core.appearance import MOST, appearance, fit_appearance

Levels = tuple[Tensor, Tensor, Tensor]


def picture(mask: Tensor, seed: int) -> Levels:
    """Features at strides 2, 4 and 8 that point one way where the (h, w) mask is, another way elsewhere, and noise."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.stack([mask, 1 - mask])
    half = both.repeat_interleave(2, 1).repeat_interleave(2, 2)
    eighth = torch.nn.functional.avg_pool2d(both, 2)
    half, quarter, eighth = (f + 0.4 * torch.randn(f.shape, generator=generator) for f in (half, both, eighth))
    return half, quarter, eighth


def square(top: int, left: int) -> Tensor:
    mask = torch.zeros(32, 48)
    mask[top : top + 10, left : left + 12] = 1
    return mask


def test_it_finds_the_look_where_the_object_has_moved() -> None:
    model = fit_appearance(*picture(square(4, 6), 0), square(4, 6)[None])
    there = square(16, 30)
    scores = appearance(*picture(there, 1), model)
    assert scores.shape == (1, 32, 48)
    right = (scores[0] > 0) == (there > 0.5)
    assert right.float().mean() > 0.9
    assert scores.abs().max() <= MOST


def test_each_object_has_its_own() -> None:
    masks = torch.stack([square(4, 6), square(18, 30)])
    levels = picture(masks[0], 0)
    models = fit_appearance(*levels, masks)
    torch.testing.assert_close(models[:1], fit_appearance(*levels, masks[:1]))
    first, second = appearance(*levels, models)
    assert first[masks[0] > 0].mean() > 0.5 > second[masks[0] > 0].mean()


def test_nothing_and_everything_have_no_look() -> None:
    levels = picture(square(4, 6), 0)
    models = fit_appearance(*levels, torch.stack([torch.zeros(32, 48), torch.ones(32, 48)]))
    assert models.count_nonzero() == 0
    assert appearance(*levels, models).count_nonzero() == 0
