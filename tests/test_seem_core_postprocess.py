"""Panoptic, semantic and instance rules, and the choice of a query, on hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch

from seem_core.decoder import QueryOutput
from seem_core.postprocess import instance_segmentation, panoptic_segmentation, semantic_segmentation
from seem_core.selection import choose_by_marks, choose_by_words

HIGH = 10.0


def queries(*rows: tuple[int, slice]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sure class logits over 3 classes and "none", and masks that cover columns of a 4 x 8 map."""
    classes, masks = torch.full((len(rows), 4), -HIGH), torch.full((len(rows), 4, 8), -HIGH)
    for q, (class_index, columns) in enumerate(rows):
        classes[q, class_index] = HIGH
        masks[q, :, columns] = HIGH
    return classes, masks


def panoptic(*rows: tuple[int, slice]):
    return panoptic_segmentation(*queries(*rows), {0, 1}, object_threshold=0.8, overlap_threshold=0.8)


def test_things_stay_apart_and_stuff_is_merged() -> None:
    result = panoptic((0, slice(0, 2)), (0, slice(2, 4)), (2, slice(4, 6)), (2, slice(6, 8)))
    assert result.ids[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]
    assert [(s.id, s.class_index, s.is_thing) for s in result.segments] == [(1, 0, True), (2, 0, True), (3, 2, False)]


def test_no_object_and_hidden_segments_are_left_out() -> None:
    result = panoptic((3, slice(0, 8)), (0, slice(0, 4)), (1, slice(0, 4)))
    assert [s.class_index for s in result.segments] == [0]  # the second is wholly under the first
    assert result.ids[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_nothing_found_is_an_empty_map() -> None:
    result = panoptic((3, slice(0, 8)))
    assert result.segments == ()
    assert not result.ids.any()


def test_semantic_sums_over_queries() -> None:
    scores = semantic_segmentation(*queries((0, slice(0, 4)), (2, slice(4, 8))))
    assert scores.shape == (3, 4, 8)
    assert scores.argmax(dim=0)[0].tolist() == [0] * 4 + [2] * 4


def test_instances_are_scored_by_class_and_mask() -> None:
    classes, masks = queries((0, slice(0, 4)), (2, slice(4, 8)))
    masks[0] = masks[0].clamp(max=math.log(3))  # sigmoid 0.75
    found = instance_segmentation(classes, masks, top=2)
    by_class = dict(zip(found.classes.tolist(), found.scores.tolist(), strict=True))
    assert by_class == pytest.approx({0: 0.75, 2: 1.0}, abs=1e-3)
    assert instance_segmentation(classes, masks, top=2, things={0}).classes.tolist() == [0]


def test_an_empty_mask_scores_nothing() -> None:
    classes, masks = queries((0, slice(0, 0)))
    assert instance_segmentation(classes, masks, top=1).scores.tolist() == [0.0]


def test_marks_choose_by_dot_product_within_the_object() -> None:
    embeddings = torch.eye(6)[None]
    output = QueryOutput(embeddings, embeddings)
    positive = torch.tensor([[[0, 1.0, 0, 0, 9, 0], [0, 9.0, 0, 0, 0, 1]]])
    free = choose_by_marks(output, positive)
    assert free.indices.tolist() == [[4, 1]]
    own = choose_by_marks(output, positive, queries_per_object=3)
    assert own.indices.tolist() == [[1, 5]]
    assert torch.equal(own.mask_embeddings[0], embeddings[0, [1, 5]])


def test_words_choose_by_direction_alone() -> None:
    vectors = torch.tensor([[[100.0, 100.0], [0.0, 0.1]]])
    choice = choose_by_words(QueryOutput(vectors, vectors), torch.tensor([[0.0, 5.0]]), torch.tensor(math.log(1000)))
    assert choice.indices.tolist() == [[1]]
    assert choice.similarity.max().item() == pytest.approx(100.0, rel=1e-4)  # the scale is clamped
