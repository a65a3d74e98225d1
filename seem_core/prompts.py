"""What a user can point with: a closed union of frozen prompts, all in pixels of the image they refer to.

Frame of reference: pixel (x, y), x to the right, y down, (0, 0) the centre of the top-left pixel; pixel (x, y) is
``image[y, x]``. Every prompt names the object it speaks of (``object_id``, 1..65535). *When* a prompt applies (which
frame) is not known here: `vos.prompts` pairs prompts with frames.

SEEM treats points, strokes, boxes, scribbles and referring masks alike, as a set of marked pixels (paper, "Versatile",
visual sampler); they are kept apart here because other segmenters make better use of the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seem_core.errors import PromptError

MAX_OBJECT_ID = 65535


def _check_id(object_id: int) -> None:
    if not 1 <= object_id <= MAX_OBJECT_ID:
        raise PromptError(f"object id {object_id} is outside 1..{MAX_OBJECT_ID}")


@dataclass(frozen=True)
class PointPrompt:
    """A click. ``positive`` means "this belongs to the object", otherwise "this does not"."""

    x: float
    y: float
    positive: bool = True
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)


@dataclass(frozen=True)
class BoxPrompt:
    """A box around the object: corners (x0, y0) and (x1, y1), both inside, x0 < x1 and y0 < y1."""

    x0: float
    y0: float
    x1: float
    y1: float
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise PromptError(
                f"box {self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g} is empty; "
                "give x0,y0,x1,y1 with x0 < x1 and y0 < y1"
            )


@dataclass(frozen=True)
class ScribblePrompt:
    """A stroke through ``points`` ((x, y) pairs), ``width`` pixels wide."""

    points: tuple[tuple[float, float], ...]
    width: float = 3.0
    positive: bool = True
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if not self.points:
            raise PromptError("a scribble needs at least one point")


@dataclass(frozen=True)
class PolygonPrompt:
    """The area within ``points``, at least three (x, y) corners in order; the last joins the first."""

    points: tuple[tuple[float, float], ...]
    positive: bool = True
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if len(self.points) < 3:
            raise PromptError(f"a polygon needs at least three corners, not {len(self.points)}")


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """The object's mask: (H, W) bool of the image's size."""

    mask: npt.NDArray[np.bool_]
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise PromptError(f"a mask prompt is (H, W) bool, not {self.mask.shape} {self.mask.dtype}")

    def __repr__(self) -> str:
        return f"MaskPrompt(mask={self.mask.shape}, {int(self.mask.sum())} pixels, object_id={self.object_id})"


@dataclass(frozen=True, eq=False)
class ReferencePrompt:
    """The object shown on *another* picture: ``image`` (H', W', 3) uint8 RGB and ``mask`` (H', W') bool on it."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise PromptError(f"a reference image is (H, W, 3) uint8 RGB, not {self.image.shape} {self.image.dtype}")
        if self.mask.shape != self.image.shape[:2] or self.mask.dtype != np.bool_:
            size = self.image.shape[:2]
            raise PromptError(f"a reference mask is {size} bool, not {self.mask.shape} {self.mask.dtype}")

    def __repr__(self) -> str:
        return f"ReferencePrompt(image={self.image.shape}, {int(self.mask.sum())} pixels, object_id={self.object_id})"


@dataclass(frozen=True)
class TextPrompt:
    """The object in words."""

    text: str
    object_id: int = 1

    def __post_init__(self) -> None:
        _check_id(self.object_id)
        if not self.text.strip():
            raise PromptError("a text prompt is empty")


Prompt = PointPrompt | BoxPrompt | ScribblePrompt | PolygonPrompt | MaskPrompt | ReferencePrompt | TextPrompt
