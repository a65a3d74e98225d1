"""The three routings: the table as published, and the mask made from it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seem_core.routing import PER_OBJECT, ROUTINGS, Group, TokenSpan, attention_mask

G = Group
# SPEC §5.1, written out as pairs (reader, what it reads).
DEMO = {
    *((G.OBJECT, column) for column in (G.OBJECT, G.TEXT, G.STROKE, G.VISUAL, G.AUDIO)),
    *((G.TEXT, G.OBJECT), (G.TEXT, G.TEXT), (G.STROKE, G.STROKE), (G.VISUAL, G.VISUAL)),
    *((G.AUDIO, G.OBJECT), (G.AUDIO, G.AUDIO)),
}
QUERY_GROUPS = {
    *((G.OBJECT, G.OBJECT), (G.GROUNDING, G.GROUNDING), (G.GROUNDING, G.TEXT)),
    *((G.SPATIAL, G.SPATIAL), (G.SPATIAL, G.STROKE), (G.SPATIAL, G.MEMORY)),
    *((G.TEXT, G.GROUNDING), (G.TEXT, G.TEXT), (G.STROKE, G.STROKE), (G.MEMORY, G.MEMORY)),
}


@pytest.mark.parametrize(("name", "pairs"), [("demo", DEMO), ("v0", QUERY_GROUPS)])
def test_mask_is_the_published_table(name: str, pairs: set[tuple[Group, Group]]) -> None:
    spans = [TokenSpan(group, 2) for group in Group]
    mask = attention_mask(ROUTINGS[name], spans, spans)
    for i, row in enumerate(Group):
        for j, column in enumerate(Group):
            block = mask[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert bool(block.all()) == bool(block.any()) == ((row, column) in pairs), (row, column)


def test_v1_reads_as_v0_within_one_object() -> None:
    one = torch.zeros(1, 2, dtype=torch.int64)
    spans = [TokenSpan(group, 2, objects=one) for group in Group]
    assert torch.equal(attention_mask(ROUTINGS["v1"], spans, spans), attention_mask(ROUTINGS["v0"], spans, spans))


@given(st.lists(st.sampled_from(sorted(PER_OBJECT, key=lambda g: g.name)), min_size=1, max_size=4), st.data())
def test_v1_never_crosses_objects(groups: list[Group], data: st.DataObject) -> None:
    spans = []
    for group in groups:
        owners = data.draw(st.lists(st.integers(-1, 2), min_size=1, max_size=5))
        spans.append(TokenSpan(group, len(owners), objects=torch.tensor([owners])))
    mask = attention_mask(ROUTINGS["v1"], spans, spans)[0]
    owner = torch.cat([span.objects[0] for span in spans if span.objects is not None])
    kind = [span.group for span in spans for _ in range(span.length)]
    for i in range(len(owner)):
        for j in range(len(owner)):
            reads = (kind[i], kind[j]) in ROUTINGS["v1"].attends
            assert bool(mask[i, j]) == (reads and owner[i] == owner[j])


def test_objects_do_not_hide_words_from_each_other() -> None:
    rows = [TokenSpan(G.GROUNDING, 3)]
    columns = [TokenSpan(G.TEXT, 2), TokenSpan(G.STROKE, 2, objects=torch.tensor([[0, 1]]))]
    joint = ROUTINGS["v1"].compose(text_sees_strokes=True)
    assert attention_mask(ROUTINGS["v1"], rows, columns)[0].sum() == 6
    assert attention_mask(joint, rows, columns).all()


def test_padding_neither_reads_nor_is_read() -> None:
    padding = torch.tensor([[False, True], [False, False]])
    spans = [TokenSpan(G.OBJECT, 1), TokenSpan(G.TEXT, 2, padding=padding)]
    mask = attention_mask(ROUTINGS["demo"], spans, spans)
    assert mask.shape == (2, 3, 3)
    assert not mask[0, 2].any()
    assert not mask[0, :, 2].any()
    assert mask[1].all()


@pytest.mark.parametrize("switch", ["text_sees_strokes", "strokes_see_text"])
def test_composition_adds_one_pair(switch: str) -> None:
    for name in ("v0", "v1"):
        before, after = ROUTINGS[name].attends, ROUTINGS[name].compose(**{switch: True}).attends
        expected = (G.GROUNDING, G.STROKE) if switch == "text_sees_strokes" else (G.SPATIAL, G.TEXT)
        assert after - before == {expected}
        assert before <= after
    assert ROUTINGS["demo"].compose(**{switch: True}) is ROUTINGS["demo"]


def test_missing_object_indices_are_told() -> None:
    spans = [TokenSpan(G.SPATIAL, 1)]
    with pytest.raises(ValueError, match="object indices"):
        attention_mask(ROUTINGS["v1"], spans, spans)
