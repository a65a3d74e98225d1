"""Losses against plain formulas: masks at points, who answers, deep supervision, and nothing to learn from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.training.losses import (
    CODE,
    PAPER,
    LossSettings,
    TaskLoss,
    TaskWeights,
    bce_loss,
    dice_loss,
    marks_loss,
    mask_losses,
    segmentation_loss,
    shared_targets,
    total,
    words_loss,
)
from seem_core.training.mask_points import PointSampling, read_points, uncertain_points, uniform_points
from seem_core.training.matcher import Match

FEW = LossSettings(sampling=PointSampling(points=300))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def halves() -> torch.Tensor:
    """(2, 32, 32) bool: two objects, the left and the right half of a picture."""
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :, :16] = True
    masks[1, :, 16:] = True
    return masks


def logits_of(masks: torch.Tensor, sure: float = 8.0) -> torch.Tensor:
    """(n, 8, 8) logits that say exactly `masks`, at stride 4."""
    return (F.avg_pool2d(masks.float(), 4) * 2 - 1) * sure


# --- points -------------------------------------------------------------------------------------------------------


def test_points_read_between_pixel_centres() -> None:
    mask = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.5]]])  # (x, y)
    assert read_points(mask, points).tolist() == [[0.0, 1.0, 1.5, 1.0]]


def test_a_mask_and_its_small_copy_agree_inside() -> None:
    masks = halves()
    points = uniform_points(2, 500, torch.device("cpu"), seeded())
    inside = (points[..., 0] - 0.5).abs() > 0.1
    inside &= ((points - 0.5).abs() < 0.4).all(-1)
    small = read_points(logits_of(masks), points) > 0
    assert torch.equal(small[inside], read_points(masks.float(), points)[inside] > 0.5)


def test_uncertain_points_gather_at_the_border() -> None:
    logits = torch.linspace(-10, 10, 64)[None, None].expand(1, 64, 64).contiguous()  # 0 in the middle column
    points = uncertain_points(logits, PointSampling(1000, 3, 0.75), seeded())
    assert points.shape == (1, 1000, 2)
    near = ((points[..., 0] - 0.5).abs() < 0.13).float().mean()  # a quarter of the width holds a quarter of 3000 points
    assert 0.75 <= near < 0.90
    even = uncertain_points(logits, PointSampling(1000, 3, 0.0), seeded())
    assert ((even[..., 0] - 0.5).abs() < 0.13).float().mean() < 0.4
    assert torch.equal(points, uncertain_points(logits, PointSampling(1000, 3, 0.75), seeded()))


def test_points_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="draws nothing"):
        PointSampling(points=0)


# --- masks --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 1000))
def test_mask_losses_are_the_plain_formulas(n: int, points: int, seed: int) -> None:
    logits = torch.randn(n, points, generator=seeded(seed), dtype=torch.float64) * 3
    truth = (torch.rand(n, points, generator=seeded(seed + 1)) > 0.5).double()
    entropy, dice = 0.0, 0.0
    for row, wanted in zip(logits.tolist(), truth.tolist(), strict=True):
        p = [1 / (1 + math.exp(-x)) for x in row]
        entropy += sum(-math.log(a if t else 1 - a) for a, t in zip(p, wanted, strict=True)) / points / n
        both = sum(a * t for a, t in zip(p, wanted, strict=True))
        dice += (1 - (2 * both + 1) / (sum(p) + sum(wanted) + 1)) / n
    assert float(bce_loss(logits, truth)) == pytest.approx(entropy)
    assert float(dice_loss(logits, truth)) == pytest.approx(dice)


def test_true_masks_cost_little_and_wrong_ones_much() -> None:
    masks = halves()
    right = mask_losses(logits_of(masks), masks, PointSampling(2000, importance=0.0), seeded())
    wrong = mask_losses(logits_of(~masks), masks, PointSampling(2000, importance=0.0), seeded())
    assert all(float(loss) < 0.1 for loss in right)
    assert float(wrong[0]) > 5
    assert float(wrong[1]) > 0.8


# --- the tasks ----------------------------------------------------------------------------------------------------


def segmentation(class_logits: torch.Tensor, mask_logits: torch.Tensor, classes: list[list[int]], n: int) -> TaskLoss:
    masks = [halves()[:n] if c else halves()[:0] for c in classes]
    wanted = [torch.tensor(c, dtype=torch.int64) for c in classes]
    return segmentation_loss(class_logits, mask_logits, wanted, masks, settings=FEW, generator=seeded())


def test_segmentation_entropy_weighs_queries_without_an_object_less() -> None:
    """Query 1 is the left half of class 2, query 3 the right half of class 0; the other two see nothing."""
    mask_logits = torch.full((1, 4, 8, 8), -8.0)
    mask_logits[0, [1, 3]] = logits_of(halves())
    class_logits = torch.randn(1, 4, 4, generator=seeded())
    loss = segmentation(class_logits, mask_logits, [[2, 0]], 2)
    log_p = class_logits[0].log_softmax(-1)
    expected = -(log_p[1, 2] + log_p[3, 0] + 0.1 * (log_p[0, 3] + log_p[2, 3])) / 2.2
    torch.testing.assert_close(loss.ce, expected)
    assert float(loss.dice) < 0.3
    assert float(loss.bce) < 0.8


def test_pictures_with_and_without_objects_in_one_batch() -> None:
    class_logits, mask_logits = torch.randn(2, 5, 4, generator=seeded()), torch.randn(2, 5, 8, 8, generator=seeded(1))
    class_logits.requires_grad_()
    mask_logits.requires_grad_()
    loss = segmentation(class_logits, mask_logits, [[1, 2], []], 2)
    loss.weighted(CODE.segmentation).backward()
    assert class_logits.grad is not None
    assert mask_logits.grad is not None
    assert class_logits.grad.abs().sum((1, 2)).min() > 0  # "no object" is learned on the empty picture
    assert mask_logits.grad[0].any()
    assert not mask_logits.grad[1].any()


def test_no_objects_cost_nothing_but_keep_the_graph() -> None:
    mask_logits = torch.randn(2, 5, 8, 8, requires_grad=True)
    none = [torch.zeros(0, 5), torch.zeros(0, 5)]
    masks = [torch.zeros(0, 32, 32, dtype=torch.bool)] * 2
    for task in (marks_loss, words_loss):
        loss = task(none, mask_logits, masks, settings=FEW)
        value = loss.weighted(PAPER.marks)
        assert value.item() == 0.0
        value.backward()
        assert mask_logits.grad is not None
        assert not mask_logits.grad.any()
    loss = segmentation(torch.randn(2, 5, 4), mask_logits, [[], []], 2)
    assert loss.ce.item() > 0
    assert loss.bce.item() == loss.dice.item() == 0


def test_marks_entropy_runs_over_all_queries_but_matching_keeps_to_ones_own() -> None:
    masks = halves()
    mask_logits = logits_of(masks[[1, 1, 0, 0]])[None]  # either object's mask lies with the other one's queries
    similarity = torch.tensor([[0.3, 0.1, 2.0, -1.0], [1.0, 0.0, 0.5, 0.7]])
    allowed = torch.tensor([[True, True, False, False], [False, False, True, True]])
    loss = marks_loss([similarity], mask_logits, [masks], allowed=[allowed], settings=FEW, generator=seeded())
    log_p = similarity.log_softmax(-1)
    torch.testing.assert_close(loss.ce, -(log_p[0, 0] + log_p[1, 3]) / 2)  # equal masks: the larger claim
    assert float(loss.dice) > 0.8
    free = marks_loss([similarity], mask_logits, [masks], settings=FEW, generator=seeded())
    torch.testing.assert_close(free.ce, -(log_p[0, 2] + log_p[1, 0]) / 2)


def test_words_that_say_the_same_share_their_queries() -> None:
    match = Match(torch.tensor([4, 1, 2]), torch.tensor([0, 1, 2]))
    shares = shared_targets(match, torch.tensor([7, 3, 7]), 5)
    assert shares.tolist() == [[0, 0, 0.5, 0, 0.5], [0, 1, 0, 0, 0], [0, 0, 0.5, 0, 0.5]]


def test_words_entropy_with_factors() -> None:
    masks = halves()
    mask_logits = logits_of(masks)[None].expand(2, -1, -1, -1)
    similarity = torch.randn(2, 2, generator=seeded())
    log_p = similarity.log_softmax(-1)
    settings_ = {"settings": FEW, "generator": seeded()}
    plain = words_loss([similarity], mask_logits[:1], [masks], **settings_)
    torch.testing.assert_close(plain.ce, -(log_p[0, 0] + log_p[1, 1]) / 2)
    shared = words_loss([similarity], mask_logits[:1], [masks], same=[torch.tensor([5, 5])], **settings_)
    torch.testing.assert_close(shared.ce, -log_p.mean())
    two = words_loss([similarity] * 2, mask_logits, [masks] * 2, factors=[CODE.sentence, CODE.class_name], **settings_)
    torch.testing.assert_close(two.ce, plain.ce * 1.25)


def test_deep_supervision_adds_weighted_layers() -> None:
    layers = [TaskLoss(*torch.tensor(values)) for values in ((1.0, 2.0, 3.0), (0.5, 0.0, 1.0))]
    assert float(total(layers, TaskWeights(2.0, 5.0, 7.0))) == 2 + 10 + 21 + 1 + 7


def test_the_two_presets() -> None:
    assert PAPER.segmentation == CODE.segmentation == TaskWeights(2.0, 5.0, 5.0)
    assert PAPER.marks == PAPER.words == TaskWeights(0.2, 2.0, 2.0)
    assert CODE.marks == CODE.words == TaskWeights(0.4, 1.0, 1.0)
    assert (CODE.sentence, CODE.class_name, PAPER.sentence, PAPER.class_name) == (2.0, 0.5, 1.0, 1.0)
    assert PAPER.no_object == CODE.no_object == 0.1


def test_learning_lowers_the_loss_under_autocast() -> None:
    """Masks and classes learned from nothing: the matching settles and the loss falls."""
    torch.manual_seed(0)
    class_logits = torch.zeros(1, 4, 3, requires_grad=True)
    mask_logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([class_logits, mask_logits], lr=0.2)
    values = []
    for _ in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = segmentation(class_logits, mask_logits, [[0, 1]], 2).weighted(CODE.segmentation)
        assert loss.dtype == torch.float32
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.2 * values[0]
