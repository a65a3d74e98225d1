"""What is asked about one object, which requests can be decoded together, and which queries answer.

In `demo` all prompts act on the same queries; in `v0` and `v1` marks and words have query groups of their own, and an
object with both can be read off either (the paper's supplement compares the choices).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seem_core.decoder import TextTokens
from seem_core.errors import PromptError
from seem_core.segmenter_types import ObjectTokens

QueryGroup = Literal["object", "text", "visual"]
OutputQuery = Literal["auto", "object", "text", "visual"]
"""auto: visual where an object has marks or a reference, else text. object: the queries that segment everything."""


@dataclass(frozen=True, eq=False)
class ObjectRequest:
    """One object. marks: positive and negative (H, W) bool on the padded input. references: it in other pictures.

    words: it in words, encoded. previous: (h, w) logits of its mask in the round before, at stride 4.
    """

    object_id: int
    marks: tuple[Tensor, Tensor] | None = None
    references: tuple[ObjectTokens, ...] = ()
    words: TextTokens | None = None
    previous: Tensor | None = None

    @property
    def is_visual(self) -> bool:
        """Whether it is shown, here or on another picture."""
        return self.marks is not None or bool(self.references)

    @property
    def kind(self) -> tuple[bool, bool, bool, bool]:
        """Which prompts it has: only requests of one kind can be decoded together."""
        return (
            self.marks is not None,
            bool(self.references),
            self.words is not None,
            self.previous is not None and self.is_visual,
        )

    def check(self) -> None:
        """Raises PromptError where nothing says what the object is."""
        if not self.references and self.words is None and self.marks is not None and not self.marks[0].any():
            raise PromptError(f"object {self.object_id} has no positive mark; add a point on the object")


def batches(requests: Sequence[ObjectRequest], most: int) -> Iterator[list[ObjectRequest]]:
    """Requests of one kind together, at most `most` at a time, otherwise in the order given."""
    for kind in dict.fromkeys(request.kind for request in requests):
        alike = [request for request in requests if request.kind == kind]
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


def answering_query(wanted: OutputQuery, request: ObjectRequest) -> QueryGroup:
    """The query group that answers. Raises PromptError where the object lacks the prompts that make it."""
    if wanted == "auto":
        return "visual" if request.is_visual else "text"
    if wanted == "visual" and not request.is_visual:
        raise PromptError(
            f"object {request.object_id} has words alone, no query of marks can answer; use output query text or auto"
        )
    if wanted == "text" and request.words is None:
        raise PromptError(f"object {request.object_id} has no words; use output query visual or auto, or add words")
    if wanted not in ("object", "text", "visual"):
        raise PromptError(f"output query {wanted!r} is unknown; use auto, object, text or visual")
    return wanted
