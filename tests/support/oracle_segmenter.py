"""Segmenters for tests of trackers: `OracleSegmenter` knows the truth and degrades it, `NoiseSegmenter` knows nothing.

Both recognise a frame by its bytes, so that they may be asked in any order and any number of times; what they answer
depends on the seed, the frame and the object alone.

    oracle = OracleSegmenter(images, truths, Recipe(drop=0.4), seed=1)      truths[frame] = {object id: (H, W) bool}
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seem_core.geometry import Geometry
from seem_core.prompts import Prompt
from seem_core.segmenter_types import ObjectTokens, Prediction, Trained, masks_as_prediction

Image = npt.NDArray[np.uint8]  # (H, W, 3)
Mask = npt.NDArray[np.bool_]  # (H, W)
Truth = Mapping[int, Mask]

PADDED_TO = 32
SHARPNESS = 6.0  # logits inside and outside of a mask


@dataclass(frozen=True)
class Recipe:
    """How the truth is spoilt.

    drop     share of frames on which nothing is found
    swap     probability per frame that a run of frames begins on which a distractor is found in place of the object:
             another object of the frame, else the object's own shape somewhere else
    swap_frames  mean length of such a run
    grow     borders are moved outwards (negative: inwards) until the area has changed by about a share drawn from this
             range
    scores   mean score of (right, swapped, dropped) answers; ``spread`` is their standard deviation. With the default
             figures the best threshold on the score alone tells right from wrong on some nine frames of ten.
    """

    drop: float = 0.2
    swap: float = 0.02
    swap_frames: float = 3.0
    grow: tuple[float, float] = (0.0, 0.2)
    scores: tuple[float, float, float] = (0.8, 0.6, 0.4)
    spread: float = 0.15


@dataclass(frozen=True, eq=False)
class KnownFrame:
    """What `encode` returns. frame: None for a picture that the segmenter was not told of."""

    frame: int | None
    geometry: Geometry


class _Known:
    """Recognises frames; answers with what `_answer` says of one object on one frame."""

    name = "known"

    def __init__(self, images: Sequence[Image], seed: int, trained: Trained = "full") -> None:
        self._frames = {_fingerprint(image): frame for frame, image in reversed(list(enumerate(images)))}
        self._seed = seed
        self._trained: Trained = trained
        self.encoded = self.decoded = 0  # calls so far

    @property
    def trained(self) -> Trained:
        return self._trained

    def encode(self, image: Tensor) -> KnownFrame:
        self.encoded += 1
        height, width = int(image.shape[1]), int(image.shape[2])
        padded = (height + -height % PADDED_TO, width + -width % PADDED_TO)
        frame = self._frames.get(_fingerprint(image.permute(1, 2, 0).numpy()))
        return KnownFrame(frame, Geometry((height, width), (height, width), padded))

    def segment(
        self, features: KnownFrame, prompts: Sequence[Prompt], previous: Prediction | None = None
    ) -> Prediction:
        return self._predict(features, sorted({p.object_id for p in prompts}), prompted=True)

    def remember(self, features: KnownFrame, masks: Tensor, ids: Sequence[int] | None = None) -> list[ObjectTokens]:
        ids = range(1, len(masks) + 1) if ids is None else ids
        return [ObjectTokens(i, (torch.zeros(1, 4),) * 3, torch.ones(4)) for i in ids]

    def recall(
        self, features: KnownFrame, memory: Sequence[ObjectTokens], prior: Prediction | None = None
    ) -> Prediction:
        return self._predict(features, sorted({view.object_id for view in memory}), prompted=False)

    def _predict(self, features: KnownFrame, ids: Sequence[int], prompted: bool) -> Prediction:
        self.decoded += 1
        answers = [self._answer(features, i, prompted) for i in ids]
        masks = torch.from_numpy(np.stack([mask for mask, _ in answers]))
        found = masks_as_prediction(masks, features.geometry, ids)
        scores = torch.tensor([score for _, score in answers], dtype=torch.float32)
        return Prediction(tuple(ids), found.logits * SHARPNESS, scores, features.geometry, self._names(ids))

    def _answer(self, features: KnownFrame, object_id: int, prompted: bool) -> tuple[Mask, float]:
        raise NotImplementedError

    def _names(self, ids: Sequence[int]) -> tuple[str | None, ...]:
        return ()

    def _rng(self, *of: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *of])


class OracleSegmenter(_Known):
    """The truth by ``recipe``; prompts are answered with the truth itself.

    names: class name by object id, where the segmenter shall have a vocabulary.
    """

    name = "oracle"

    def __init__(
        self,
        images: Sequence[Image],
        truths: Sequence[Truth],
        recipe: Recipe | None = None,
        *,
        seed: int = 0,
        trained: Trained = "full",
        names: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(images, seed, trained)
        self._truths = truths
        self._recipe = recipe or Recipe()
        self._class_names = names
        ids = sorted({i for truth in truths for i in truth})
        self._swaps = {i: _swaps(len(truths), self._recipe, self._rng(i)) for i in ids}

    def _answer(self, features: KnownFrame, object_id: int, prompted: bool) -> tuple[Mask, float]:
        truth = self._truths[features.frame] if features.frame is not None else {}
        mask = truth.get(object_id, np.zeros(features.geometry.source, np.bool_))
        if features.frame is None or prompted:
            return mask, 1.0
        recipe, rng = self._recipe, self._rng(features.frame, object_id)
        dropped, grow, noise = rng.random(), rng.uniform(*recipe.grow), rng.normal(0, recipe.spread)
        direction = self._swaps[object_id][features.frame]
        right, swapped, empty = recipe.scores
        if dropped < recipe.drop:
            return np.zeros_like(mask), _clip(empty + noise)
        if direction is not None:
            others = [m for i, m in sorted(truth.items()) if i != object_id and m.any()]
            distractor = others[0] if others else elsewhere(mask, direction)
            return move_borders(distractor, grow), _clip(swapped + noise)
        return move_borders(mask, grow), _clip(right + noise)

    def _names(self, ids: Sequence[int]) -> tuple[str | None, ...]:
        return () if self._class_names is None else tuple(self._class_names.get(i) for i in ids)


class NoiseSegmenter(_Known):
    """A random ellipse with a random score on every frame. ``stuck``: the same one on all frames, with score 0.9."""

    name = "noise"

    def __init__(
        self, images: Sequence[Image], *, seed: int = 0, trained: Trained = "full", stuck: bool = False
    ) -> None:
        super().__init__(images, seed, trained)
        self._stuck = stuck

    def _answer(self, features: KnownFrame, object_id: int, prompted: bool) -> tuple[Mask, float]:
        frame = 0 if self._stuck or features.frame is None else features.frame
        rng, (height, width) = self._rng(frame, object_id), features.geometry.source
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(side) for side in rng.uniform(0.1, 0.3, 2) * min(height, width))
        drawn = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
        return drawn > 0, 0.9 if self._stuck else float(rng.random())


def move_borders(mask: Mask, grow: float) -> Mask:
    """Dilated (eroded where ``grow`` is negative) by the disc that changes its area by about the share ``grow``."""
    border = mask & (cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    radius = round(abs(grow) * float(mask.sum()) / max(1, int(border.sum())))
    if radius == 0:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.dilate if grow > 0 else cv2.erode
    return np.asarray(change(mask.view(np.uint8), disc) > 0)


def elsewhere(mask: Mask, direction: float) -> Mask:
    """The same shape, moved by a third of the frame (round the edge) in a ``direction`` of 0..1 turns."""
    if not mask.any():
        return mask
    height, width = mask.shape
    dy, dx = np.sin(2 * np.pi * direction) * height / 3, np.cos(2 * np.pi * direction) * width / 3
    return np.roll(mask, (round(dy), round(dx)), (0, 1))


def _swaps(frames: int, recipe: Recipe, rng: np.random.Generator) -> list[float | None]:
    """Per frame None, or, where a distractor is found, the direction in which it lies: the same over one run."""
    swaps: list[float | None] = []
    now: float | None = None
    for _ in range(frames):
        drawn, direction = rng.random(), rng.random()
        if now is not None and drawn < 1 / recipe.swap_frames:
            now = None
        elif now is None and drawn < recipe.swap:
            now = direction
        swaps.append(now)
    return swaps


def _clip(score: float) -> float:
    return float(np.clip(score, 0, 1))


def _fingerprint(image: Image) -> int:
    return zlib.crc32(np.ascontiguousarray(image).tobytes())
