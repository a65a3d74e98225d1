"""The decoder on a tiny random SEEM: routings, batches, memory, composition, refusals."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from tiny_seem import random_image, rectangles, tiny_seem

from seem_core.decoder import DecoderOutput, DecoderPrompts, QueryOutput, TextTokens, spread_query_indices
from seem_core.errors import PromptError
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.visual_sampler import VisualTokens

BOXES = ((8, 12, 8, 13), (30, 33, 40, 45), (40, 42, 20, 22))  # 39 pixels, below the cap of 40


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def encoded(model: Seem, seed: int = 0) -> ImageFeatures:
    return model.encode_image(random_image(60, 90, seed))


def sampled(model: Seem, features: ImageFeatures, *boxes: tuple[int, int, int, int]) -> VisualTokens:
    return model.sample(features, rectangles(64, 96, *boxes))


def words(seed: int = 0, length: int = 5) -> TextTokens:
    tokens = torch.randn(1, length, 32, generator=torch.Generator().manual_seed(seed))
    return TextTokens(tokens, tokens[:, -1])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def groups(output: DecoderOutput) -> dict[str, QueryOutput | None]:
    return {"objects": output.objects, "grounding": output.grounding, "spatial": output.spatial}


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_the_fast_path_equals_the_plain_one(routing: str) -> None:
    model = tiny_seem(routing)
    features = encoded(model)
    prompts = DecoderPrompts(stroke=sampled(model, features, *BOXES[:1]), text=words())
    fast, plain = model.decode(features, prompts, masks=True), model.decode(features, prompts, earlier=True)
    assert len(plain.earlier) == 4
    assert not fast.earlier
    for quick, slow in zip(groups(fast).values(), groups(plain).values(), strict=True):
        assert (quick is None) == (slow is None) == (routing == "demo" and quick is not fast.objects)
        if quick is not None and slow is not None:
            close(quick.masks, slow.masks)
            close(quick.class_vectors, slow.class_vectors)


@pytest.mark.parametrize("routing", ["demo", "v0"])
def test_a_batch_equals_single_runs(routing: str) -> None:
    """Objects share one image's features; their prompts have unequal lengths, and v0 remembers."""
    model = tiny_seem(routing)
    features = encoded(model)
    previous = torch.randn(3, 1, 16, 24) if routing == "v0" else None
    together = model.decode(
        features,
        DecoderPrompts(stroke=sampled(model, features, *BOXES), text=words(), previous_mask=previous),
        masks=True,
    )
    for n, box in enumerate(BOXES):
        one = None if previous is None else previous[n : n + 1]
        alone = model.decode(
            features, DecoderPrompts(stroke=sampled(model, features, box), text=words(), previous_mask=one), masks=True
        )
        for a, b in zip(groups(together).values(), groups(alone).values(), strict=True):
            if a is not None and b is not None:
                close(a.masks[n], b.masks[0])


@pytest.mark.parametrize("routing", ["demo", "v0"])
def test_several_images_equal_single_ones(routing: str) -> None:
    model = tiny_seem(routing)
    both = model.encode_image(torch.cat((random_image(60, 90, 1), random_image(60, 90, 2))))
    masks = rectangles(64, 96, *BOXES[:2])
    together = model.decode(both, DecoderPrompts(stroke=model.sample(both, masks)), masks=True)
    for n in range(2):
        features = encoded(model, n + 1)
        alone = model.decode(features, DecoderPrompts(stroke=model.sample(features, masks[n : n + 1])), masks=True)
        close(together.objects.masks[n], alone.objects.masks[0])


def test_v1_is_a_pure_function_of_image_objects_and_query_indices() -> None:
    model = tiny_seem("v1")
    features = encoded(model)
    tokens = sampled(model, features, *BOXES)
    previous = torch.randn(1, 3, 16, 24)
    indices = spread_query_indices(9, 13)
    prompts = DecoderPrompts(stroke=tokens, previous_mask=previous, query_indices=indices)
    first = model.decode(features, prompts).spatial
    torch.manual_seed(99)
    again = model.decode(features, prompts).spatial
    assert torch.equal(first.mask_embeddings, again.mask_embeddings)
    default = model.decode(features, replace(prompts, query_indices=None)).spatial
    assert torch.equal(first.mask_embeddings, default.mask_embeddings)


def test_v1_objects_do_not_touch_each_other() -> None:
    """An object's queries answer alike alone and beside others, given the same learned queries."""
    model = tiny_seem("v1")
    features = encoded(model)
    indices = spread_query_indices(9, 13)
    together = model.decode(features, DecoderPrompts(stroke=sampled(model, features, *BOXES)), masks=True).spatial
    for n, box in enumerate(BOXES):
        own = slice(3 * n, 3 * n + 3)
        prompts = DecoderPrompts(stroke=sampled(model, features, box), query_indices=indices[own])
        close(together.masks[0, own], model.decode(features, prompts, masks=True).spatial.masks[0])


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_a_reference_serves_later_images(routing: str) -> None:
    """Tokens carry their object indices, so that v1 can follow them too."""
    model = tiny_seem(routing)
    boxes = BOXES[:2]
    tokens = sampled(model, encoded(model, 1), *boxes)
    output = model.decode(encoded(model, 2), DecoderPrompts(reference=tokens))
    queries = output.objects if routing == "demo" else output.spatial
    assert queries.mask_embeddings.shape[:2] == {"demo": (2, 13), "v0": (2, 13), "v1": (1, 6)}[routing]


@pytest.mark.parametrize("routing", ["v0", "v1"])
def test_memory_changes_the_answer_of_marks_only(routing: str) -> None:
    model = tiny_seem(routing)
    features = encoded(model)
    prompts = DecoderPrompts(stroke=sampled(model, features, BOXES[0]), text=words())
    without = model.decode(features, prompts)
    remembering = model.decode(features, replace(prompts, previous_mask=torch.randn(1, 1, 16, 24)))
    assert not torch.allclose(without.spatial.mask_embeddings, remembering.spatial.mask_embeddings, atol=1e-3)
    close(without.grounding.mask_embeddings, remembering.grounding.mask_embeddings)
    close(without.objects.mask_embeddings, remembering.objects.mask_embeddings)


@pytest.mark.parametrize(
    ("switch", "changed", "kept"),
    [("text_sees_strokes", "grounding", "spatial"), ("strokes_see_text", "spatial", "grounding")],
)
def test_composition(switch: str, changed: str, kept: str) -> None:
    model = tiny_seem("v0")
    features = encoded(model)
    prompts = DecoderPrompts(stroke=sampled(model, features, BOXES[0]), text=words())
    apart = groups(model.decode(features, prompts))
    joint = groups(model.decode(features, replace(prompts, **{switch: True})))
    assert not torch.allclose(apart[changed].mask_embeddings, joint[changed].mask_embeddings, atol=1e-3)
    if changed == "spatial":  # words are read, but do not read strokes
        close(apart[kept].mask_embeddings, joint[kept].mask_embeddings)


def test_a_transcript_is_a_group_of_its_own_in_demo() -> None:
    model = tiny_seem("demo")
    features = encoded(model)
    spoken = model.decode(features, DecoderPrompts(audio=words(1)))
    written = model.decode(features, DecoderPrompts(text=words(1)))
    close(spoken.objects.mask_embeddings, written.objects.mask_embeddings)  # alone, the two groups are wired alike
    both = model.decode(features, DecoderPrompts(text=words(2), audio=words(1)))
    assert not torch.allclose(both.objects.mask_embeddings, spoken.objects.mask_embeddings, atol=1e-3)


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_object_queries_may_be_left_out_where_nothing_reads_them(routing: str) -> None:
    model = tiny_seem(routing)
    features = encoded(model)
    prompts = DecoderPrompts(stroke=sampled(model, features, BOXES[0]), text=words())
    whole, part = groups(model.decode(features, prompts)), groups(model.decode(features, prompts, objects=False))
    assert (part["objects"] is None) == (routing != "demo")
    for name, queries in part.items():
        if queries is not None:
            close(queries.mask_embeddings, whole[name].mask_embeddings)
    assert model.decode(features, objects=False).objects is not None  # nothing else was asked for


def test_padded_words_change_nothing() -> None:
    model = tiny_seem("demo")
    features = encoded(model)
    text = words()
    padded = TextTokens(
        torch.cat((text.tokens, torch.full((1, 3, 32), 7.0)), dim=1), text.sentences, torch.arange(8)[None] >= 5
    )
    close(
        model.decode(features, DecoderPrompts(text=text)).objects.mask_embeddings,
        model.decode(features, DecoderPrompts(text=padded)).objects.mask_embeddings,
    )


def test_a_model_can_be_copied_and_sent_elsewhere() -> None:
    model = tiny_seem("v1")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(encoded(other).levels[0], encoded(model).levels[0])


@pytest.mark.parametrize("routing", ["demo", "v0", "v1"])
def test_half_precision_runs_with_float32_heads(routing: str) -> None:
    full, half = tiny_seem(routing), tiny_seem(routing).set_precision(torch.bfloat16)
    results = []
    for model in (full, half):
        features = encoded(model)
        tokens = sampled(model, features, *BOXES[:2])
        prompts = DecoderPrompts(stroke=tokens, text=words())
        results.append(model.decode(features, prompts, masks=True))
        assert tokens.positive.dtype == results[-1].objects.masks.dtype == torch.float32
    assert features.levels[0].dtype == torch.bfloat16
    torch.testing.assert_close(results[0].objects.masks, results[1].objects.masks, atol=0.2, rtol=0.1)


def test_gradients_reach_every_parameter() -> None:
    with torch.inference_mode(False):
        model = tiny_seem("v0")
        features = encoded(model)
        masks = rectangles(64, 96, BOXES[0])
        prompts = DecoderPrompts(
            stroke=model.sample(features, masks, masks.roll(9, 1)),
            text=words(),
            previous_mask=torch.randn(1, 1, 16, 24),
        )
        output = model.decode(features, prompts, earlier=True)
        heads = [q for step in (*output.earlier, output) for q in groups(step).values()]
        sum(q.masks.sum() + q.class_vectors.sum() for q in heads).backward()
        silent = [k for k, p in model.named_parameters() if p.grad is None and not k.startswith("text_encoder")]
        assert silent == []


@pytest.mark.parametrize(
    ("routing", "change", "message"),
    [
        ("demo", {"previous_mask": torch.zeros(1, 1, 16, 24)}, "no memory prompt"),
        ("v0", {"previous_mask": torch.zeros(1, 1, 8, 12)}, r"\(16, 24\)"),
        ("v0", {"audio": words()}, "no audio tokens"),
        ("v1", {"previous_mask": torch.zeros(1, 2, 16, 24)}, r"\[1, 2\] objects"),
        (
            "v0",
            {"previous_mask": torch.zeros(3, 1, 16, 24), "text": replace(words(), tokens=torch.zeros(2, 4, 32))},
            "batches",
        ),
        ("v1", {"query_indices": torch.tensor([1, 2])}, "3 query indices"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(routing: str, change: dict[str, object], message: str) -> None:
    model = tiny_seem(routing)
    features = encoded(model)
    prompts = replace(DecoderPrompts(stroke=sampled(model, features, BOXES[0])), **change)
    with pytest.raises(PromptError, match=message):
        model.decode(features, prompts)


def test_a_model_without_text_encoder_says_so() -> None:
    model = Seem(replace(tiny_seem("v0").config, text=None))
    with pytest.raises(PromptError, match="no text encoder"):
        model.encode_text(["a dog"])
