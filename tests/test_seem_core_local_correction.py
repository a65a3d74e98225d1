"""Corrections around marks: what a click takes in and leaves alone, strokes, marks that are obeyed already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Scene, iou, scene

from seem_core.errors import PromptError
from seem_core.local_correction import Correction, corrected, marked
from seem_core.prompts import PointPrompt, PolygonPrompt, ScribblePrompt
from seem_core.training.clicks import ClickMarks, next_click


@pytest.fixture(scope="module")
def two() -> Scene:
    return scene([[(80, 60), (230, 110)]])


def test_a_click_brings_back_what_is_missing_and_changes_nothing_far_off(two: Scene) -> None:
    image, (disc, other) = two.images[0], two.masks[0]
    half = disc.copy()
    half[:, 82:] = False
    found = corrected(image, half | other, [PointPrompt(95, 60)])
    assert iou(found & ~other, disc) > 0.85
    assert np.array_equal(found[:, 160:], other[:, 160:])
    assert (found >= (half | other)).all()


def test_a_negative_click_takes_a_piece_away_and_nothing_else(two: Scene) -> None:
    image, (disc, other) = two.images[0], two.masks[0]
    found = corrected(image, disc | other, [PointPrompt(230, 110, positive=False)])
    assert iou(found, disc) > 0.85
    assert np.array_equal(found[:, :140], disc[:, :140])


def test_marks_that_the_mask_obeys_change_nothing_and_hold(two: Scene) -> None:
    image, (disc, _) = two.images[0], two.masks[0]
    obeyed: list[Correction] = [
        PointPrompt(80, 60),
        PointPrompt(150, 20, positive=False),
        ScribblePrompt(((70, 60), (90, 60))),
    ]
    assert np.array_equal(corrected(image, disc, obeyed), disc)
    assert corrected(image, disc, []) is disc or np.array_equal(corrected(image, disc, []), disc)
    taken = corrected(image, disc, [PointPrompt(80, 60), PointPrompt(80, 70, positive=False)])
    assert taken[60, 80]
    assert not taken[70, 80]
    again = corrected(image, disc, [PointPrompt(80, 60), PointPrompt(80, 70, positive=False)])
    assert np.array_equal(taken, again)


def test_strokes_polygons_and_marks_of_others_correct_too(two: Scene) -> None:
    image, (disc, other) = two.images[0], two.masks[0]
    half = disc.copy()
    half[:, 82:] = False
    stroke = corrected(image, half, [ScribblePrompt(((90, 50), (95, 60), (90, 70)), width=3)])
    assert iou(stroke, disc) > iou(half, disc) + 0.1
    cut = corrected(image, disc | other, [PolygonPrompt(((215, 95), (245, 95), (230, 130)), positive=False)])
    assert not cut[100:105, 225:235].any()
    foreign = corrected(image, disc | other, [], [PointPrompt(230, 110, object_id=2)])
    assert not foreign[110, 230]
    assert iou(foreign, disc) > 0.85


def test_an_empty_mask_grows_and_a_full_one_shrinks(two: Scene) -> None:
    image, (disc, _) = two.images[0], two.masks[0]
    assert corrected(image, np.zeros_like(disc), [PointPrompt(80, 60)])[60, 80]
    assert not corrected(image, np.ones_like(disc), [PointPrompt(80, 60, positive=False)])[60, 80]
    with pytest.raises(PromptError, match="outside"):
        corrected(image, disc, [PointPrompt(1000, 60)])


def test_clicks_on_the_larger_error_come_closer(two: Scene) -> None:
    image, (disc, other) = two.images[0], two.masks[0]
    mask = np.roll(disc, 20, axis=1) | other
    marks = ClickMarks.none((disc.shape[0], disc.shape[1]))
    prompts: list[Correction] = []
    for _ in range(6):
        click = next_click(disc, mask, marks)
        if click is None:
            break
        marks = marks.with_click(click)
        prompts.append(PointPrompt(click.column, click.row, click.positive))
        mask = corrected(image, mask, prompts)
    assert iou(mask, disc) > 0.85


@settings(max_examples=25, deadline=None)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 29), st.booleans()), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
)
def test_all_marks_are_obeyed_where_they_do_not_contradict_each_other(
    clicks: list[tuple[int, int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    mask = rng.random((30, 40)) < 0.5
    prompts = [PointPrompt(x, y, positive) for x, y, positive in clicks]
    yes = marked([p for p in prompts if p.positive], (30, 40))
    no = marked([p for p in prompts if not p.positive], (30, 40))
    found = corrected(image, mask, prompts)
    assert found.shape == mask.shape
    assert found[yes & ~no].all()
    assert not found[no].any()
