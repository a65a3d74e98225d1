"""`SeemSegmenter` on a tiny random SEEM in the three routings: masks, independence, memory, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_seem import TINY, random_image, rectangles, tiny_seem
from torch import Tensor

from seem_core.decoder import DecoderPrompts
from seem_core.errors import CheckpointError, InputError, MaskError, PromptError
from seem_core.geometry import InputSize
from seem_core.model import Seem
from seem_core.object_decoder import mask_certainty
from seem_core.object_tokens import assemble, fair_shares
from seem_core.prompt_canvas import draw_marks
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
from seem_core.routing import RoutingName
from seem_core.segmenter import SeemFeatures, SeemSegmenter
from seem_core.segmenter_types import Prediction, Segmenter, masks_as_prediction
from seem_core.selection import choose_by_marks
from seem_core.visual_sampler import stack_objects
from seem_core.vocabulary import Vocabulary, make_vocabulary

ROUTINGS: tuple[RoutingName, ...] = ("demo", "v0", "v1")
H, W = 70, 90


@pytest.fixture(params=ROUTINGS)
def routing(request: pytest.FixtureRequest) -> RoutingName:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def segmenter(routing: RoutingName) -> SeemSegmenter:
    return SeemSegmenter(tiny_seem(routing))


@pytest.fixture
def image() -> Tensor:
    return random_image(H, W)[0]


@pytest.fixture
def features(segmenter: SeemSegmenter, image: Tensor) -> SeemFeatures:
    return segmenter.encode(image)


def vocabulary_of(segmenter: SeemSegmenter, *names: str) -> Vocabulary:
    assert segmenter.model.text_encoder is not None
    return make_vocabulary(segmenter.model.text_encoder, names)


def reference(object_id: int = 1) -> ReferencePrompt:
    other = random_image(50, 60, seed=7)[0].permute(1, 2, 0).numpy()
    mask = np.zeros((50, 60), bool)
    mask[10:30, 20:40] = True
    return ReferencePrompt(other, mask, object_id)


KINDS: dict[str, list[Prompt]] = {
    "point": [PointPrompt(20, 30)],
    "points of both signs": [PointPrompt(20, 30), PointPrompt(80, 60, positive=False)],
    "box": [BoxPrompt(10, 10, 50, 40)],
    "scribble": [ScribblePrompt(((5, 5), (30, 40), (60, 20)))],
    "polygon": [PolygonPrompt(((5, 5), (60, 10), (30, 60)))],
    "mask": [MaskPrompt(rectangles(H, W, (10, 40, 10, 50))[0].numpy())],
    "reference": [reference()],
    "text": [TextPrompt("a black cat")],
    "text and point": [TextPrompt("a black cat"), PointPrompt(20, 30)],
    "reference and point": [reference(), PointPrompt(20, 30)],
    "reference and a negative point": [reference(), PointPrompt(20, 30, positive=False)],
    "all": [TextPrompt("a black cat"), PointPrompt(20, 30), reference(), BoxPrompt(10, 10, 50, 40)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_gives_a_mask(segmenter: SeemSegmenter, features: SeemFeatures, kind: str) -> None:
    found = segmenter.segment(features, KINDS[kind])
    assert found.ids == (1,)
    assert found.logits.shape == (1, features.geometry.padded[0] // 4, features.geometry.padded[1] // 4)
    assert found.logits.dtype == torch.float32
    assert 0 <= float(found.scores[0]) <= 1
    assert found.mask(1).shape == (H, W)
    again = segmenter.segment(features, KINDS[kind])
    assert torch.equal(found.logits, again.logits)
    assert not found.logits.requires_grad


def test_it_is_a_segmenter(segmenter: SeemSegmenter) -> None:
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.name, segmenter.trained) == ("tiny", "none")


def test_a_mask_is_what_the_decoder_gives_for_it(
    segmenter: SeemSegmenter, features: SeemFeatures, routing: RoutingName
) -> None:
    """The same steps by hand: canvas, tokens, decoder, choice, mask of the chosen query."""
    model, geometry = segmenter.model, features.geometry
    mask = rectangles(H, W, (10, 30, 10, 30))
    with torch.no_grad():
        tokens = model.sample(features.image, geometry.mask_to_padded(mask))
        output = model.decode(features.image, DecoderPrompts(stroke=tokens))
        queries = output.spatial or output.objects
        assert queries is not None
        choice = choose_by_marks(queries, tokens.positive, 3 if routing == "v1" else None)
        expected = features.image.mask_features.logits(choice.mask_embeddings)[0]
    found = segmenter.segment(features, [MaskPrompt(mask[0].numpy())])
    torch.testing.assert_close(found.logits, expected)
    fit = choice.similarity[0, choice.indices[0, 0], 0].sigmoid()
    inside = expected.sigmoid()[expected > 0]
    torch.testing.assert_close(found.scores[0], fit * (inside.mean() if len(inside) else 0))


def test_a_second_round_is_what_the_decoder_gives(
    segmenter: SeemSegmenter, features: SeemFeatures, routing: RoutingName
) -> None:
    """Two objects with positive and negative marks and previous masks, by hand: sampled together in `v1`."""
    if routing == "demo":
        return
    model, geometry = segmenter.model, features.geometry
    masks = rectangles(H, W, (10, 30, 10, 30), (30, 60, 40, 80))
    prompts: list[Prompt] = [MaskPrompt(mask.numpy(), n + 1) for n, mask in enumerate(masks)]
    prompts += [PolygonPrompt(((40, 30), (79, 30), (79, 59), (40, 59)), positive=False, object_id=1)]
    first = segmenter.segment(features, prompts)
    second = segmenter.segment(features, prompts, first)
    canvases = draw_marks(prompts, geometry)
    assert bool(canvases.negative[0].any())
    assert not bool(canvases.negative[1].any())
    with torch.no_grad():
        if routing == "v1":
            tokens = model.sample(features.image, canvases.positive, canvases.negative)
            previous = first.logits[None]
        else:
            rows = zip(torch.split(canvases.positive, 1), torch.split(canvases.negative, 1), strict=True)
            tokens = stack_objects([model.sample(features.image, yes, no) for yes, no in rows])
            previous = first.logits[:, None]
        output = model.decode(features.image, DecoderPrompts(stroke=tokens, previous_mask=previous))
        assert output.spatial is not None
        choice = choose_by_marks(output.spatial, tokens.positive, 3 if routing == "v1" else None)
        expected = features.image.mask_features.logits(choice.mask_embeddings).flatten(0, 1)
    torch.testing.assert_close(second.logits, expected, atol=1e-4, rtol=1e-4)


def test_objects_do_not_touch_each_other(
    segmenter: SeemSegmenter, features: SeemFeatures, routing: RoutingName
) -> None:
    """A batch is the same as single runs; `v1` decodes objects in one sequence, where queries depend on the order."""
    prompts: list[Prompt] = [
        PointPrompt(20, 30, object_id=2),
        BoxPrompt(40, 10, 80, 60, object_id=7),
        TextPrompt("a tree", object_id=9),
        TextPrompt("something with a longer name", object_id=4),
        reference(300),
    ]
    together = segmenter.segment(features, prompts)
    assert together.ids == (2, 4, 7, 9, 300)
    for prompt in prompts:
        if routing == "v1" and prompt.object_id == 7:
            continue
        alone = segmenter.segment(features, [prompt])
        row = together.ids.index(prompt.object_id)
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.scores[row], alone.scores[0], atol=1e-4, rtol=1e-4)
    assert together.labels().dtype == np.uint16


def test_an_object_is_answered_by_its_own_queries(features: SeemFeatures) -> None:
    """In `v1` two objects with the same marks have different queries to choose from, and so different masks."""
    segmenter = SeemSegmenter(tiny_seem("v1"))
    same = segmenter.segment(features, [BoxPrompt(10, 10, 20, 20), BoxPrompt(10, 10, 20, 20, object_id=2)])
    assert not torch.allclose(same.logits[0], same.logits[1], atol=1e-2)


def test_passes_are_bounded(routing: RoutingName, features: SeemFeatures) -> None:
    many: list[Prompt] = [PointPrompt(i * 10 + 5, 30, object_id=i + 1) for i in range(7)]
    small = SeemSegmenter(tiny_seem(routing), objects_per_pass=3).segment(features, many)
    assert small.ids == tuple(range(1, 8))
    if routing != "v1":
        large = SeemSegmenter(tiny_seem(routing)).segment(features, many)
        torch.testing.assert_close(small.logits, large.logits, atol=1e-4, rtol=1e-4)


def test_large_marks_are_drawn_with_the_generator(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    box: list[Prompt] = [BoxPrompt(0, 0, W - 1, H - 1)]
    default = segmenter.segment(features, box)
    other = segmenter.segment(features, box, generator=torch.Generator().manual_seed(3))
    same = segmenter.segment(features, box, generator=torch.Generator().manual_seed(3))
    assert torch.equal(other.logits, same.logits)
    assert not torch.equal(other.scores, default.scores)


def test_the_round_before_is_read(features: SeemFeatures, routing: RoutingName, segmenter: SeemSegmenter) -> None:
    marks: list[Prompt] = [PointPrompt(20, 30), PointPrompt(60, 50, object_id=3)]
    first = segmenter.segment(features, marks)
    more = [*marks, PointPrompt(80, 60, positive=False)]
    if routing == "demo":
        assert not segmenter.reads_previous_mask
        with pytest.raises(PromptError, match="does not read a previous mask"):
            segmenter.segment(features, more, first)
        return
    second = segmenter.segment(features, more, first)
    assert not torch.equal(second.logits, segmenter.segment(features, more).logits)
    only_one = segmenter.segment(features, more, first.select([3]))
    assert not torch.equal(second.logits[0], only_one.logits[0])
    known = masks_as_prediction(rectangles(H, W, (10, 40, 10, 50)), features.geometry)
    segmenter.segment(features, more, known)


def test_words_do_not_read_the_round_before(features: SeemFeatures) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    words: list[Prompt] = [TextPrompt("a cat")]
    first = segmenter.segment(features, words)
    assert torch.equal(segmenter.segment(features, words, first).logits, first.logits)


@pytest.mark.parametrize("query", ["object", "text", "visual", "auto"])
def test_the_output_query_is_chosen(segmenter: SeemSegmenter, features: SeemFeatures, query: str) -> None:
    both = KINDS["text and point"]
    found = segmenter.segment(features, both, output_query=query)  # type: ignore[arg-type]
    assert found.ids == (1,)


def test_output_queries_differ(features: SeemFeatures) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    both = KINDS["text and point"]
    embeddings = {q: segmenter.segment(features, both, output_query=q).logits for q in ("object", "text", "visual")}  # type: ignore[arg-type]
    assert not torch.equal(embeddings["object"], embeddings["text"])
    assert not torch.equal(embeddings["text"], embeddings["visual"])
    # words and marks compose: each changes the answer of the other's query
    assert not torch.equal(embeddings["visual"], segmenter.segment(features, both[1:]).logits)
    assert not torch.equal(embeddings["text"], segmenter.segment(features, both[:1]).logits)


def test_marks_on_the_picture_choose_before_a_reference(
    segmenter: SeemSegmenter, features: SeemFeatures, routing: RoutingName
) -> None:
    """Both are read, but the query is the one that fits the marks."""
    model = segmenter.model
    shown = reference()
    other = segmenter.encode(torch.tensor(shown.image).permute(2, 0, 1))
    box = BoxPrompt(60, 40, 80, 60)
    with torch.no_grad():
        tokens = model.sample(features.image, draw_marks([box], features.geometry).positive)
        seen = model.sample(other.image, other.geometry.mask_to_padded(torch.tensor(shown.mask)[None]))
        output = model.decode(features.image, DecoderPrompts(stroke=tokens, reference=seen))
        choice = choose_by_marks(
            output.spatial or output.objects,  # type: ignore[arg-type]
            tokens.positive,
            3 if routing == "v1" else None,
        )
        expected = features.image.mask_features.logits(choice.mask_embeddings)[0]
    found = segmenter.segment(features, [shown, box])
    torch.testing.assert_close(found.logits, expected, atol=1e-4, rtol=1e-4)
    fit = choice.similarity[0, choice.indices[0, 0], 0].sigmoid()
    torch.testing.assert_close(found.scores[0], fit * mask_certainty(expected)[0], atol=1e-5, rtol=1e-4)


# --- memory ---


def test_a_remembered_object_is_recalled(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    masks = rectangles(H, W, (10, 40, 10, 50), (40, 60, 60, 80))
    memory = segmenter.remember(features, masks, (5, 2))
    assert [tokens.object_id for tokens in memory] == [5, 2]
    assert all(tokens.bytes > 0 for tokens in memory)
    later = segmenter.encode(random_image(H, W, seed=3)[0])
    found = segmenter.recall(later, memory)
    assert found.ids == (2, 5)
    prior = segmenter.recall(later, memory, found)
    assert torch.equal(prior.logits, found.logits) == (not segmenter.reads_previous_mask)
    many = segmenter.recall(later, [*memory, *segmenter.remember(later, masks, (5, 2)), *memory])
    assert many.ids == (2, 5)


def test_a_reference_is_a_memory_of_another_picture(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    prompt = reference()
    other = segmenter.encode(torch.tensor(prompt.image).permute(2, 0, 1))
    memory = segmenter.remember(other, torch.tensor(prompt.mask)[None])
    torch.testing.assert_close(segmenter.recall(features, memory).logits, segmenter.segment(features, [prompt]).logits)


def test_a_prior_of_another_size_fits(features: SeemFeatures) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    memory = segmenter.remember(features, rectangles(H, W, (10, 40, 10, 50)))
    prior = segmenter.recall(features, memory)
    smaller = segmenter.encode(random_image(140, 220, seed=3)[0])
    assert segmenter.recall(smaller, memory, prior).mask(1).shape == (140, 220)


@pytest.mark.parametrize(
    ("counts", "cap"), [((5, 5, 5), 9), ((1, 100, 3), 20), ((0, 4), 10), ((7,), 3), ((3, 3, 3), 2)]
)
def test_shares_are_fair(counts: tuple[int, ...], cap: int) -> None:
    shares = fair_shares(counts, cap)
    assert sum(shares) == min(cap, sum(counts))
    assert all(share <= count for share, count in zip(shares, counts, strict=True))
    cut = [share for share, count in zip(shares, counts, strict=True) if share < count]
    assert not cut or max(shares) - min(cut) <= 1


def test_memory_is_capped(features: SeemFeatures, routing: RoutingName, segmenter: SeemSegmenter) -> None:
    """However many views: 40 tokens per level of the tiny model, per object, in `v1` for all objects together."""
    masks = rectangles(H, W, (0, 60, 0, 80), (0, 60, 10, 80))
    views = [[tokens] * 5 for tokens in segmenter.remember(features, masks)]
    together = assemble(views, separate=routing == "v1", cap=40)
    assert all(level.shape[1] == 40 for level in together.levels)
    assert together.positive.shape[:2] == ((1, 2) if routing == "v1" else (2, 1))


# --- everything ---


def test_everything_needs_a_vocabulary(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    with pytest.raises(PromptError, match="needs a vocabulary"):
        segmenter.panoptic(features)


def test_panoptic_semantic_instances(segmenter: SeemSegmenter, image: Tensor) -> None:
    named = SeemSegmenter(segmenter.model, vocabulary=vocabulary_of(segmenter, "cat", "sky-other-merged", "dog"))
    assert named.vocabulary is not None
    assert named.vocabulary.things == {0, 2}
    features = named.encode(image)
    panoptic = named.panoptic(features, object_threshold=0.0, overlap_threshold=0.0)
    assert panoptic.ids.shape == (H, W)
    assert set(panoptic.ids.unique().tolist()) - {0} <= {segment.id for segment in panoptic.segments}
    semantic = named.semantic(features)
    assert semantic.shape == (H, W)
    assert set(semantic.unique().tolist()) <= {0, 1, 2}
    instances = named.instances(features, top=10)
    assert len(instances.ids) <= 10
    assert set(instances.class_names) <= {"cat", "dog"}
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    prompted = named.segment(features, [PointPrompt(3, 3)])
    assert prompted.class_names[0] in {"cat", "sky-other-merged", "dog", None}


# --- pictures ---


@pytest.mark.parametrize("size", [(1, 1), (10, 20_000), (20_000, 10), (2, 3), (64, 64), (33, 65)])
def test_extreme_pictures_work(size: tuple[int, int]) -> None:
    """The long side is capped, so that a thread-like picture costs no more than others."""
    segmenter = SeemSegmenter(tiny_seem("v0"))
    features = segmenter.encode(torch.zeros(3, *size, dtype=torch.uint8))
    assert max(features.geometry.padded) <= 2048
    found = segmenter.segment(features, [PointPrompt(0, 0), PointPrompt(size[1] - 1, size[0] - 1)])
    assert found.labels().shape == size
    box = segmenter.segment(features, [BoxPrompt(-0.5, -0.5, size[1], size[0])])
    assert box.mask(1).shape == size


def test_the_size_is_an_argument(image: Tensor) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"), input_size=InputSize(128, 150))
    assert segmenter.encode(image).geometry.image == (116, 150)


def test_precision_changes_little(image: Tensor) -> None:
    full = SeemSegmenter(tiny_seem("v0"))
    half = SeemSegmenter(tiny_seem("v0").set_precision(torch.bfloat16))
    prompts: list[Prompt] = [BoxPrompt(10, 10, 50, 40), TextPrompt("a cat", object_id=2)]
    expected = full.segment(full.encode(image), prompts)
    found = half.segment(half.encode(image), prompts)
    assert found.logits.dtype == torch.float32
    assert found.scores.dtype == torch.float32
    assert found.logits.shape == expected.logits.shape


def test_gradients_flow_where_asked_for(image: Tensor) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"), gradients=True)
    features = segmenter.encode(image)
    memory = segmenter.remember(features, rectangles(H, W, (10, 40, 10, 50)))
    segmenter.recall(features, memory).logits.sum().backward()
    assert segmenter.model.decoder.sampler.signs.grad is not None
    assert next(segmenter.model.backbone.parameters()).grad is not None


# --- predictions ---


def test_labels_give_each_pixel_to_the_largest(features: SeemFeatures) -> None:
    masks = rectangles(H, W, (0, 40, 0, 60), (30, 70, 50, 90))
    known = masks_as_prediction(masks, features.geometry, (3, 8))
    labels = known.labels()
    assert labels.dtype == np.uint8
    assert (labels == 3).sum() > (labels == 8).sum() > 0
    agreement = (labels == 3) == masks[0].numpy()
    assert agreement.mean() > 0.97
    assert (known.mask(8) == masks[1].numpy()).mean() > 0.97


def test_a_prediction_checks_itself(features: SeemFeatures) -> None:
    known = masks_as_prediction(rectangles(H, W, (0, 40, 0, 60)), features.geometry)
    with pytest.raises(ValueError, match="ascend"):
        replace(known, ids=(2, 1))
    with pytest.raises(ValueError, match="need logits"):
        replace(known, ids=(1, 2))
    with pytest.raises(PromptError, match="no object 4"):
        known.select([4])
    with pytest.raises(MaskError, match="need"):
        masks_as_prediction(rectangles(H, W, (0, 40, 0, 60)), features.geometry, (1, 2))
    empty = Prediction((), torch.zeros(0, *known.logits.shape[1:]), torch.zeros(0), features.geometry)
    assert not empty.labels().any()


# --- what is refused ---


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([], PromptError, "nothing says what to segment"),
        ([PointPrompt(W, 0)], PromptError, "outside the picture of 90x70"),
        ([PointPrompt(float("nan"), 0)], PromptError, "outside"),
        ([BoxPrompt(0, 0, W + 1, 5)], PromptError, "reaches outside"),
        ([PolygonPrompt(((0, 0), (5, 5), (-3, 2)))], PromptError, "polygon -3,2 lies outside"),
        ([PointPrompt(3, 3, positive=False)], PromptError, "object 1 has no positive mark"),
        ([PointPrompt(3, 3), PointPrompt(3, 3, positive=False)], PromptError, "cover all that is positive"),
        ([MaskPrompt(np.ones((4, 4), bool))], MaskError, "4x4, the picture 90x70"),
        ([MaskPrompt(np.zeros((H, W), bool))], PromptError, "is empty"),
        ([ReferencePrompt(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool))], PromptError, "is empty"),
        ([ScribblePrompt(((1, 1),), width=0)], PromptError, "some pixels wide"),
    ],
)
def test_bad_prompts_are_one_sentence(
    segmenter: SeemSegmenter, features: SeemFeatures, prompts: list[Prompt], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        segmenter.segment(features, prompts)


def test_words_need_a_text_encoder(image: Tensor) -> None:
    segmenter = SeemSegmenter(Seem(replace(TINY, text=None)).eval())
    features = segmenter.encode(image)
    with pytest.raises(PromptError, match="has no text encoder"):
        segmenter.segment(features, [TextPrompt("a cat")])
    with pytest.raises(PromptError, match="has no text encoder"):
        SeemSegmenter(segmenter.model, vocabulary=Vocabulary(("cat",), torch.zeros(2, 32), frozenset()))


def test_output_query_needs_its_prompts(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    with pytest.raises(PromptError, match="words alone"):
        segmenter.segment(features, KINDS["text"], output_query="visual")
    with pytest.raises(PromptError, match="has no words"):
        segmenter.segment(features, KINDS["point"], output_query="text")
    with pytest.raises(PromptError, match="unknown"):
        segmenter.segment(features, KINDS["point"], output_query="best")  # type: ignore[arg-type]


def test_other_bad_input(segmenter: SeemSegmenter, features: SeemFeatures) -> None:
    with pytest.raises(InputError, match="uint8 RGB"):
        segmenter.encode(torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="uint8 RGB"):
        segmenter.encode(torch.zeros(3, 0, 4, dtype=torch.uint8))
    with pytest.raises(PromptError, match="memory is empty"):
        segmenter.recall(features, [])
    with pytest.raises(PromptError, match="is empty"):
        segmenter.remember(features, torch.zeros(1, H, W, dtype=torch.bool))
    with pytest.raises(MaskError, match="masks are"):
        segmenter.remember(features, torch.ones(1, 5, 5, dtype=torch.bool))
    with pytest.raises(MaskError, match="as many masks"):
        segmenter.remember(features, torch.ones(1, H, W, dtype=torch.bool), (1, 2))
    with pytest.raises(PromptError, match="empty"):
        vocabulary_of(segmenter)
    with pytest.raises(PromptError, match="more than once"):
        vocabulary_of(segmenter, "cat", "cat")
    with pytest.raises(CheckpointError, match="wide"):
        SeemSegmenter(segmenter.model, vocabulary=Vocabulary(("cat",), torch.zeros(2, 7), frozenset()))


def test_weights_that_are_not_numbers(image: Tensor) -> None:
    model = tiny_seem("v0")
    torch.nn.init.constant_(model.decoder.norm.weight, float("nan"))
    segmenter = SeemSegmenter(model)
    with pytest.raises(CheckpointError, match="not numbers"):
        segmenter.segment(segmenter.encode(image), [PointPrompt(3, 3)])
