"""The visual sampler: counts, caps, padding, generators, layouts."""

from __future__ import annotations

import pytest
import torch
from tiny_seem import random_image, rectangles, tiny_seem

from seem_core.errors import PromptError
from seem_core.visual_sampler import _draw, add_views, join_objects, stack_objects

SMALL, OTHER, LARGE = (8, 12, 8, 13), (30, 33, 40, 45), (0, 40, 0, 50)  # 20, 15 and 2000 pixels; the cap is 40


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def marks(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    return rectangles(64, 96, *boxes)


@pytest.mark.parametrize("routing", ["demo", "v1"])
def test_one_token_per_pixel_and_level(routing: str) -> None:
    model = tiny_seem(routing)
    tokens = model.sample(model.encode_image(random_image(64, 96)), marks(SMALL), marks(OTHER))
    assert [level.shape for level in tokens.levels] == [(1, 35, 32)] * 3
    assert not any(padding.any() for padding in tokens.padding)
    assert repr(tokens) == "VisualTokens(batch=1, objects=1, tokens per level=(35, 35, 35))"


def test_batch_is_padded_and_joint_sequence_is_not() -> None:
    features = tiny_seem("v0").encode_image(random_image(64, 96))
    batch = tiny_seem("v0").sample(features, marks(SMALL, OTHER))
    assert (batch.batch, batch.object_count) == (2, 1)
    assert batch.padding[0].sum(dim=1).tolist() == [0, 5]
    assert batch.objects[0][1, -5:].tolist() == [-1] * 5
    joint = tiny_seem("v1").sample(features, marks(SMALL, OTHER))
    assert (joint.batch, joint.object_count) == (1, 2)
    assert joint.objects[0][0].bincount().tolist() == [20, 15]
    torch.testing.assert_close(joint.positive[0], batch.positive[:, 0])


@pytest.mark.parametrize("routing", ["v0", "v1"])
def test_the_generator_decides_beyond_the_cap(routing: str) -> None:
    model = tiny_seem(routing)
    features = model.encode_image(random_image(64, 96))

    def sample(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        tokens = model.sample(features, marks(LARGE), generator=generator)
        assert tokens.levels[0].shape[1] == 40
        return torch.cat([*(level.flatten() for level in tokens.levels), tokens.positive.flatten()])

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert torch.equal(sample(None), sample(None))


def test_joint_cap_is_shared_fairly() -> None:
    model = tiny_seem("v1")
    tokens = model.sample(model.encode_image(random_image(64, 96)), marks(SMALL, LARGE))
    small, large = tokens.objects[0][0].bincount().tolist()
    assert small + large == 40
    assert small >= 10  # drawn by share of points it would get 0.4 of a token


def test_draw_is_sorted_and_without_repetition() -> None:
    kept = _draw(torch.ones(1000), 100, torch.Generator().manual_seed(0))
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == 100


@pytest.mark.parametrize(("routing", "value"), [("demo", 0.0), ("v0", 0.0), ("v1", -1.0)])
def test_nothing_marked_has_a_defined_mean(routing: str, value: float) -> None:
    model = tiny_seem(routing)
    tokens = model.sample(model.encode_image(random_image(64, 96)), marks(SMALL))
    assert torch.equal(tokens.negative, torch.full_like(tokens.negative, value))


def test_stacking_equals_sampling_together() -> None:
    model = tiny_seem("v0")
    features = model.encode_image(random_image(64, 96))
    together = model.sample(features, marks(SMALL, OTHER))
    stacked = stack_objects([model.sample(features, marks(SMALL)), model.sample(features, marks(OTHER))])
    for level in range(3):
        real = ~together.padding[level]
        assert torch.equal(together.padding[level], stacked.padding[level])
        assert torch.equal(together.objects[level], stacked.objects[level])
        torch.testing.assert_close(together.levels[level][real], stacked.levels[level][real])
    torch.testing.assert_close(together.positive, stacked.positive)


def test_joining_renumbers_objects() -> None:
    model = tiny_seem("v1")
    features = model.encode_image(random_image(64, 96))
    joined = join_objects([model.sample(features, marks(SMALL, OTHER)), model.sample(features, marks(SMALL))])
    assert joined.objects[0][0].bincount().tolist() == [20, 15, 20]
    assert joined.positive.shape == (1, 3, 32)


def test_views_of_one_object_follow_each_other() -> None:
    model = tiny_seem("v0")
    features = model.encode_image(random_image(64, 96))
    first, second = model.sample(features, marks(SMALL)), model.sample(features, marks(OTHER))
    both = add_views([first, second])
    assert both.levels[1].shape[1] == 35
    torch.testing.assert_close(both.positive, (first.positive + second.positive) / 2)


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        (torch.zeros(1, 60, 96, dtype=torch.bool), None, "64, 96"),
        (torch.zeros(1, 64, 96), None, "float32"),
        (torch.zeros(0, 64, 96, dtype=torch.bool), None, "no object"),
        (torch.zeros(2, 64, 96, dtype=torch.bool), torch.zeros(1, 64, 96, dtype=torch.bool), "2 positive masks and 1"),
    ],
)
def test_bad_masks_are_refused(positive: torch.Tensor, negative: torch.Tensor | None, message: str) -> None:
    model = tiny_seem("v0")
    with pytest.raises(PromptError, match=message):
        model.sample(model.encode_image(random_image(64, 96)), positive, negative)
