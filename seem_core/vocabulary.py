"""The classes that a model is asked to tell apart: names, one embedding per name, and which of them are countable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seem_core.class_embeddings import class_embeddings, clean_name
from seem_core.coco import BACKGROUND, COCO_STUFF
from seem_core.errors import CheckpointError, PromptError
from seem_core.text import TextEncoder

_UNCOUNTABLE = frozenset(clean_name(name) for name in COCO_STUFF)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """K classes. embeddings: (K + 1, C) unit vectors, the last one "none of them". things: indices of countable ones.

    Regions of one uncountable class (sky, grass) are one region in a panoptic map, countable things stay apart.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    things: frozenset[int]

    def __post_init__(self) -> None:
        if not self.names:
            raise PromptError("the vocabulary is empty; give at least one class name")
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.names) + 1:
            raise CheckpointError(
                f"{len(self.names)} classes and the background need ({len(self.names) + 1}, C) embeddings, "
                f"not {tuple(self.embeddings.shape)}"
            )

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.names)} classes, {len(self.things)} countable)"

    def name(self, class_index: int) -> str | None:
        """The name of a class, None for "none of them"."""
        return self.names[class_index] if class_index < len(self.names) else None

    def to(self, like: Tensor) -> Vocabulary:
        """The same with its embeddings on the device of `like`."""
        return Vocabulary(self.names, self.embeddings.to(like.device), self.things)


def stored_vocabulary(classes: Sequence[str], embeddings: Tensor) -> Vocabulary:
    """The vocabulary that a checkpoint holds: (K + 1, C) embeddings of K classes and, last, the background."""
    if not classes or classes[-1] != BACKGROUND:
        raise CheckpointError(f"the last of the classes of a checkpoint is {BACKGROUND!r}; convert the file again")
    return Vocabulary(tuple(classes[:-1]), embeddings, _countable(classes[:-1]))


def make_vocabulary(
    encoder: TextEncoder,
    names: Sequence[str],
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """Any classes, in the order given; those that COCO counts as stuff are uncountable, all others are things.

    cache, progress: see `class_embeddings`. Raises PromptError for an empty vocabulary, an empty name or one that is
    given twice.
    """
    stripped = [name.strip() for name in names]
    twice = sorted({name for name in stripped if stripped.count(name) > 1})
    if twice and twice != [""]:
        raise PromptError(f"class {twice[-1]!r} is in the vocabulary more than once; name each class once")
    if not stripped:
        raise PromptError("the vocabulary is empty; give at least one class name")
    embeddings = class_embeddings(encoder, [*stripped, BACKGROUND], cache=cache, progress=progress)
    return Vocabulary(tuple(stripped), embeddings, _countable(stripped))


def _countable(names: Sequence[str]) -> frozenset[int]:
    """Indices of all names that COCO does not count as stuff."""
    return frozenset(i for i, name in enumerate(names) if clean_name(name) not in _UNCOUNTABLE)
