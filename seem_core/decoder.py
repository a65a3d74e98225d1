"""The SEEM decoder: queries read the image inside their own masks, read the prompts, and become masks.

Paper: Zou et al., "Segment Everything Everywhere All at Once" (arXiv:2304.06718) sections 3.1-3.3; SPEC §5. A step is
three layers: cross-attention to one feature level, self-attention among queries and prompts as the routing allows, feed
forward; then the heads predict each query's mask, which limits where it looks next. Nine steps walk three times over
the levels, coarse to fine.

Shapes: B batch (objects, in `demo` and `v0`), F images (B or 1), N objects of one batch item (1 except in `v1`),
Q queries, R rows (queries and carried tokens), T prompt tokens, C channels, H W padded input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.attention import Attention, CrossAttentionLayer, FeedForwardLayer, PromptSource, SelfAttentionLayer
from seem_core.errors import PromptError
from seem_core.image_features import ImageFeatures
from seem_core.mask_heads import MaskHeads, memory_owners, remembered_area
from seem_core.positions import sine_positions
from seem_core.routing import Group, Routing, TokenSpan, attention_mask
from seem_core.visual_sampler import VisualSampler, VisualTokens, add_views


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes; the defaults are those of all published checkpoints (SPEC §1.3)."""

    channels: int = 512
    mask_channels: int = 512
    text_channels: int = 512
    heads: int = 8
    feed_forward: int = 2048
    layers: int = 9
    queries: int = 101
    memories: int = 32
    queries_per_object: int = 3
    level_caps: tuple[int, int, int] = (512, 512, 512)
    mean_cap: int = 512


@dataclass(frozen=True, eq=False)
class TextTokens:
    """Encoded words, one or several sentences one after the other.

    tokens: (B or 1, L, C). padding: (B or 1, L) bool, True where there is no token, or None.
    sentences: (S, C) one vector per sentence (its end-of-text state), by which the matching mask is chosen.
    """

    tokens: Tensor
    sentences: Tensor
    padding: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DecoderPrompts:
    """What to look for; every field may be left out, and without any all things are segmented (panoptic).

    stroke: marks on this image. reference: marks on another image. text: words. audio: a transcript's words.
    previous_mask: (B, N, H/4, W/4) logits of the round before, read through the memory tokens (not in `demo`).
    text_sees_strokes, strokes_see_text: let words and strokes describe one object together where they have query groups
    of their own (`v0`, `v1`); in `demo` they always do.
    query_indices: (3 N,) int64, which learned queries serve the objects in `v1`; by default spread over all.
    """

    stroke: VisualTokens | None = None
    reference: VisualTokens | None = None
    text: TextTokens | None = None
    audio: TextTokens | None = None
    previous_mask: Tensor | None = None
    text_sees_strokes: bool = False
    strokes_see_text: bool = False
    query_indices: Tensor | None = None


@dataclass(frozen=True, eq=False)
class QueryOutput:
    """Predictions of one group of queries.

    mask_embeddings: (B, Q, C); `MaskFeatures.logits` turns them into masks. class_vectors: (B, Q, C), compared with
    text embeddings. masks: (B, Q, H/4, W/4) logits, if all were asked for.
    """

    mask_embeddings: Tensor
    class_vectors: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """Predictions by query group; `grounding` and `spatial` exist with words or strokes in `v0` and `v1`, `objects` if
    not left out.

    earlier: the same after 0, 1, ... layers, if asked for (deep supervision).
    """

    objects: QueryOutput | None
    grounding: QueryOutput | None = None
    spatial: QueryOutput | None = None
    earlier: tuple[DecoderOutput, ...] = ()


class Mlp(nn.Module):
    """Linear layers with ReLUs between."""

    def __init__(self, channels: int, out_channels: int, depth: int = 3) -> None:
        super().__init__()
        widths = [channels] * depth + [out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., out_channels)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


class DecoderLayer(nn.Module):
    """One step: read the image, read each other and the prompts, feed forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.cross = CrossAttentionLayer(config.channels, config.heads)
        self.mutual = SelfAttentionLayer(config.channels, config.heads)
        self.feed_forward = FeedForwardLayer(config.channels, config.feed_forward)

    def forward(self, rows: Rows, level: LevelSource, inside: Tensor, prompt: PromptSource) -> Tensor:
        """New row contents (B, R, C). inside: (B, rows that look at the image, N cells) bool."""
        looking = inside.shape[1]
        seen = self.cross(rows.content[:, :looking], rows.position[:, :looking], level.value, level.key, inside)
        content = torch.cat((seen, rows.content[:, looking:]), dim=1)
        content = self.mutual(content, rows.position, prompt)
        updated: Tensor = self.feed_forward(content)
        return updated


@dataclass(frozen=True, eq=False)
class Rows:
    """What the layers update: first queries (object, grounding, spatial), then memories, then words.

    content, position: (B, R, C). spans: the groups in order. Queries and memories look at the image, words do not.
    """

    content: Tensor
    position: Tensor
    spans: tuple[TokenSpan, ...]


@dataclass(frozen=True, eq=False)
class LevelSource:
    """One feature level as attention sees it: value (F, N, C), key (F, N, C) with positions, size (h, w)."""

    value: Tensor
    key: Tensor
    size: tuple[int, int]


class Decoder(nn.Module):
    """Prompts and image features to masks. Stateless: what lasts between images is in the tokens that it returns."""

    def __init__(self, config: DecoderConfig, routing: Routing) -> None:
        super().__init__()
        c = config.channels
        self.config = config
        self.routing = routing
        self.query_content = nn.Parameter(torch.randn(config.queries, c))
        self.query_position = nn.Parameter(torch.randn(config.queries, c))
        self.memory_content = nn.Parameter(torch.randn(config.memories, c))
        self.memory_position = nn.Parameter(torch.randn(config.memories, c))
        self.level_embedding = nn.Parameter(torch.randn(len(config.level_caps), c))
        self.sampler = VisualSampler(c, config.level_caps, config.mean_cap, routing.separate_objects)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(c)
        self.class_projection = nn.Parameter(torch.randn(c, config.text_channels) / c**0.5)
        self.mask_embedding = Mlp(c, config.mask_channels)

    @property
    def product_dtype(self) -> torch.dtype:
        """Precision of the layers' matrix products; all else is in that of the queries."""
        return next(module.weight.dtype for module in self.layers.modules() if isinstance(module, nn.Linear))

    def set_product_precision(self, dtype: torch.dtype) -> None:
        """Matrix products of the layers in `dtype`; queries, norms, softmax, sampler and heads stay as they are."""
        for module in self.layers.modules():
            if isinstance(module, nn.Linear | Attention):
                module.to(dtype)

    def sample(
        self,
        features: ImageFeatures,
        positive: Tensor,
        negative: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> VisualTokens:
        """Tokens of the objects marked by (N, H, W) bool masks on `features`; see `VisualSampler.forward`."""
        tokens: VisualTokens = self.sampler(
            features, self._level_maps(features), positive, negative, generator=generator
        )
        return tokens

    def forward(
        self,
        features: ImageFeatures,
        prompts: DecoderPrompts | None = None,
        *,
        objects: bool = True,
        masks: bool = False,
        earlier: bool = False,
    ) -> DecoderOutput:
        """Decode B objects on one image (F == 1), or on one image each (F == B).

        objects: False leaves the object queries out where words and strokes have queries of their own, which never
        read them; in `demo`, and without such prompts, they stay.

        masks: also the mask logits of every query. earlier: also the predictions after every layer, with masks. Without
        either, masks are computed only at the size at which the next layer needs them.
        """
        prompts = prompts or DecoderPrompts()
        self._check(features, prompts)
        rows = self._first_rows(prompts, _batch_size(features, prompts), objects)
        levels = self._level_sources(features)
        level_prompts = self._level_prompts(prompts, rows)
        remembered = [remembered_area(prompts.previous_mask, self.config.memories, level.size) for level in levels]
        heads = MaskHeads(features, [level.size for level in levels], full=earlier)

        outputs: list[DecoderOutput] = []
        for i, layer in enumerate(self.layers):
            at = i % len(levels)
            embeddings = self.mask_embedding(self._normed_queries(rows))
            if earlier:
                outputs.append(self._predict(rows, heads, masks=True))
            inside = torch.cat((heads.inside(embeddings, at), *remembered[at]), dim=1)
            content = layer(rows, levels[at], inside, level_prompts[at])
            rows = Rows(content, rows.position, rows.spans)
        final = self._predict(rows, heads, masks=masks or earlier)
        return DecoderOutput(final.objects, final.grounding, final.spatial, tuple(outputs))

    # --- what goes in ---

    def _check(self, features: ImageFeatures, prompts: DecoderPrompts) -> None:
        name = self.routing.name
        if prompts.previous_mask is not None:
            if not self.routing.takes(Group.MEMORY):
                raise PromptError(f"routing {name} has no memory prompt; use v0 or v1, or leave previous_mask out")
            if tuple(prompts.previous_mask.shape[2:]) != features.mask_features.size:
                raise PromptError(
                    f"the previous mask has size {tuple(prompts.previous_mask.shape[2:])}, the image needs "
                    f"{features.mask_features.size}; give the logits of a round on an image of this size"
                )
        if prompts.audio is not None and not self.routing.takes(Group.AUDIO):
            raise PromptError(f"routing {name} has no audio tokens; give the transcript as text")
        batch = _batch_size(features, prompts)
        if features.batch not in (1, batch):
            raise PromptError(f"{features.batch} images for {batch} prompts; give one image, or one per prompt")

    def _object_count(self, prompts: DecoderPrompts) -> int:
        """Objects within one batch item, 0 without strokes."""
        sources = (prompts.stroke, prompts.reference)
        counts = {tokens.object_count for tokens in sources if tokens is not None}
        if prompts.previous_mask is not None:
            counts.add(prompts.previous_mask.shape[1])
        if len(counts) > 1:
            raise PromptError(
                f"strokes, references and previous masks speak of {sorted(counts)} objects; give all of one"
            )
        return max(counts, default=0)

    def _first_rows(self, prompts: DecoderPrompts, batch: int, objects: bool) -> Rows:
        """Learned queries and memories, and the words, before the first layer."""
        runs: list[tuple[TokenSpan, Tensor, Tensor]] = []
        count = self._object_count(prompts)
        if objects or not self.routing.has_query_groups or not (count or prompts.text):
            runs.append((TokenSpan(Group.OBJECT, self.config.queries), self.query_content, self.query_position))
        if self.routing.has_query_groups and prompts.text is not None:
            runs.append((TokenSpan(Group.GROUNDING, self.config.queries), self.query_content, self.query_position))
        if self.routing.has_query_groups and count:
            runs.append(self._spatial_queries(count, prompts.query_indices))
        if prompts.previous_mask is not None:
            owners = memory_owners(self.config.memories, count, self.memory_content.device)
            span = TokenSpan(Group.MEMORY, self.config.memories, objects=owners[None])
            runs.append((span, self.memory_content, self.memory_position))
        for group, words in ((Group.TEXT, prompts.text), (Group.AUDIO, prompts.audio)):
            if words is not None:
                span = TokenSpan(group, words.tokens.shape[1], padding=words.padding)
                runs.append((span, words.tokens, words.tokens))  # a word's position is its own first value
        spans, contents, positions = zip(*runs, strict=True)
        return Rows(_side_by_side(contents, batch), _side_by_side(positions, batch), spans)

    def _spatial_queries(self, count: int, indices: Tensor | None) -> tuple[TokenSpan, Tensor, Tensor]:
        """Queries for strokes: a copy of all (`v0`), or a few for each object (`v1`)."""
        if not self.routing.separate_objects:
            return TokenSpan(Group.SPATIAL, self.config.queries), self.query_content, self.query_position
        each, device = self.config.queries_per_object, self.query_content.device
        if indices is None:
            indices = spread_query_indices(each * count, self.config.queries).to(device)
        if indices.shape != (each * count,):
            raise PromptError(f"{count} objects need {each * count} query indices, not {tuple(indices.shape)}")
        owners = torch.arange(count, device=device).repeat_interleave(each)
        span = TokenSpan(Group.SPATIAL, each * count, objects=owners[None])
        return span, self.query_content[indices], self.query_position[indices]

    def _level_maps(self, features: ImageFeatures) -> list[Tensor]:
        """Three (F, C, h, w) maps that carry the mark of their level."""
        marks = self.level_embedding.to(features.levels[0].dtype)[:, :, None, None]
        return [level + mark for level, mark in zip(features.levels, marks, strict=True)]

    def _level_sources(self, features: ImageFeatures) -> list[LevelSource]:
        sources = []
        for level in self._level_maps(features):
            h, w = level.shape[2:]
            position = sine_positions(h, w, level.shape[1], device=level.device, dtype=level.dtype)
            value = level.flatten(2).transpose(1, 2)  # (F, h * w, C)
            key = value + position.flatten(2).transpose(1, 2)
            sources.append(LevelSource(value.to(self.product_dtype), key.to(self.product_dtype), (h, w)))
        return sources

    def _level_prompts(self, prompts: DecoderPrompts, rows: Rows) -> list[PromptSource]:
        """Stroke and reference tokens of every level, and the attention mask with them."""
        routing = self.routing.compose(
            text_sees_strokes=prompts.text_sees_strokes, strokes_see_text=prompts.strokes_see_text
        )
        given = [(Group.STROKE, prompts.stroke), (Group.VISUAL, prompts.reference)]
        sources = [(group, tokens) for group, tokens in given if tokens is not None]
        if routing.has_query_groups and sources:  # these routings know one kind of visual token
            sources = [(Group.STROKE, add_views([tokens for _, tokens in sources]))]
        batch, device = rows.content.shape[0], rows.content.device
        level_prompts = []
        for level in range(len(self.config.level_caps)):
            runs = [
                (TokenSpan(group, t.levels[level].shape[1], t.objects[level], t.padding[level]), t.levels[level])
                for group, t in sources
            ]
            columns = (*rows.spans, *(span for span, _ in runs))
            tokens = _side_by_side([content for _, content in runs], batch) if runs else None
            allowed = attention_mask(routing, rows.spans, columns, device)
            level_prompts.append(PromptSource.of(tokens, allowed, self.product_dtype))
        return level_prompts

    # --- what comes out ---

    def _normed_queries(self, rows: Rows) -> Tensor:
        """(B, Q of all groups, C): the rows that predict."""
        normed: Tensor = self.norm(rows.content[:, : sum(span.length for span in _query_spans(rows))])
        return normed

    def _predict(self, rows: Rows, heads: MaskHeads, masks: bool) -> DecoderOutput:
        queries = self._normed_queries(rows)
        embeddings, vectors = self.mask_embedding(queries), queries @ self.class_projection
        spans = _query_spans(rows)
        lengths = [span.length for span in spans]
        found = {
            span.group: QueryOutput(e, v, heads.logits(e) if masks else None)
            for span, e, v in zip(
                spans, torch.split(embeddings, lengths, 1), torch.split(vectors, lengths, 1), strict=True
            )
        }
        return DecoderOutput(found.get(Group.OBJECT), found.get(Group.GROUNDING), found.get(Group.SPATIAL))


def _query_spans(rows: Rows) -> list[TokenSpan]:
    return [span for span in rows.spans if span.group in (Group.OBJECT, Group.GROUNDING, Group.SPATIAL)]


def _side_by_side(contents: Sequence[Tensor], batch: int) -> Tensor:
    """Runs of (T, C), (1, T, C) or (B, T, C) tokens, concatenated to (B, all T, C)."""
    return torch.cat([run.expand(batch, -1, -1) for run in contents], dim=1)


def _batch_size(features: ImageFeatures, prompts: DecoderPrompts) -> int:
    """B: the largest batch among all that is given."""
    sizes = {features.batch}
    sizes |= {tokens.batch for tokens in (prompts.stroke, prompts.reference) if tokens is not None}
    sizes |= {words.tokens.shape[0] for words in (prompts.text, prompts.audio) if words is not None}
    if prompts.previous_mask is not None:
        sizes.add(prompts.previous_mask.shape[0])
    if len(sizes - {1}) > 1:
        raise PromptError(f"images and prompts come in batches of {sorted(sizes)}; give all of one size, or 1")
    return max(sizes)


def spread_query_indices(count: int, queries: int) -> Tensor:
    """(count,) int64: which learned queries serve `v1`'s objects: a fixed walk that spreads them over all.

    Official code draws them at random, anew for every image, so that its result changes from run to run.
    """
    return (11 * torch.arange(count) + 5) % queries
