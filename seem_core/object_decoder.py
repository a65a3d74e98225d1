"""Objects that are asked about in the same way, decoded in one pass: prompts in, chosen queries and their masks out.

`demo` and `v0` take the objects of a pass as a batch over one encoded picture; `v1` takes them in one sequence, whose
attention keeps them apart (SPEC §5.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.class_embeddings import class_logits
from seem_core.decoder import DecoderOutput, DecoderPrompts, QueryOutput, TextTokens
from seem_core.errors import PromptError
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.object_requests import ObjectRequest, OutputQuery, QueryGroup, answering_query, batches
from seem_core.object_tokens import assemble, mean_positive, split_objects
from seem_core.segmenter_types import ObjectTokens
from seem_core.selection import Choice, choose_by_marks, choose_by_words
from seem_core.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Answer:
    """One object. logits: (h, w) float32 at stride 4. score: () in 0..1. class_name: None where no class fits.

    The score is how sure the mask is of its own pixels (mean probability inside) times how well it fits the prompt:
    for marks and references, the probability that the chosen query's mask covers the marked pixels; for words, the
    chosen query's share among all.
    """

    logits: Tensor
    score: Tensor
    class_name: str | None


def decode_objects(
    model: Seem,
    image: ImageFeatures,
    requests: Sequence[ObjectRequest],
    *,
    output_query: OutputQuery = "auto",
    vocabulary: Vocabulary | None = None,
    generator: torch.Generator | None = None,
    most: int = 16,
) -> dict[int, Answer]:
    """Answers by object id; like requests are decoded together, at most `most` at a time.

    Raises PromptError where an object lacks the prompts that `output_query` needs, or a positive mark.
    """
    answers: dict[int, Answer] = {}
    for batch in batches(requests, most):
        answers |= _decode(model, image, batch, output_query, vocabulary, generator)
    return answers


def _decode(
    model: Seem,
    image: ImageFeatures,
    batch: Sequence[ObjectRequest],
    output_query: OutputQuery,
    vocabulary: Vocabulary | None,
    generator: torch.Generator | None,
) -> dict[int, Answer]:
    """Objects that all have the same kinds of prompts."""
    query = answering_query(output_query, batch[0])
    words = [request.words for request in batch if request.words is not None]
    # words have no owner: where they meet marks, each object is an item of a batch also in `v1`
    separate = model.decoder.routing.separate_objects and not words
    marks = _sample_marks(model, image, batch, separate, generator)
    prompts = _decoder_prompts(model, batch, marks, words, separate, query)
    output = model.decode(image, prompts, objects=query == "object")
    queries = _answering(output, query)
    if query == "text" or (query == "object" and not batch[0].is_visual):
        choice, fit = _choose_by_words(model, queries, words)
    else:
        own = model.decoder.routing.separate_objects and query == "visual"
        choice = choose_by_marks(
            queries, _means(batch, marks, separate), model.config.decoder.queries_per_object if own else None
        )
        fit = choice.similarity.gather(1, choice.indices[:, None])[:, 0].float().sigmoid()  # (B, K)
    logits = image.mask_features.logits(choice.mask_embeddings).flatten(0, 1).float()  # (N, h, w)
    scores = fit.flatten() * mask_certainty(logits)
    names = class_names(model, choice.class_vectors.flatten(0, 1), vocabulary)
    return {r.object_id: Answer(logits[n], scores[n], names[n]) for n, r in enumerate(batch)}


def class_names(model: Seem, vectors: Tensor, vocabulary: Vocabulary | None) -> list[str | None]:
    """The best class of each of (N, C) class vectors; None for "none of them", and without a vocabulary."""
    if vocabulary is None or model.text_encoder is None:
        return [None] * len(vectors)
    scores = class_logits(vectors, vocabulary.embeddings, model.text_encoder.logit_scale)  # (N, K + 1)
    return [vocabulary.name(int(c)) for c in scores.argmax(-1)]


def mask_certainty(logits: Tensor) -> Tensor:
    """(N, h, w) logits -> (N,): mean probability inside each mask, 0 for an empty one (SPEC §8, instances)."""
    inside = logits > 0
    total = (logits.sigmoid() * inside).sum(dim=(1, 2))
    mean: Tensor = total / inside.sum(dim=(1, 2)).clamp(min=1)
    return mean


def _answering(output: DecoderOutput, query: QueryGroup) -> QueryOutput:
    """The group's queries; where prompts have no queries of their own (`demo`), those of everything."""
    own = {"object": output.objects, "text": output.grounding, "visual": output.spatial}[query]
    found = own or output.objects
    if found is None:
        raise PromptError(f"the prompts make no {query} queries")
    return found


def _sample_marks(
    model: Seem,
    image: ImageFeatures,
    batch: Sequence[ObjectRequest],
    separate: bool,
    generator: torch.Generator | None,
) -> list[ObjectTokens] | None:
    """Tokens of each object's marks; together where they share 512 points (`v1`), else each on its own."""
    drawn = [request.marks for request in batch if request.marks is not None]
    if not drawn:
        return None
    ids, marked = [request.object_id for request in batch], [bool(positive.any()) for positive, _ in drawn]
    positive, negative = (torch.stack(masks).to(model.device) for masks in zip(*drawn, strict=True))
    if separate:
        return split_objects(model.sample(image, positive, negative, generator=generator), ids, marked)
    found = []
    for n in range(len(batch)):
        row = slice(n, n + 1)
        tokens = model.sample(image, positive[row], negative[row], generator=generator)
        found += split_objects(tokens, ids[row], marked[row])
    return found


def _decoder_prompts(
    model: Seem,
    batch: Sequence[ObjectRequest],
    marks: Sequence[ObjectTokens] | None,
    words: Sequence[TextTokens],
    separate: bool,
    query: QueryGroup,
) -> DecoderPrompts:
    references = [request.references for request in batch]
    cap = model.config.decoder.level_caps[0]
    rows = [request.previous for request in batch if request.previous is not None and request.is_visual]
    previous = None
    if rows:
        stacked = torch.stack(rows).to(model.decoder.query_content.dtype)
        previous = stacked[None] if separate else stacked[:, None]  # (1, N, h, w) or (N, 1, h, w)
    return DecoderPrompts(
        stroke=None if marks is None else assemble([[tokens] for tokens in marks], separate=separate),
        reference=assemble(references, separate=separate, cap=cap) if batch[0].references else None,
        text=_side_by_side(words) if words else None,
        previous_mask=previous,
        text_sees_strokes=query == "text" and batch[0].is_visual,
        strokes_see_text=query == "visual" and bool(words),
    )


def _means(batch: Sequence[ObjectRequest], marks: Sequence[ObjectTokens] | None, separate: bool) -> Tensor:
    """Mean vectors that choose, (1, N, C) or (N, 1, C): of the marks on this picture, else of the references."""
    vectors = []
    for n, request in enumerate(batch):
        mean = None if marks is None else marks[n].positive
        mean = mean_positive(request.references) if mean is None else mean
        if mean is None:
            raise PromptError(f"object {request.object_id} has no positive mark; add a point on the object")
        vectors.append(mean)
    stacked = torch.stack(vectors)
    return stacked[None] if separate else stacked[:, None]


def _choose_by_words(model: Seem, queries: QueryOutput, words: Sequence[TextTokens]) -> tuple[Choice, Tensor]:
    """Each batch item's query for its own words, and its share among all queries, (B, 1)."""
    if model.text_encoder is None:
        raise PromptError(f"model {model.config.name} has no text encoder; use points, boxes or masks")
    scale = model.text_encoder.logit_scale
    choices = [
        choose_by_words(
            QueryOutput(queries.mask_embeddings[b : b + 1], queries.class_vectors[b : b + 1]), text.sentences, scale
        )
        for b, text in enumerate(words)
    ]
    choice = Choice(
        torch.cat([c.indices for c in choices]),
        torch.cat([c.similarity for c in choices]),
        torch.cat([c.mask_embeddings for c in choices]),
        torch.cat([c.class_vectors for c in choices]),
    )
    return choice, choice.similarity.float().softmax(1).gather(1, choice.indices[:, None])[:, 0]


def _side_by_side(words: Sequence[TextTokens]) -> TextTokens:
    """One text per batch item: (1, L_b, C) each -> (B, L, C), padded to the longest."""
    longest = max(text.tokens.shape[1] for text in words)
    gaps = [longest - text.tokens.shape[1] for text in words]
    tokens = torch.cat([F.pad(text.tokens, (0, 0, 0, gap)) for text, gap in zip(words, gaps, strict=True)])
    padding = torch.arange(longest) >= longest - torch.tensor(gaps)[:, None]
    return TextTokens(tokens, torch.cat([text.sentences for text in words]), padding.to(tokens.device))
