"""The visual sampler: marked pixels become prompt tokens, by reading the image's features under them.

Points, strokes, scribbles, boxes, polygons, masks and the mask of a referring image are all the same to it: a set of
marked pixels on the network's input canvas, positive or negative (paper, "Versatile"; its supplement, Algorithm 1;
SPEC §6). Tokens carry no position of their own; where they are from is in the features alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.errors import PromptError
from seem_core.image_features import ImageFeatures

NO_OBJECT = -1
Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """Everything a marked image hands to the decoder, also on a later image (about 3 MB per object in float32).

    levels: per feature level (B, T_l, C) tokens. padding: per level (B, T_l) bool, True where there is no token.
    objects: per level (B, T_l) int64, which of the N objects a token belongs to, -1 for padding.
    positive, negative: (B, N, C) mean mask feature under positive and negative pixels; `positive` picks the query
    whose mask is returned.
    N is 1 where every object is a batch item of its own (`demo`, `v0`); in `v1` B is 1 and one item holds N objects.
    """

    levels: Three
    padding: Three
    objects: Three
    positive: Tensor
    negative: Tensor

    @property
    def batch(self) -> int:
        """B."""
        return self.positive.shape[0]

    @property
    def object_count(self) -> int:
        """N."""
        return self.positive.shape[1]

    def __repr__(self) -> str:
        counts = ", ".join(str(level.shape[1]) for level in self.levels)
        return f"VisualTokens(batch={self.batch}, objects={self.object_count}, tokens per level=({counts}))"


class VisualSampler(nn.Module):
    """Projections and signs of prompt tokens.

    level_caps: at most this many points per sign and level; mean_cap: at most this many for a mean vector.
    separate_objects: lay N objects out in one sequence (`v1`), else as a batch.
    """

    def __init__(self, channels: int, level_caps: tuple[int, int, int], mean_cap: int, separate_objects: bool) -> None:
        super().__init__()
        self.level_caps = level_caps
        self.mean_cap = mean_cap
        self.separate_objects = separate_objects
        self.level_projections = nn.ParameterList(
            nn.Parameter(torch.randn(channels, channels) / channels**0.5) for _ in level_caps
        )
        self.signs = nn.Parameter(torch.randn(2, channels))  # added to positive (0) and negative (1) tokens

    def forward(
        self,
        features: ImageFeatures,
        level_maps: Sequence[Tensor],
        positive: Tensor,
        negative: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> VisualTokens:
        """Tokens of N objects.

        features: one image, or (not with `separate_objects`) N images, one per object.
        level_maps: three (F, C, h, w) maps, `features.levels` with the level embedding added.
        positive, negative: (N, H, W) bool on the network's padded input; negative None: nothing marked.
        generator: draws which points stay where there are more than the caps allow; by default one seeded with 0, so
        that the same input always gives the same tokens. It is a CPU generator whatever the device.
        """
        self._check(features, positive, negative)
        generator = generator or torch.Generator().manual_seed(0)
        marks = [_marked_points(positive), _marked_points(torch.zeros_like(positive) if negative is None else negative)]
        means = [self._mean_vectors(features, points, generator) for points in marks]
        columns = [self._level_tokens(level_maps, level, marks, generator) for level in range(len(self.level_caps))]
        levels, padding, objects = zip(*columns, strict=True)
        return VisualTokens(levels, padding, objects, means[0], means[1])

    def _check(self, features: ImageFeatures, positive: Tensor, negative: Tensor | None) -> None:
        for mask in (positive, negative):
            if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape[1:]) != features.padded):
                raise PromptError(
                    f"prompt masks are (N, {features.padded[0]}, {features.padded[1]}) bool, the size of the padded "
                    f"image, not {tuple(mask.shape)} {mask.dtype}"
                )
        if negative is not None and negative.shape != positive.shape:
            raise PromptError(f"{len(positive)} positive masks and {len(negative)} negative ones; give one per object")
        if len(positive) == 0:
            raise PromptError("there is no object to sample; give at least one mask")
        if features.batch != 1 and (self.separate_objects or features.batch != len(positive)):
            raise PromptError(f"{len(positive)} masks for {features.batch} images; give one image, or one per mask")

    # --- choosing points ---

    def _keep(self, points: list[Tensor], cap: int, generator: torch.Generator) -> list[Tensor]:
        """At most `cap` points of each object, or, where objects share a sequence, of all objects together."""
        if not self.separate_objects:
            return [p[_draw(torch.ones(len(p)), cap, generator)] for p in points]
        counts = [len(p) for p in points]
        # every object has the same total weight, so that a large one does not push a small one out
        weights = torch.cat([torch.full((n,), 1.0 / max(n, 1)) for n in counts])
        kept = _draw(weights, cap, generator)
        owner = torch.repeat_interleave(torch.arange(len(points)), torch.tensor(counts))[kept]
        together = torch.cat(points)[kept.to(points[0].device)]
        return [together[(owner == n).to(together.device)] for n in range(len(points))]

    # --- reading features ---

    def _mean_vectors(self, features: ImageFeatures, points: list[Tensor], generator: torch.Generator) -> Tensor:
        """(B, N, C) mean mask feature per object; without points -1 where objects share a sequence, else 0."""
        kept = self._keep(points, self.mean_cap, generator)
        bias = features.mask_features.bias
        precise = torch.promote_types(bias.dtype, torch.float32)
        empty = torch.full_like(bias, -1.0 if self.separate_objects else 0.0, dtype=precise)
        vectors = torch.stack(
            [features.mask_features.mean_at(n % features.batch, p) if len(p) else empty for n, p in enumerate(kept)]
        )
        return vectors[None] if self.separate_objects else vectors[:, None]

    def _level_tokens(
        self, level_maps: Sequence[Tensor], level: int, marks: list[list[Tensor]], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, C), padding (B, T) and object indices (B, T) of one level."""
        feature_map = level_maps[level]
        sequences: list[list[tuple[Tensor, int, int]]] = []  # per batch item: runs of (points, sign, object)
        kept = [self._keep(points, self.level_caps[level], generator) for points in marks]
        count = len(marks[0])
        runs = [[(kept[sign][n], sign, n) for sign in (0, 1)] for n in range(count)]
        if self.separate_objects:
            sequences = [[runs[n][sign] for sign in (0, 1) for n in range(count)]]
        else:
            sequences = [[(points, sign, 0) for points, sign, _ in runs[n]] for n in range(count)]
        length = max(sum(len(points) for points, _, _ in runs) for runs in sequences)
        rows = [
            self._sequence(feature_map[b % len(feature_map)], level, runs, length) for b, runs in enumerate(sequences)
        ]
        tokens, padding, objects = zip(*rows, strict=True)
        return torch.stack(tokens), torch.stack(padding), torch.stack(objects)

    def _sequence(
        self, feature_map: Tensor, level: int, runs: list[tuple[Tensor, int, int]], length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch item's tokens (T, C), padding (T,) and objects (T,); padding reads the top left cell."""
        points = torch.cat([p for p, _, _ in runs])
        device = points.device
        signs = torch.cat([torch.full((len(p),), sign, device=device) for p, sign, _ in runs])
        objects = torch.cat([torch.full((len(p),), n, device=device) for p, _, n in runs])
        missing = length - len(points)
        points = F.pad(points, (0, 0, 0, missing))
        projected = sample_bilinear(feature_map, points) @ self.level_projections[level]
        sign_vectors = F.pad(self.signs.to(projected.dtype)[signs], (0, 0, 0, missing))
        padding = torch.arange(length, device=device) >= length - missing
        return projected + sign_vectors, padding, F.pad(objects, (0, missing), value=NO_OBJECT)


def _marked_points(masks: Tensor) -> list[Tensor]:
    """Per mask of (N, H, W): (n, 2) float32 (row / H, column / W) of its True pixels in row-major order.

    Without the half pixel that would make them pixel centres: the published weights were trained so.
    """
    size = torch.tensor(masks.shape[1:], device=masks.device, dtype=torch.float32)
    return [mask.nonzero() / size for mask in masks]


def _draw(weights: Tensor, cap: int, generator: torch.Generator) -> Tensor:
    """Sorted indices of at most `cap` items, drawn without replacement in proportion to `weights` (n,)."""
    if len(weights) <= cap:
        return torch.arange(len(weights))
    # Efraimidis and Spirakis 2006: the largest log(u) / w are a weighted sample without replacement
    keys = torch.rand(len(weights), generator=generator, dtype=torch.float64).log() / weights
    return keys.topk(cap).indices.sort().values


def sample_bilinear(feature_map: Tensor, points: Tensor) -> Tensor:
    """(C, h, w) read at `points`, (n, 2) row and column in 0..1 from the first to the last cell's centre: (n, C)."""
    grid = 2 * points.flip(1) - 1  # x before y
    precise = torch.promote_types(feature_map.dtype, torch.float32)  # half precision cannot tell the cells apart
    read = F.grid_sample(feature_map[None].to(precise), grid[None, None].to(precise), align_corners=True)
    return read[0, :, 0].T  # (n, C)


def stack_objects(tokens: Sequence[VisualTokens]) -> VisualTokens:
    """Batch items side by side, padded to the longest: the layout of `demo` and `v0` for several objects."""
    return VisualTokens(
        _each_level(tokens, "levels", 0.0),
        _each_level(tokens, "padding", True),
        _each_level(tokens, "objects", NO_OBJECT),
        torch.cat([t.positive for t in tokens]),
        torch.cat([t.negative for t in tokens]),
    )


def _each_level(tokens: Sequence[VisualTokens], field: str, fill: float) -> Three:
    """One field of all items, per level, padded to the longest and concatenated along the batch."""
    stacked = []
    for items in zip(*(getattr(t, field) for t in tokens), strict=True):
        length = max(item.shape[1] for item in items)
        pads = [(0, length - x.shape[1]) if x.ndim == 2 else (0, 0, 0, length - x.shape[1]) for x in items]
        stacked.append(torch.cat([F.pad(x, pad, value=fill) for x, pad in zip(items, pads, strict=True)]))
    return stacked[0], stacked[1], stacked[2]


def join_objects(tokens: Sequence[VisualTokens]) -> VisualTokens:
    """Objects of several items (batch 1) as one sequence with their indices renumbered in order: the layout of `v1`."""
    offsets = [sum(t.object_count for t in tokens[:i]) for i in range(len(tokens))]
    objects = [
        torch.cat(
            [
                torch.where(t.objects[level] < 0, NO_OBJECT, t.objects[level] + o)
                for t, o in zip(tokens, offsets, strict=True)
            ],
            1,
        )
        for level in range(3)
    ]
    return VisualTokens(
        *_joined(tokens),
        (objects[0], objects[1], objects[2]),
        torch.cat([t.positive for t in tokens], dim=1),
        torch.cat([t.negative for t in tokens], dim=1),
    )


def add_views(tokens: Sequence[VisualTokens]) -> VisualTokens:
    """Several views of the *same* objects (a stroke and a reference, or one object in several frames) as one prompt.

    Tokens follow each other; the mean vectors are averaged.
    """
    objects = [torch.cat([t.objects[level] for t in tokens], dim=1) for level in range(3)]
    return VisualTokens(
        *_joined(tokens),
        (objects[0], objects[1], objects[2]),
        torch.stack([t.positive for t in tokens]).mean(0),
        torch.stack([t.negative for t in tokens]).mean(0),
    )


def _joined(tokens: Sequence[VisualTokens]) -> tuple[Three, Three]:
    """Levels and padding of several items, one after the other along the sequence."""
    levels = [torch.cat([t.levels[level] for t in tokens], dim=1) for level in range(3)]
    padding = [torch.cat([t.padding[level] for t in tokens], dim=1) for level in range(3)]
    return (levels[0], levels[1], levels[2]), (padding[0], padding[1], padding[2])
