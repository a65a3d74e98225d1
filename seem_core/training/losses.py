"""What SEEM is trained to lower, for each of its three tasks: errors of masks, and of who answers for them.

Segmentation (every object of the picture has a query that knows its class), marks (each marked object has a query whose
mask embedding agrees with the marks most) and words (each text has such a query). Every prediction of every decoder
layer is matched and judged by itself (deep supervision); the sum is trained. Paper: arXiv:2304.06718 section 3 and
supplement; Mask2Former (arXiv:2112.01527); SPEC §9.

B pictures, Q queries, N objects of one picture, n matched pairs of all pictures, P points, K classes without "no
object". Everything is computed in float32, whatever the logits are. A task without objects costs 0, with a gradient of
0, so that it can be left in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.training.mask_points import PUBLISHED_SAMPLING, PointSampling, read_points, uncertain_points
from seem_core.training.matcher import Match, MatchWeights, match_objects


@dataclass(frozen=True)
class TaskWeights:
    """Weights of one task: `ce` who answers, `bce` and `dice` the mask."""

    ce: float
    bce: float
    dice: float


@dataclass(frozen=True)
class LossWeights:
    """Weights of all tasks.

    no_object: of that class against the others within the cross-entropy of segmentation. sentence, class_name: further
    factors of the cross-entropy of words, for raw sentences and for class names put into a template.
    """

    segmentation: TaskWeights
    marks: TaskWeights
    words: TaskWeights
    no_object: float = 0.1
    sentence: float = 1.0
    class_name: float = 1.0


PAPER = LossWeights(TaskWeights(2.0, 5.0, 5.0), TaskWeights(0.2, 2.0, 2.0), TaskWeights(0.2, 2.0, 2.0))
"""As the paper gives them."""
CODE = LossWeights(
    TaskWeights(2.0, 5.0, 5.0), TaskWeights(0.4, 1.0, 1.0), TaskWeights(0.4, 1.0, 1.0), sentence=2.0, class_name=0.5
)
"""As the published code has them."""


@dataclass(frozen=True)
class LossSettings:
    """How pairs are found and where masks are compared."""

    matching: MatchWeights = field(default_factory=MatchWeights)
    sampling: PointSampling = PUBLISHED_SAMPLING


PUBLISHED = LossSettings()


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """Unweighted scalars of one task."""

    ce: Tensor
    bce: Tensor
    dice: Tensor

    def weighted(self, weights: TaskWeights) -> Tensor:
        """Their weighted sum, a scalar."""
        return weights.ce * self.ce + weights.bce * self.bce + weights.dice * self.dice


def total(layers: Sequence[TaskLoss], weights: TaskWeights) -> Tensor:
    """Deep supervision: the weighted losses of one task after 0, 1, ... decoder layers, added up. At least one."""
    return torch.stack([loss.weighted(weights) for loss in layers]).sum()


# --- the three tasks ----------------------------------------------------------------------------------------------


def segmentation_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    classes: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    no_object: float = 0.1,
    settings: LossSettings = PUBLISHED,
    generator: torch.Generator | None = None,
) -> TaskLoss:
    """Loss of the object queries against all objects of each picture.

    class_logits: (B, Q, K + 1), "no object" last. mask_logits: (B, Q, h, w). classes: per picture (N,) int64 in 0..K-1.
    masks: per picture (N, H, W) bool. The cross-entropy runs over all queries, those without an object learn "no
    object" with weight `no_object`.
    """
    claims = [p[:, c] for p, c in zip(class_logits.float().softmax(-1), classes, strict=True)]
    matches = _match(claims, mask_logits, masks, None, settings, generator)
    none = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], none, dtype=torch.int64, device=class_logits.device)
    for row, match, of_picture in zip(wanted, matches, classes, strict=True):
        row[match.queries] = of_picture[match.objects]
    weight = torch.ones(none + 1, device=class_logits.device)
    weight[none] = no_object
    ce = F.cross_entropy(class_logits.float().transpose(1, 2), wanted, weight)
    return _with_masks(ce, mask_logits, masks, matches, settings, generator)


def marks_loss(
    similarity: Sequence[Tensor],
    mask_logits: Tensor,
    masks: Sequence[Tensor],
    *,
    allowed: Sequence[Tensor] | None = None,
    settings: LossSettings = PUBLISHED,
    generator: torch.Generator | None = None,
) -> TaskLoss:
    """Loss of the queries that read marks against the marked objects.

    similarity: per picture (N, Q), raw dot products of each object's mean marked feature with the mask embeddings.
    mask_logits: (B, Q, h, w). masks: per picture (N, H, W) bool. allowed: per picture (N, Q) bool, an object's own
    queries; the matching keeps to them, the cross-entropy over queries runs over all, so that others learn to disagree.
    """
    claims = [s.float().softmax(-1).T for s in similarity]
    matches = _match(claims, mask_logits, masks, allowed, settings, generator)
    entropies = [
        F.cross_entropy(s.float()[m.objects], m.queries, reduction="none")
        for s, m in zip(similarity, matches, strict=True)
    ]
    return _with_masks(_mean(entropies, mask_logits), mask_logits, masks, matches, settings, generator)


def words_loss(
    similarity: Sequence[Tensor],
    mask_logits: Tensor,
    masks: Sequence[Tensor],
    *,
    same: Sequence[Tensor] | None = None,
    factors: Sequence[float] | None = None,
    settings: LossSettings = PUBLISHED,
    generator: torch.Generator | None = None,
) -> TaskLoss:
    """Loss of the queries that read words against the objects that the texts speak of.

    similarity: per picture (N, Q), scaled similarity of each of N texts with each query. mask_logits: (B, Q, h, w).
    masks: per picture (N, H, W) bool. same: per picture (N,) int64, equal for texts that say the same (a class name
    of several objects): such a text may be answered by any of their queries, in equal shares. factors: per picture, of
    its cross-entropy (`LossWeights.sentence` or `class_name`).
    """
    claims = [s.float().softmax(-1).T for s in similarity]
    matches = _match(claims, mask_logits, masks, None, settings, generator)
    groups = [torch.arange(len(s), device=s.device) for s in similarity] if same is None else same
    entropies = [
        -factor * (shared_targets(m, group, s.shape[1]) * s.float().log_softmax(-1)).sum(-1)
        for s, m, group, factor in zip(similarity, matches, groups, factors or [1.0] * len(matches), strict=True)
    ]
    return _with_masks(_mean(entropies, mask_logits), mask_logits, masks, matches, settings, generator)


def shared_targets(match: Match, same: Tensor, queries: int) -> Tensor:
    """(N, Q) float32: for each text the share of each query, the mean over the texts that are the `same`, (N,)."""
    own = torch.zeros(len(same), queries, device=same.device)
    own[match.objects, match.queries] = 1
    alike = (same[:, None] == same[None]).float()
    with torch.autocast(same.device.type, enabled=False):
        return (alike / alike.sum(1, keepdim=True)) @ own


# --- masks ----------------------------------------------------------------------------------------------------------


def bce_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over n masks of the mean binary cross-entropy at P points; both (n, P), n at least 1."""
    return F.binary_cross_entropy_with_logits(logits, truth)


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over n masks of one minus dice, smoothed by 1; both (n, P), n at least 1."""
    p = logits.sigmoid()
    return (1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)).mean()


def mask_losses(
    logits: Tensor, truth: Tensor, sampling: PointSampling, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of n masks, logits (n, h, w) against (n, H, W) bool, where logits are uncertain."""
    points = uncertain_points(logits.detach().float(), sampling, generator)
    read = read_points(logits.float(), points)
    with torch.no_grad():
        wanted = read_points(truth.float(), points)
    return bce_loss(read, wanted), dice_loss(read, wanted)


# --- parts ----------------------------------------------------------------------------------------------------------


def _match(
    claims: Sequence[Tensor],
    mask_logits: Tensor,
    masks: Sequence[Tensor],
    allowed: Sequence[Tensor] | None,
    settings: LossSettings,
    generator: torch.Generator | None,
) -> list[Match]:
    """Pairs of each picture; claims (Q, N), allowed (N, Q)."""
    return [
        match_objects(
            claim.detach(),
            logits.detach(),
            objects,
            allowed=None if allowed is None else allowed[b].T,
            weights=settings.matching,
            points=settings.sampling.points,
            generator=generator,
        )
        for b, (claim, logits, objects) in enumerate(zip(claims, mask_logits, masks, strict=True))
    ]


def _with_masks(
    ce: Tensor,
    mask_logits: Tensor,
    masks: Sequence[Tensor],
    matches: Sequence[Match],
    settings: LossSettings,
    generator: torch.Generator | None,
) -> TaskLoss:
    """`ce` and the losses of the matched masks of all pictures, each mask counting the same."""
    pairs = list(zip(mask_logits, masks, matches, strict=True))
    logits = torch.cat([of_picture[m.queries] for of_picture, _, m in pairs])  # (n, h, w)
    if len(logits) == 0:
        nothing = mask_logits.float().sum() * 0
        return TaskLoss(ce + nothing, nothing, nothing)
    truth = torch.cat([of_picture[m.objects] for _, of_picture, m in pairs])  # (n, H, W)
    return TaskLoss(ce, *mask_losses(logits, truth, settings.sampling, generator))


def _mean(entropies: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean over all entropies of all pictures, 0 of none."""
    joined = torch.cat(list(entropies)) if entropies else like.new_zeros(0)
    return joined.mean() if len(joined) else like.float().sum() * 0
