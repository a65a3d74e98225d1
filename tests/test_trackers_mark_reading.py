"""Marks read from several views: where the views lie, what of their answers counts, and what happens without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import Scene, iou, scene
from tiny_seem import tiny_seem

from seem_core.errors import PromptError
from seem_core.geometry import InputSize
from seem_core.prompt_canvas import Mark
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt
from seem_core.segmenter import SeemFeatures, SeemSegmenter
from seem_core.segmenter_types import Prediction, masks_as_prediction
from trackers.mark_reading import View, marked_parts, read_marks


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(80, 60), (230, 110)]])


class ByColour(SeemSegmenter):
    """Finds what is red or blue in the view that it is shown, where that is `least` of it or more."""

    def __init__(self, least: float = 0.0, views: list[tuple[int, int]] | None = None) -> None:
        super().__init__(tiny_seem("v1"), input_size=InputSize(180))
        self.least = least
        self.views: list[tuple[int, int]] = [] if views is None else views
        self.asked: list[Prompt] = []

    def at(self, input_size: InputSize) -> SeemSegmenter:
        return ByColour(self.least, self.views)

    def encode(self, image: torch.Tensor) -> Any:
        self.views.append((image.shape[1], image.shape[2]))
        return SeemFeatures(image, self.plan((image.shape[1], image.shape[2])))  # type: ignore[arg-type]

    def segment(self, features: Any, prompts: Sequence[Prompt], previous: Any = None, **_: Any) -> Prediction:
        """The checked prompts of the real one, its own masks."""
        self._requests(super().encode(features.image), prompts, None)
        self.asked = list(prompts)
        red, _, blue = features.image
        found = torch.maximum(red, blue) > 125
        ids = sorted({p.object_id for p in prompts})
        found = found & (found.float().mean() >= self.least)
        return masks_as_prediction(found[None].expand(len(ids), -1, -1), features.geometry, ids)


@pytest.mark.parametrize(
    "mark",
    [
        PointPrompt(80, 60, object_id=7),
        BoxPrompt(52, 32, 108, 88, 7),
        ScribblePrompt(((70, 60), (90, 66)), object_id=7),
        PolygonPrompt(((70, 50), (90, 50), (80, 70)), object_id=7),
        MaskPrompt(np.pad(np.ones((10, 10), bool), ((60, 110), (80, 230))), 7),
    ],
)
def test_every_kind_of_mark_is_read_and_only_what_it_touches_counts(two: Scene, mark: Mark) -> None:
    model = ByColour()
    found = read_marks(two.images[0], {7: [mark]}, model)
    assert iou(found[7], two.masks[0][0]) > 0.85
    assert not (found[7] & two.masks[0][1]).any()
    assert model.views[-1] == model.views[-2]
    assert model.views[-1][1] < 120  # closer, and the same again in a mirror


def test_a_box_needs_no_look_at_the_whole_and_bounds_the_answer(two: Scene) -> None:
    model = ByColour()
    found = read_marks(
        two.images[0], {1: [BoxPrompt(60, 40, 100, 80, 1)], 2: [PointPrompt(230, 110, object_id=2)]}, model
    )
    assert model.views.count((180, 320)) == 1
    assert len(model.views) == 5
    assert not found[1][:, :59].any()
    assert not found[1][82:].any()
    assert iou(found[2], two.masks[0][1]) > 0.85


def test_a_small_object_is_searched_around_its_marks(two: Scene) -> None:
    share = two.masks[0][0].sum() / two.masks[0][0].size
    found = read_marks(two.images[0], {1: [PointPrompt(80, 60)]}, ByColour(least=3 * share))
    assert iou(found[1], two.masks[0][0]) > 0.85
    nothing = read_marks(two.images[0], {1: [PointPrompt(80, 60)]}, ByColour(least=2.0))
    assert not nothing[1].any()


def test_negative_marks_that_hide_the_positive_ones_are_left_to_corrections(two: Scene) -> None:
    image = np.repeat(np.repeat(two.images[0], 4, axis=0), 4, axis=1)  # encoded four times smaller
    around = [PointPrompt(320 + x, 240 + y, positive=False) for x in (-3, 3) for y in (-3, 3)]
    found = read_marks(image, {1: [PointPrompt(320, 240), *around]}, ByColour())
    assert found[1][240, 320]
    for refused in ([PointPrompt(320, 240, positive=False)], [PointPrompt(5000, 240)]):
        with pytest.raises(PromptError):
            read_marks(image, {1: refused}, ByColour())


def test_parts_that_no_mark_touches_do_not_count() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:8, 2:8] = mask[2:8, 20:28] = True
    assert np.array_equal(marked_parts(mask, [PointPrompt(4, 4)])[:, :15], mask[:, :15])
    assert not marked_parts(mask, [PointPrompt(4, 4)])[:, 15:].any()
    assert not marked_parts(mask, [PointPrompt(15, 15)]).any()
    assert marked_parts(mask, [BoxPrompt(0, 0, 4, 4)]).sum() == 9


@given(
    left=st.integers(0, 9), top=st.integers(0, 9), w=st.integers(1, 20), h=st.integers(1, 20), x=st.integers(0, 29),
    y=st.integers(0, 29), mirrored=st.booleans(),
)  # fmt: skip
def test_a_place_in_a_view_shows_the_same_pixel(
    left: int, top: int, w: int, h: int, x: int, y: int, mirrored: bool
) -> None:
    view = View(left, top, left + w, top + h, mirrored)
    picture: npt.NDArray[np.int64] = np.arange(900).reshape(30, 30)
    click = PointPrompt(x, y)
    if view.shows(click):
        moved = view.moved(click)
        assert isinstance(moved, PointPrompt)
        assert view.of(picture)[int(moved.y), int(moved.x)] == picture[y, x]
    else:
        assert not (left <= x < left + w and top <= y < top + h)
    other = replace(view, mirrored=not mirrored)
    assert np.array_equal(other.of(picture), view.of(picture)[:, ::-1])
