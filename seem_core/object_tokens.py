"""Visual tokens object by object, as a memory keeps them, and back into the layouts that the decoder reads.

`VisualTokens` holds all objects of one call in the layout of its routing. `ObjectTokens` is one object in one view: it
can be kept, dropped, saved, and put together with other views and other objects later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seem_core.errors import PromptError
from seem_core.segmenter_types import ObjectTokens
from seem_core.visual_sampler import VisualTokens, join_objects, stack_objects


def split_objects(tokens: VisualTokens, ids: Sequence[int], positive: Sequence[bool]) -> list[ObjectTokens]:
    """The tokens of each of N objects. positive: whether anything marks the object as such; else its mean is void."""
    together = tokens.object_count > 1 or tokens.batch == 1  # N objects in one sequence, else one in each of N
    found = []
    for n, (object_id, marked) in enumerate(zip(ids, positive, strict=True)):
        item, index = (0, n) if together else (n, 0)
        levels = tuple(
            level[item][owner[item] == index] for level, owner in zip(tokens.levels, tokens.objects, strict=True)
        )
        found.append(ObjectTokens(object_id, levels, tokens.positive[item, index] if marked else None))
    return found


def assemble(views: Sequence[Sequence[ObjectTokens]], *, separate: bool, cap: int | None = None) -> VisualTokens:
    """Views of N objects (one inner sequence per object) as the decoder reads them.

    separate: all objects in one sequence (`v1`), else each an item of a batch. cap: at most this many tokens per level
    and sequence, shared fairly among its objects and then among an object's views; None keeps all. The mean vector of
    an object is that of its views; it is zero where none has one.
    """
    caps = _object_caps(views, separate, cap)
    items = [_one_object(of_one, limits) for of_one, limits in zip(views, caps, strict=True)]
    return join_objects(items) if separate else stack_objects(items)


def mean_positive(views: Sequence[ObjectTokens]) -> Tensor | None:
    """(C,): mean over the views that have a mean vector, None where there is none."""
    known = [view.positive for view in views if view.positive is not None]
    return torch.stack(known).mean(0) if known else None


def fair_shares(counts: Sequence[int], cap: int) -> list[int]:
    """How many each may keep of its `counts` so that all together keep at most `cap`.

    All get the same, and what some do not need goes to the others; what cannot be divided goes to the first.
    """
    shares = [0] * len(counts)
    left = min(cap, sum(counts))
    while left > 0:
        hungry = [i for i, count in enumerate(counts) if shares[i] < count]
        each = max(left // len(hungry), 1)
        for i in hungry[:left]:
            more = min(each, counts[i] - shares[i], left)
            shares[i] += more
            left -= more
    return shares


def thin(tokens: Tensor, count: int) -> Tensor:
    """`count` of (T, C) tokens, evenly spread over their order, which runs over the object row by row."""
    if len(tokens) <= count:
        return tokens
    return tokens[torch.arange(count, device=tokens.device) * len(tokens) // count]


def _object_caps(views: Sequence[Sequence[ObjectTokens]], separate: bool, cap: int | None) -> list[list[int]]:
    """Per object and level, how many tokens its views may have together."""
    depth = len(views[0][0].levels)
    totals = [[sum(len(view.levels[level]) for view in of_one) for level in range(depth)] for of_one in views]
    if cap is None:
        return totals
    if not separate:
        return [[cap] * depth for _ in views]
    shares = [fair_shares([total[level] for total in totals], cap) for level in range(depth)]
    return [[shares[level][n] for level in range(depth)] for n in range(len(views))]


def _one_object(views: Sequence[ObjectTokens], caps: Sequence[int]) -> VisualTokens:
    """Views of one object as a batch of one with one object."""
    widths = {level.shape[1] for view in views for level in view.levels}
    if len(widths) > 1:
        raise PromptError(f"tokens are {sorted(widths)} wide; they come from different models and cannot be mixed")
    levels = []
    for at, cap in enumerate(caps):
        pieces = [view.levels[at] for view in views]
        shares = fair_shares([len(piece) for piece in pieces], cap)
        levels.append(torch.cat([thin(piece, share) for piece, share in zip(pieces, shares, strict=True)])[None])
    mean = mean_positive(views)
    positive = levels[0].new_zeros(levels[0].shape[2]) if mean is None else mean
    padding = [level.new_zeros(level.shape[:2], dtype=torch.bool) for level in levels]
    objects = [level.new_zeros(level.shape[:2], dtype=torch.long) for level in levels]
    return VisualTokens(
        (levels[0], levels[1], levels[2]),
        (padding[0], padding[1], padding[2]),
        (objects[0], objects[1], objects[2]),
        positive[None, None],
        torch.zeros_like(positive)[None, None],
    )
