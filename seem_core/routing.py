"""Who may attend to whom in SEEM's self-attention: three routings as one table, and one function that makes the mask.

The published decoders (`demo`, `v0`, `v1`) have the same parameters and differ only here (SPEC §5.1; paper section
3.3, "queries, prompts and their interaction"). In `demo` all prompts act on the same object queries; in `v0` and `v1`
words and strokes have query groups of their own, which start as copies of the object queries. `v1` decodes several
objects in one pass: what belongs to one object is kept from what belongs to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

RoutingName = Literal["demo", "v0", "v1"]


class Group(Enum):
    """A kind of token in the decoder's self-attention."""

    OBJECT = "object queries"
    GROUNDING = "grounding queries"
    SPATIAL = "spatial queries"
    MEMORY = "memory tokens"
    TEXT = "text tokens"
    AUDIO = "audio tokens"
    STROKE = "stroke tokens"
    VISUAL = "visual tokens"


PER_OBJECT = frozenset({Group.SPATIAL, Group.MEMORY, Group.STROKE})
"""Groups whose tokens belong to one object each, where a routing keeps objects apart."""


@dataclass(frozen=True)
class Routing:
    """One way of letting token groups see each other.

    `attends` holds pairs (reader, what it reads); a group that reads nothing takes no part. With `separate_objects`,
    tokens of `PER_OBJECT` groups read only tokens of their own object.
    """

    name: RoutingName
    attends: frozenset[tuple[Group, Group]]
    separate_objects: bool = False

    def takes(self, group: Group) -> bool:
        """Whether tokens of this group take part."""
        return any(reader is group for reader, _ in self.attends)

    @property
    def has_query_groups(self) -> bool:
        """Whether words and strokes have queries of their own."""
        return self.takes(Group.SPATIAL)

    def compose(self, *, text_sees_strokes: bool = False, strokes_see_text: bool = False) -> Routing:
        """The same routing with prompts of one kind added to what the queries of the other kind read.

        Where all prompts act on the same queries already (`demo`) nothing changes.
        """
        if not self.has_query_groups or not (text_sees_strokes or strokes_see_text):
            return self
        added = {(Group.GROUNDING, Group.STROKE)} if text_sees_strokes else set()
        if strokes_see_text:
            added.add((Group.SPATIAL, Group.TEXT))
        return replace(self, attends=self.attends | added)


def _table(rows: dict[Group, set[Group]]) -> frozenset[tuple[Group, Group]]:
    return frozenset((reader, read) for reader, columns in rows.items() for read in columns)


_DEMO = _table(
    {
        Group.OBJECT: {Group.OBJECT, Group.TEXT, Group.STROKE, Group.VISUAL, Group.AUDIO},
        Group.TEXT: {Group.OBJECT, Group.TEXT},
        Group.STROKE: {Group.STROKE},
        Group.VISUAL: {Group.VISUAL},
        Group.AUDIO: {Group.OBJECT, Group.AUDIO},
    }
)
_QUERY_GROUPS = _table(
    {
        Group.OBJECT: {Group.OBJECT},
        Group.GROUNDING: {Group.GROUNDING, Group.TEXT},
        Group.SPATIAL: {Group.SPATIAL, Group.STROKE, Group.MEMORY},
        Group.TEXT: {Group.GROUNDING, Group.TEXT},
        Group.STROKE: {Group.STROKE},
        Group.MEMORY: {Group.MEMORY},
    }
)

ROUTINGS: Mapping[RoutingName, Routing] = MappingProxyType(
    {
        "demo": Routing("demo", _DEMO),
        "v0": Routing("v0", _QUERY_GROUPS),
        "v1": Routing("v1", _QUERY_GROUPS, separate_objects=True),
    }
)


@dataclass(frozen=True, eq=False)
class TokenSpan:
    """A run of neighbouring tokens of one group.

    objects: (B or 1, length) int64, the object each token belongs to, -1 for none; only read in `PER_OBJECT` groups.
    padding: (B or 1, length) bool, True where there is no token; such places neither read nor are read.
    """

    group: Group
    length: int
    objects: Tensor | None = None
    padding: Tensor | None = None


def attention_mask(
    routing: Routing, rows: Sequence[TokenSpan], columns: Sequence[TokenSpan], device: torch.device | str | None = None
) -> Tensor:
    """(B or 1, sum of row lengths, sum of column lengths) bool: True where the row may read the column.

    A row without a single True is possible (padding): its attention output is defined as zero.
    """
    grid = [[_block(routing, row, column, device) for column in columns] for row in rows]
    batch = max(block.shape[0] for line in grid for block in line)
    lines = [torch.cat([block.expand(batch, -1, -1) for block in line], dim=2) for line in grid]
    return torch.cat(lines, dim=1)


def _block(routing: Routing, row: TokenSpan, column: TokenSpan, device: torch.device | str | None) -> Tensor:
    """(B or 1, row length, column length) bool for one pair of spans."""
    reads = (row.group, column.group) in routing.attends
    allowed = torch.full((1, row.length, column.length), reads, device=device)
    if not reads:
        return allowed
    if routing.separate_objects and {row.group, column.group} <= PER_OBJECT:
        if row.objects is None or column.objects is None:
            raise ValueError(
                f"{row.group.value} and {column.group.value} need object indices in routing {routing.name}"
            )
        allowed = allowed & (row.objects[:, :, None] == column.objects[:, None, :])
    if row.padding is not None:
        allowed = allowed & ~row.padding[:, :, None]
    if column.padding is not None:
        allowed = allowed & ~column.padding[:, None, :]
    return allowed
