"""Simulated users, decoder, matcher and losses together: a tiny SEEM learns one picture from marks and corrections."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tiny_seem import random_image, rectangles, tiny_seem
from torch import Tensor

from seem_core.decoder import DecoderOutput, DecoderPrompts
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.selection import choose_by_marks
from seem_core.training.clicks import ClickMarks, next_click
from seem_core.training.losses import CODE, LossSettings, marks_loss, segmentation_loss, total
from seem_core.training.mask_points import PointSampling
from seem_core.training.strokes import mark_objects
from seem_core.visual_sampler import VisualTokens

FEW = LossSettings(sampling=PointSampling(points=400))
SIZE = (64, 96)
OBJECTS = rectangles(*SIZE, (8, 40, 8, 40), (20, 60, 56, 90))


def answer(model: Seem, features: ImageFeatures, tokens: VisualTokens, output: DecoderOutput) -> Tensor:
    """(N, h, w) mask logits that the model gives for its two objects."""
    assert output.spatial is not None
    choice = choose_by_marks(output.spatial, tokens.positive, model.decoder.config.queries_per_object)
    return features.mask_features.logits(choice.mask_embeddings)[0]


def corrected(marks: ClickMarks, logits: Tensor, truth: Tensor) -> ClickMarks:
    """Marks and one more click after an answer (h, w)."""
    mask = F.interpolate(logits[None, None], size=SIZE, mode="bilinear")[0, 0] > 0
    return marks.with_click(next_click(truth.numpy(), mask.numpy(), marks))


def losses_of(model: Seem, features: ImageFeatures, generator: np.random.Generator) -> Tensor:
    """One round without a gradient, a click on each object's larger error, then one with a gradient and memory."""
    points = torch.Generator().manual_seed(int(generator.integers(2**31)))
    drawn = mark_objects(OBJECTS.numpy(), generator, scale=0.1)
    with torch.no_grad():
        tokens = model.sample(features, torch.from_numpy(drawn))
        previous = answer(model, features, tokens, model.decode(features, DecoderPrompts(stroke=tokens)))
    marks = [
        corrected(ClickMarks(mark, np.zeros_like(mark)), logits, truth)
        for mark, logits, truth in zip(drawn, previous, OBJECTS, strict=True)
    ]
    positive = torch.from_numpy(np.stack([mark.positive for mark in marks]))
    negative = torch.from_numpy(np.stack([mark.negative for mark in marks]))
    tokens = model.sample(features, positive, negative)
    output = model.decode(features, DecoderPrompts(stroke=tokens, previous_mask=previous[None]), earlier=True)
    owner = torch.arange(6) // model.decoder.config.queries_per_object
    own = owner[None] == torch.arange(2)[:, None]  # (2, 6)
    by_marks, of_all = [], []
    for layer in (*output.earlier, output):
        assert layer.spatial is not None
        assert layer.objects is not None
        assert layer.spatial.masks is not None
        assert layer.objects.masks is not None
        similarity = (layer.spatial.mask_embeddings @ tokens.positive.transpose(1, 2))[0].T
        by_marks.append(
            marks_loss([similarity], layer.spatial.masks, [OBJECTS], allowed=[own], settings=FEW, generator=points)
        )
        logits, masks = layer.objects.class_vectors[..., :3], layer.objects.masks
        classes = torch.tensor([0, 1])
        of_all.append(segmentation_loss(logits, masks, [classes], [OBJECTS], settings=FEW, generator=points))
    return total(by_marks, CODE.marks) + total(of_all, CODE.segmentation)


def test_the_decoder_learns_one_picture() -> None:
    model = tiny_seem("v1")
    with torch.no_grad():
        features = model.encode_image(random_image(*SIZE))
    optimiser = torch.optim.AdamW(model.decoder.parameters(), lr=3e-3)
    generator = np.random.default_rng(0)
    values = []
    for _ in range(12):
        loss = losses_of(model, features, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert np.mean(values[-3:]) < 0.85 * values[0]
    untouched = [name for name, p in model.decoder.named_parameters() if p.grad is None]
    assert not untouched, untouched


def test_the_same_seeds_give_the_same_loss() -> None:
    model = tiny_seem("v1")
    with torch.no_grad():
        features = model.encode_image(random_image(*SIZE))
    first, again = (losses_of(model, features, np.random.default_rng(5)).item() for _ in range(2))
    assert first == again
