"""Prompts on the input canvas: where they are drawn, at any resize, and what takes precedence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seem_core.errors import PromptError
from seem_core.geometry import Geometry, InputSize
from seem_core.prompt_canvas import check_mark, draw_marks, mask_on_canvas
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, ScribblePrompt, TextPrompt

SAME = Geometry((40, 60), (40, 60), (64, 64))


def marked(prompt: object, geometry: Geometry = SAME) -> set[tuple[int, int]]:
    """(x, y) of all positive pixels."""
    canvas = draw_marks([prompt], geometry).positive[0]  # type: ignore[list-item]
    return {(int(x), int(y)) for y, x in canvas.nonzero()}


def test_a_point_is_three_pixels_wide_and_cut_at_the_border() -> None:
    assert marked(PointPrompt(10, 20)) == {(x, y) for x in (9, 10, 11) for y in (19, 20, 21)}
    assert marked(PointPrompt(59.4, 0)) == {(x, y) for x in (58, 59) for y in (0, 1)}


def test_a_box_is_filled_between_its_corners() -> None:
    assert marked(BoxPrompt(3, 4, 5, 5)) == {(x, y) for x in (3, 4, 5) for y in (4, 5)}
    assert len(marked(BoxPrompt(-0.5, -0.5, 60, 40))) == 40 * 60


def test_a_polygon_is_filled_and_a_stroke_is_a_line() -> None:
    assert marked(PolygonPrompt(((2, 2), (6, 2), (6, 4), (2, 4)))) == {(x, y) for x in range(2, 7) for y in (2, 3, 4)}
    assert marked(ScribblePrompt(((2, 7), (6, 7)), width=1)) == {(x, 7) for x in range(2, 7)}
    assert (8, 8) in marked(ScribblePrompt(((8, 8),), width=3))


def test_a_mask_is_itself() -> None:
    mask = np.zeros((40, 60), bool)
    mask[3:5, 10:13] = True
    assert marked(MaskPrompt(mask)) == {(x, y) for x in (10, 11, 12) for y in (3, 4)}


def test_negative_takes_out_of_positive_and_objects_stay_apart() -> None:
    prompts = [
        BoxPrompt(0, 0, 20, 20, object_id=5),
        PointPrompt(10, 10, positive=False, object_id=5),
        PointPrompt(10, 10, object_id=2),
        TextPrompt("no mark", object_id=9),
    ]
    canvases = draw_marks(prompts, SAME)
    assert canvases.ids == (2, 5)
    assert int(canvases.positive[1].sum()) == 21 * 21 - 9
    assert int(canvases.negative[1].sum()) == 9
    assert int(canvases.negative[0].sum()) == 0
    assert not (canvases.positive & canvases.negative).any()
    assert canvases.positive.shape == (2, 64, 64)


def test_no_mark_at_all_is_no_canvas() -> None:
    assert draw_marks([TextPrompt("a cat")], SAME).positive.shape == (0, 64, 64)


@settings(deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    across=st.floats(0, 1),
    down=st.floats(0, 1),
    data=st.data(),
)
def test_every_mark_leaves_a_trace_where_it_is(
    height: int, width: int, across: float, down: float, data: st.DataObject
) -> None:
    """A click, a thin stroke, a small box and a mask of one pixel, on pictures made much smaller or larger."""
    geometry = Geometry.plan((height, width), InputSize(64, 256), 32)
    x, y = across * (width - 1), down * (height - 1)
    mask = np.zeros((height, width), bool)
    mask[round(y), round(x)] = True
    prompt = data.draw(
        st.sampled_from(
            [
                PointPrompt(x, y),
                ScribblePrompt(((x, y), (x, y)), width=1),
                PolygonPrompt(((x, y), (x, y), (x, y))),
                BoxPrompt(x - 0.25, y - 0.25, x + 0.25, y + 0.25),
                MaskPrompt(mask),
            ]
        )
    )
    canvas = draw_marks([prompt], geometry).positive[0]
    h, w = geometry.image
    rows, columns = canvas.nonzero(as_tuple=True)
    assert len(rows)
    assert int(rows.max()) < h
    assert int(columns.max()) < w
    # within three canvas pixels, or two source pixels where the picture grew
    assert float((rows.float() + 0.5 - (y + 0.5) * h / height).abs().max()) <= 3 + 2 * h / height
    assert float((columns.float() + 0.5 - (x + 0.5) * w / width).abs().max()) <= 3 + 2 * w / width


def test_a_mask_between_the_samples_is_not_lost() -> None:
    geometry = Geometry((1000, 1000), (32, 32), (32, 32))
    mask = torch.zeros(1, 1000, 1000, dtype=torch.bool)
    mask[0, 3, 996] = True
    assert not geometry.mask_to_padded(mask).any()
    assert mask_on_canvas(mask, geometry)[0].nonzero().tolist() == [[0, 31]]


def test_a_scribble_wider_than_the_picture_covers_it() -> None:
    assert len(marked(ScribblePrompt(((1, 1), (2, 2)), width=1e9))) == 40 * 60


def test_polygons_need_three_corners() -> None:
    with pytest.raises(PromptError, match="three corners, not 2"):
        PolygonPrompt(((0, 0), (1, 1)))
    with pytest.raises(PromptError, match="polygon 60,0 lies outside"):
        check_mark(PolygonPrompt(((0, 0), (1, 1), (60, 0))), (40, 60))
