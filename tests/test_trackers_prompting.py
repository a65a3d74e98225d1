"""Masks of prompts: as they are, by colour, and by a segmenter with corrections of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, iou, scene
from tiny_seem import tiny_seem

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import Prediction
from trackers.base import ObjectMasks
from trackers.prompting import given_masks, references


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(80, 60), (230, 110)]])


def known(found: Scene, ids: tuple[int, ...] = (1, 2)) -> ObjectMasks:
    labels = np.zeros(found.images[0].shape[:2], np.uint8)
    for i, mask in zip(ids, found.masks[0], strict=True):
        labels[mask] = i
    return ObjectMasks(ids, labels, np.ones(len(ids), np.float32), np.zeros(len(ids), bool))


class Recorder(SeemSegmenter):
    """Keeps what it was asked, and answers with a mask where a box says so, else with nothing."""

    def __init__(self, routing: Any = "v0", empty: bool = False) -> None:
        super().__init__(tiny_seem(routing))
        self.asked: list[Prompt] = []
        self.previous: Prediction | None = None
        self.encoded = 0
        self._empty = empty

    def encode(self, image: torch.Tensor) -> Any:
        self.encoded += 1
        return super().encode(image)

    def segment(self, features: Any, prompts: Sequence[Prompt], previous: Prediction | None = None, **_: Any) -> Any:
        self.asked, self.previous = list(prompts), previous
        found = super().segment(features, prompts, previous)
        logits = torch.full_like(found.logits, -1.0 if self._empty else 1.0)
        return Prediction(found.ids, logits, found.scores, found.geometry)


def test_masks_come_back_as_they_are_and_add_up(two: Scene) -> None:
    image, (a, b) = two.images[0], two.masks[0]
    given = given_masks(image, [MaskPrompt(a, 7), MaskPrompt(b, 3), MaskPrompt(b, 7)], None)
    assert list(given) == [7, 3]
    assert np.array_equal(given[7], a | b)
    assert np.array_equal(given[3], b)
    assert given_masks(image, [], known(two)) == {}


def test_a_bad_mask_is_refused_also_beside_marks(two: Scene) -> None:
    image = two.images[0]
    for more in ([], [PointPrompt(80, 60, True, 1)]):
        with pytest.raises(MaskError, match="of object 1 is 4x3, the frame 320x180"):
            given_masks(image, [MaskPrompt(np.ones((3, 4), bool)), *more], None)
        with pytest.raises(PromptError, match="is empty"):
            given_masks(image, [MaskPrompt(np.zeros(image.shape[:2], bool)), *more], None)


def test_marks_are_read_by_colour_without_a_segmenter(two: Scene) -> None:
    given = given_masks(two.images[0], [BoxPrompt(50, 30, 110, 90, 1), PointPrompt(230, 110, True, 2)], None)
    assert iou(given[1], two.masks[0][0]) > 0.7
    assert given[2][110, 230]
    with pytest.raises(PromptError, match="outside"):
        given_masks(two.images[0], [PointPrompt(900, 3)], None)


def test_the_shipped_model_reads_marks_and_corrections_stay_near_them(
    two: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, (a, b) = two.images[0], two.masks[0]
    asked: list[dict[int, Sequence[Prompt]]] = []

    def read(image: Any, prompts: dict[int, Sequence[Prompt]], segmenter: Any, borders: Any) -> dict[int, Any]:
        """Finds the first disc for objects 1 and 2, nothing for others."""
        asked.append(prompts)
        return {i: a.copy() if i <= 2 else np.zeros_like(a) for i in prompts}

    monkeypatch.setattr("trackers.prompting.shipped_segmenter", lambda: object())
    monkeypatch.setattr("trackers.prompting.read_marks", read)
    given = given_masks(image, [PointPrompt(80, 60, object_id=1), PointPrompt(230, 110, object_id=3)], None)
    assert np.array_equal(given[1], a)
    assert given[3][110, 230]  # by colour
    assert list(asked[0]) == [1, 3]
    corrections: list[Prompt] = [
        PointPrompt(155, 20, positive=False),
        ScribblePrompt(((230, 105), (230, 115)), object_id=5),
    ]
    kept = given_masks(image, corrections, known(two, (1, 5)))
    assert len(asked) == 1
    assert iou(kept[1], a) > 0.99  # obeyed already
    assert iou(kept[5], b) > 0.99
    with_negative = given_masks(image, [PointPrompt(80, 60), PointPrompt(80, 80, positive=False)], None)
    assert not with_negative[1][80, 80]
    assert with_negative[1][60, 80]
    stroke = given_masks(image, [ScribblePrompt(((80, 60), (140, 60)))], None)
    assert stroke[1][60, 140]
    assert np.count_nonzero(stroke[1] & ~a) < 200  # painted over, not grown


def test_marks_beside_a_mask_correct_it_and_others_repel(two: Scene) -> None:
    image, (a, b) = two.images[0], two.masks[0]
    given = given_masks(image, [MaskPrompt(a | b, 4), PointPrompt(230, 110, False, 4)], None)
    assert iou(given[4], a) > 0.85
    shared = given_masks(
        image, [MaskPrompt(a | b, 4), PointPrompt(80, 60, True, 4), PointPrompt(230, 110, True, 6)], None
    )
    assert not shared[4][110, 230]
    kept = given_masks(image, [MaskPrompt(a, 4), PointPrompt(80, 60, True, 4)], known(two, (1, 4)))
    assert np.array_equal(kept[4], a)  # the mask that is given counts, not the one before


def test_marks_that_leave_nothing_leave_the_mask(two: Scene) -> None:
    image = two.images[0]
    dot = np.zeros(image.shape[:2], bool)
    dot[60, 80] = True
    given = given_masks(image, [MaskPrompt(dot, 4), PointPrompt(80, 60, False, 4)], None)
    assert np.array_equal(given[4], dot)


def test_words_need_a_segmenter(two: Scene) -> None:
    with pytest.raises(PromptError, match=r"object 4 is given in words.*give --model"):
        given_masks(two.images[0], [TextPrompt("a disc", 4)], None)


def test_references_stay_with_the_tracker(two: Scene) -> None:
    image = two.images[0]
    first, second = ReferencePrompt(image, two.masks[0][0], 5), ReferencePrompt(image, two.masks[0][1], 6)
    prompts = [first, second, MaskPrompt(two.masks[0][1], 6), first]
    assert list(given_masks(image, prompts, None)) == [6]
    assert references(prompts) == {5: (first, first), 6: (second,)}
    assert references(prompts[2:3]) == {}
    with pytest.raises(PromptError, match="reference mask of object 5 is empty"):
        references([ReferencePrompt(image, np.zeros(image.shape[:2], bool), 5)])


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_a_segmenter_is_asked_once_about_all_that_is_not_a_mask(two: Scene, routing: str) -> None:
    segmenter = Recorder(routing)
    image = two.images[0]
    features = segmenter.encode(torch.from_numpy(image).permute(2, 0, 1))
    prompts = [PointPrompt(80, 60, True, 9), MaskPrompt(two.masks[0][1], 2), BoxPrompt(200, 80, 250, 140, 4)]
    given = given_masks(image, prompts, None, segmenter=segmenter, features=features)
    assert segmenter.encoded == 1
    assert segmenter.asked == [prompts[0], prompts[2]]
    assert segmenter.previous is None
    assert np.array_equal(given[2], two.masks[0][1])
    assert given[9].all()
    assert given_masks(image, prompts[:1], None, segmenter=segmenter)[9].all()
    assert segmenter.encoded == 2


def test_points_correct_what_is_known_and_boxes_start_anew(two: Scene) -> None:
    segmenter = Recorder("v0")
    correct, anew = ScribblePrompt(((80, 60), (90, 60)), object_id=1), BoxPrompt(200, 80, 250, 140, 2)
    given_masks(two.images[0], [correct, anew], known(two), segmenter=segmenter)
    assert segmenter.previous is not None
    assert segmenter.previous.ids == (1,)
    assert iou(segmenter.previous.mask(1), two.masks[0][0]) > 0.6  # on the coarse grid of the tiny model
    assert segmenter.asked == [correct, anew]


@pytest.mark.parametrize(
    ("routing", "positive", "marked"),
    [("v0", True, False), ("v0", False, True), ("demo", True, True), ("demo", False, True)],
)
def test_a_known_mask_stands_for_earlier_clicks(two: Scene, routing: str, positive: bool, marked: bool) -> None:
    segmenter = Recorder(routing)
    given_masks(two.images[0], [PointPrompt(80, 60, positive, 1)], known(two), segmenter=segmenter)
    masks = [p for p in segmenter.asked if isinstance(p, MaskPrompt)]
    assert bool(masks) == marked
    assert (segmenter.previous is not None) == (routing == "v0")
    if marked:
        assert np.array_equal(masks[0].mask, two.masks[0][0])
    corners = ((70, 50), (90, 50), (80, 70))
    given_masks(two.images[0], [PolygonPrompt(corners, positive, 1)], known(two), segmenter=segmenter)
    assert any(isinstance(p, MaskPrompt) for p in segmenter.asked) == (not positive)


def test_negative_marks_need_something_to_correct(two: Scene) -> None:
    for segmenter in (None, Recorder("v0")):
        with pytest.raises(PromptError):
            given_masks(two.images[0], [PointPrompt(80, 60, False, 3)], known(two), segmenter=segmenter)


def test_where_the_segmenter_finds_nothing_colour_answers_for_marks(two: Scene) -> None:
    segmenter = Recorder("v0", empty=True)
    given = given_masks(two.images[0], [BoxPrompt(50, 30, 110, 90, 1)], None, segmenter=segmenter)
    assert iou(given[1], two.masks[0][0]) > 0.7
    with pytest.raises(PromptError, match="fits the words of object 2"):
        given_masks(two.images[0], [TextPrompt("a disc", 2)], None, segmenter=segmenter)
