"""The `fused` tracker: propagation keeps identity and place, a decoder gives shape, finds again, and scores.

    encode (both)  ->  read propagation  ->  recall, with the propagated mask as spatial prompt and prior
                   ->  weigh the two opinions of every object (`trackers.trust`)  ->  one owner per pixel  ->  remember

The decoder is asked once per frame, for all objects together. Where both opinions are on the object, its mask is their
logarithmic opinion pool; else it is the mask of the more probable one, and not remembered while that is in doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.errors import InputError, VosError
from seem_core.object_tokens import thin
from seem_core.prompts import Prompt, ReferencePrompt
from seem_core.segmenter_types import ObjectTokens, Prediction, Segmenter
from trackers.base import Image, ObjectMasks
from trackers.decoder_masks import log_odds, masks_as_prior, masks_on_grid
from trackers.dense import DenseReader, Reading, View, shrink_mask
from trackers.merge import one_owner, soft_aggregate
from trackers.object_views import (
    ViewBudget,
    apart,
    pin_references,
    pin_views,
    remembered_views,
    views_model,
    views_of_masks,
    write_recent_views,
)
from trackers.prompting import as_picture, given_masks, reads_previous_mask, references
from trackers.propagate import Decision, DenseTracker, disjoint, owners
from trackers.propagation import PropagationConfig
from trackers.refined import lite_reader
from trackers.trust import Opinion, Trust, TrustConfig

Mask = npt.NDArray[np.bool_]  # (H, W)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusionConfig:
    """Numbers of the tracker.

    trust        what is assumed of the two opinions
    views        how many tokens the decoder reads of an object's memory, and how many recent frames share them
    here         how many of its place on this frame. All together are fewer than the 512 that SEEM can read: with them,
                 the memory prompt and the place cost no more than the published behaviour
    every        one frame in so many gives a recent view
    least_right  an object whose mask is on it with a lower probability is not remembered
    follows      propagation prompts the decoder where it is on the object with at least this probability
    tail         probabilities below are written as zero
    """

    trust: TrustConfig = field(default_factory=TrustConfig)
    views: ViewBudget = field(default_factory=lambda: ViewBudget(tokens=256, frames=4))
    here: int = 64
    every: int = 3
    least_right: float = 0.75
    follows: float = 0.5
    tail: float = 0.02


@dataclass(frozen=True, eq=False)
class Heard:
    """What the decoder says of a frame, on the dense reader's grid.

    A cell that propagation and the decoder both give to one object is no other's. If that is most of what the decoder
    found for another, it has mistaken the one for the other, and found nothing.

    ids       the objects that it was asked for, ascending
    logits    (N, h, w) log-odds; no two objects are above 0 in one cell
    opinions  object id -> area as a share of the picture, and score
    """

    ids: tuple[int, ...]
    logits: Tensor
    opinions: Mapping[int, Opinion]

    @staticmethod
    def of(prediction: Prediction, reading: Reading) -> Heard:
        height, width = reading.maps.shape[1:]
        logits = masks_on_grid(prediction, height, width).to(reading.maps.device)
        settled = _owned(reading)[[reading.ids.index(i) for i in prediction.ids]] & (logits > 0)
        of_others = settled.any(0) & ~settled & (logits > 0)
        mistaken = 2 * of_others.sum((1, 2)) > (logits > 0).sum((1, 2))
        logits = one_owner(torch.where(of_others | mistaken[:, None, None], -logits.abs(), logits))
        areas, scores = _shares(logits > 0), prediction.scores.float().clamp(0, 1).tolist()
        said = zip(prediction.ids, map(Opinion, areas, scores), strict=True)
        return Heard(prediction.ids, logits, dict(said))


class FusedTracker(DenseTracker):
    """Follows objects by a dense reader and a segmenter's decoder together.

    Without a segmenter, or with one that is not trained, it follows by propagation alone (``notes`` says so), and does
    all that a `DenseTracker` with the same reader does, to the last bit. An object's score is the probability that its
    mask is on it times the mean probability inside the mask.

    segmenter  what encodes, recalls and remembers, and reads the marks and words of prompts
    decoder    whether the segmenter is used: ``auto`` where it is trained (``full``), ``on``, ``off``
    reader     the dense part, by default that of tracker `lite` with ``config`` on ``device``
    fusion     how the two are put together
    options    of `DenseTracker`
    """

    name = "fused"

    def __init__(
        self,
        segmenter: Segmenter | None = None,
        *,
        decoder: str = "auto",
        reader: DenseReader | None = None,
        device: str = "cpu",
        config: PropagationConfig | None = None,
        fusion: FusionConfig | None = None,
        **options: Any,
    ) -> None:
        self.fusion = fusion or FusionConfig()
        used, note = _decoder_use(segmenter, decoder)
        self._decoder = segmenter if used else None
        self._trust: dict[int, Trust] = {}
        self._seen: Any = None  # the frame in work, as the segmenter encoded it
        self._heard: Heard | None = None  # what its decoder says of that frame
        reads_prompts = segmenter is not None and (used or segmenter.trained == "full")
        super().__init__(
            reader or lite_reader(config, device), segmenter=segmenter if reads_prompts else None, **options
        )
        if note:
            logger.info(note)
            self.notes = (note,)

    @property
    def memory_model(self) -> str:
        if self._decoder is None:
            return self.reader.name
        return f"{self.reader.name} with {views_model(self._decoder)}"

    def trust_in(self, object_id: int) -> Trust:
        """What was learned of the two opinions on an object so far."""
        return self._trust.get(object_id) or Trust(self.fusion.trust)

    def _follow(self, image: Image, prompts: Sequence[Prompt]) -> ObjectMasks:
        if self._decoder is None:
            return super()._follow(image, prompts)
        trust = dict(self._trust)
        try:
            self._seen = self._decoder.encode(as_picture(image))
            return super()._follow(image, prompts)
        except VosError:
            self._trust = trust
            raise
        finally:
            self._seen = self._heard = None

    def _pin_pictures(self, prompts: Sequence[ReferencePrompt]) -> None:
        super()._pin_pictures(prompts)
        if self._decoder is not None and prompts:
            pin_references(self._decoder, self._bank, references(prompts))

    def _decide(self, image: Image, features: Any, view: View, reading: Reading) -> Decision:
        self._heard = self._recall(image, reading)
        if self._heard is None:
            return super()._decide(image, features, view, reading)
        fused, right = self._fuse(reading, self._heard)
        found = owners(fused, image)
        doubtful = {i for i, p in right.items() if p < self.fusion.least_right} | self._doubtful(found)
        return Decision(found, dict(zip(fused.ids, fused.remembered, strict=True)), frozenset(doubtful))

    def _recall(self, image: Image, reading: Reading) -> Heard | None:
        """What the decoder says of the objects that it has views of; None where there are none."""
        if self._decoder is None:
            return None
        views = remembered_views(self._bank, reading.ids, self.fusion.views)
        if not views:
            return None
        placed = self._placed(reading, {view.object_id for view in views})
        prior = None
        if placed and reads_previous_mask(self._decoder):
            rows = [reading.ids.index(i) for i in placed]
            prior = masks_as_prior(reading.masks[rows], placed, self._seen.geometry)
        if placed:
            found = owners(reading, image)
            here = views_of_masks(self._decoder, self._seen, {i: found.mask(i) for i in placed})
            views += [_thinned(view, self.fusion.here) for view in here.values()]
        prediction = self._decoder.recall(self._seen, views, prior)
        if prediction.class_names:
            named = zip(prediction.ids, prediction.class_names, strict=True)
            self.class_names |= {i: name for i, name in named if name is not None}
        return Heard.of(prediction, reading)

    def _placed(self, reading: Reading, known: Set[int]) -> list[int]:
        """The objects that propagation sees, and is likely to be right about: there it prompts the decoder."""
        seen = _owned(reading).flatten(1).any(1).tolist()
        followed = {i for i in known if self.trust_in(i).followed >= self.fusion.follows}
        return [i for i, there in zip(reading.ids, seen, strict=True) if there and i in followed]

    def _fuse(self, reading: Reading, heard: Heard) -> tuple[Reading, dict[int, float]]:
        """One reading of the two, and for every object that both speak of the probability that it is right."""
        rows = [reading.ids.index(i) for i in heard.ids]
        seen, masks = _owned(reading)[rows], reading.masks.clone()
        areas, agreements = _shares(seen), _iou(seen, heard.logits > 0)
        right, changed = {}, torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
        for i, n, logits, area, agreement in zip(heard.ids, rows, heard.logits, areas, agreements, strict=True):
            verdict, self._trust[i] = self.trust_in(i).judge(area, heard.opinions[i], agreement)
            right[i], changed[n] = verdict.right, verdict.source != "propagation"
            if verdict.source == "both":
                masks[n] = ((log_odds(masks[n]) + logits) / 2).sigmoid()
            elif verdict.source == "decoder":
                masks[n] = logits.sigmoid()
        maps, scores, versions = reading.maps, reading.scores, reading.versions
        if changed.any():
            masks = masks * (masks > self.fusion.tail)
            maps = soft_aggregate(masks)
            scores = torch.where(changed, _certainty(maps, masks), scores)
            if versions is not None:
                anew = F.adaptive_avg_pool2d(masks, (versions.shape[2], versions.shape[3]))[:, None]
                versions = torch.where(changed[:, None, None, None], anew, versions)
        factors = torch.tensor([right.get(i, 1.0) for i in reading.ids], device=masks.device)
        return Reading(reading.ids, maps, masks, scores * factors, versions), right

    def _given(self, image: Image, features: Any, prompts: Sequence[Prompt], found: ObjectMasks) -> dict[int, Mask]:
        return given_masks(image, prompts, found, segmenter=self.segmenter, features=self._seen)

    def _remember(self, features: Any, view: View, decision: Decision, given: dict[int, Mask]) -> None:
        super()._remember(features, view, decision, given)
        if self._decoder is None:
            return
        pin_views(self._bank, self._frame, views_of_masks(self._decoder, self._seen, apart(given)))
        if self._frame % self.fusion.every == 0:
            good = [i for i in decision.found.ids if i not in given and i not in decision.doubtful]
            views = views_of_masks(self._decoder, self._seen, {i: decision.found.mask(i) for i in good})
            write_recent_views(self._bank, self._frame, views, self.fusion.views)
        grid = (view.height, view.width) if self._heard is None else self._heard.logits.shape[1:]
        for i, mask in disjoint(given).items():
            self._correct(i, shrink_mask(mask, grid[0], grid[1]).to(self.reader.device) > 0.5)

    def _correct(self, object_id: int, true: Tensor) -> None:
        """Learn from the (h, w) true mask of an object."""
        trust, area = self.trust_in(object_id), _shares(true[None])[0]
        if self._heard is None or object_id not in self._heard.ids:
            self._trust[object_id] = trust.corrected(area)
            return
        there = self._heard.logits[self._heard.ids.index(object_id)] > 0
        (agreement,) = _iou(there[None], true[None])
        self._trust[object_id] = trust.corrected(area, self._heard.opinions[object_id], agreement)

    def forget(self, object_id: int) -> None:
        super().forget(object_id)
        self._trust.pop(object_id, None)
        self.class_names.pop(object_id, None)

    def state_dict(self) -> dict[str, Any]:
        learned = {i: trust.state_dict() for i, trust in self._trust.items()}
        return super().state_dict() | {"trust": learned, "class_names": dict(self.class_names)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        learned = {int(i): plain for i, plain in state["trust"].items()}
        self._trust = {i: Trust.from_state_dict(plain, self.fusion.trust) for i, plain in learned.items()}
        self.class_names = {int(i): str(name) for i, name in state["class_names"].items()}


def _decoder_use(segmenter: Segmenter | None, decoder: str) -> tuple[bool, str]:
    """Whether the decoder is used, and a sentence about it where that is not plain. Raises InputError."""
    if decoder not in ("auto", "on", "off"):
        raise InputError(f"decoder {decoder!r} is unknown; use auto, on or off")
    if segmenter is None:
        if decoder == "on":
            raise InputError("decoder on needs a SEEM model; give --model with a file or a name")
        return False, "fused follows objects by propagation alone: it was given no model"
    if decoder == "off":
        return False, f"fused follows objects by propagation alone: the decoder of {segmenter.name} is switched off"
    if segmenter.trained == "full":
        return True, ""
    weights = f"the weights of {segmenter.name} are not trained (trained: {segmenter.trained})"
    if decoder == "on":
        return True, f"fused uses a decoder that knows nothing: {weights}"
    return False, f"fused follows objects by propagation alone: {weights}; decoder on uses them all the same"


def _thinned(view: ObjectTokens, count: int) -> ObjectTokens:
    """At most ``count`` tokens per level."""
    return ObjectTokens(view.object_id, tuple(thin(level, count) for level in view.levels), view.positive)


def _owned(reading: Reading) -> Tensor:
    """(N, h, w) bool: the cells that each object has."""
    return reading.maps[1:] == reading.maps.amax(0)


def _shares(masks: Tensor) -> list[float]:
    """Of the picture that each of N (h, w) bool masks covers."""
    shares: list[float] = masks.float().mean((1, 2)).tolist()
    return shares


def _certainty(maps: Tensor, masks: Tensor) -> Tensor:
    """(N,) mean probability of the cells that each object has, 0 where it has none."""
    owned = maps[1:] == maps.amax(0)
    mean: Tensor = (masks * owned).sum((1, 2)) / owned.sum((1, 2)).clamp(min=1)
    return mean


def _iou(a: Tensor, b: Tensor) -> list[float]:
    """Intersection over union of N pairs of (h, w) bool masks; 1 where both are empty."""
    union = (a | b).sum((1, 2))
    shares: list[float] = torch.where(union > 0, (a & b).sum((1, 2)) / union.clamp(min=1), 1.0).tolist()
    return shares
