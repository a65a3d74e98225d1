"""Which of the decoder's queries answers a prompt (SPEC §6.1).

Marks choose by the plain dot product of a query's mask embedding with the mean mask feature under the positive marks
(negative marks act through attention alone); words choose by cosine similarity with the sentence. Some query is always
chosen: there is no threshold here. What class it has is another matter: `class_embeddings.class_logits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seem_core.decoder import QueryOutput

MAX_TEXT_SCALE = 100.0
_EPS = 1e-7


@dataclass(frozen=True, eq=False)
class Choice:
    """K chosen queries per batch item (K objects or sentences).

    indices: (B, K) int64. similarity: (B, Q, K), -inf where a query may not be chosen. mask_embeddings,
    class_vectors: (B, K, C) of the chosen queries.
    """

    indices: Tensor
    similarity: Tensor
    mask_embeddings: Tensor
    class_vectors: Tensor


def choose_by_marks(queries: QueryOutput, positive: Tensor, queries_per_object: int | None = None) -> Choice:
    """The query nearest to each object's marks.

    positive: (B, N, C) mean mask features. queries_per_object: in `v1`, object n owns that many queries in order and
    only they may be chosen.
    """
    similarity = queries.mask_embeddings @ positive.transpose(1, 2)  # (B, Q, N)
    if queries_per_object is not None:
        Q, N = similarity.shape[1:]
        owner = torch.arange(Q, device=similarity.device) // queries_per_object
        foreign = owner[:, None] != torch.arange(N, device=similarity.device)
        similarity = similarity.masked_fill(foreign, float("-inf"))
    return _choose(queries, similarity)


def choose_by_words(queries: QueryOutput, sentences: Tensor, logit_scale: Tensor) -> Choice:
    """The query nearest to each of S sentences: sentences (S, C), logit_scale the text encoder's (a logarithm)."""
    scale = logit_scale.exp().clamp(max=MAX_TEXT_SCALE)
    return _choose(queries, scale * _unit(queries.class_vectors) @ _unit(sentences).T)


def _choose(queries: QueryOutput, similarity: Tensor) -> Choice:
    indices = similarity.argmax(dim=1)  # (B, K)
    picked = indices[:, :, None]
    embeddings, vectors = queries.mask_embeddings, queries.class_vectors
    return Choice(
        indices,
        similarity,
        embeddings.gather(1, picked.expand(-1, -1, embeddings.shape[2])),
        vectors.gather(1, picked.expand(-1, -1, vectors.shape[2])),
    )


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / (vectors.norm(dim=-1, keepdim=True) + _EPS)
    return unit
