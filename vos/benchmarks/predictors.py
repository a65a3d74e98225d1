"""What answers a user's marks on a picture: the `Predictor` protocol; GrabCut, SEEM, and the two ends of the scale.

`begin` is called once per picture, so that a picture with several objects is encoded once; `predict` once per round
with all prompts so far and the answer to the round before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from seem_core.errors import PromptError
from seem_core.grabcut import masks_from_prompts
from seem_core.prompts import BoxPrompt, Prompt

if TYPE_CHECKING:
    from seem_core.segmenter_types import Segmenter

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True, eq=False)
class Answer:
    """An (H, W) bool mask, and whatever its predictor wants to see again in the next round."""

    mask: Mask
    state: Any = None


class Predictor(Protocol):
    """One picture at a time, then any number of objects on it, each in rounds."""

    @property
    def name(self) -> str:
        """What the figures are filed under."""
        ...

    def begin(self, image: Image) -> None:
        """Take (H, W, 3) uint8 RGB as the picture that `predict` speaks of from now on."""
        ...

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """The mask of the one object that all `prompts` so far mark. previous: the answer one round before, if any."""
        ...


class GrabCutPredictor:
    """Colour alone (`seem_core.grabcut`): from the second round on, points correct the mask of the round before."""

    name = "grabcut"

    def begin(self, image: Image) -> None:
        """See `Predictor.begin`."""
        self._image = image

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """See `Predictor.predict`. A box counts in the first round only: it would start anew in every later one."""
        if previous is None:
            return Answer(masks_from_prompts(self._image, prompts)[1])
        marks = [prompt for prompt in prompts if not isinstance(prompt, BoxPrompt)]
        return Answer(masks_from_prompts(self._image, marks, {1: previous.mask})[1])


class TrackerPredictor:
    """What trackers make of marks where they are given no model (`trackers.prompting.given_masks`).

    Later marks correct the mask of the round before; a box counts in the first round only, it would start anew.
    """

    name = "default"

    def begin(self, image: Image) -> None:
        """See `Predictor.begin`."""
        self._image = image

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """See `Predictor.predict`."""
        from trackers.base import ObjectMasks
        from trackers.prompting import given_masks

        if previous is None:
            return Answer(given_masks(self._image, prompts, None)[1])
        one, no = np.ones(1, np.float32), np.zeros(1, np.bool_)
        found = ObjectMasks((1,), previous.mask.astype(np.uint8), one, no)
        marks = [prompt for prompt in prompts if not isinstance(prompt, BoxPrompt)]
        return Answer(given_masks(self._image, marks, found)[1])


class SegmenterPredictor:
    """A SEEM model, or any `Segmenter` (`seem_core.segmenter_types`); the previous answer goes in as memory prompt.

    reads_previous: whether the model has memory prompts (routing ``demo`` has none, and goes by the marks alone).
    """

    def __init__(self, segmenter: Segmenter, *, reads_previous: bool = True) -> None:
        self._segmenter = segmenter
        self._reads_previous = reads_previous

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._segmenter.name

    def begin(self, image: Image) -> None:
        """See `Predictor.begin`; encodes the picture."""
        import torch

        self._features = self._segmenter.encode(torch.tensor(image).permute(2, 0, 1))

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """See `Predictor.predict`.

        Where a large picture is encoded so small that negative marks cover all positive ones, which a model cannot
        read, the previous answer stands.
        """
        before = previous.state if previous is not None and self._reads_previous else None
        try:
            prediction = self._segmenter.segment(self._features, prompts, before)
        except PromptError:
            if previous is None:
                raise
            return previous
        return Answer(prediction.mask(1), prediction)


class OraclePredictor:
    """Answers with the truth: the best that can be measured. The benchmark shows it each object's mask."""

    name = "oracle"

    def show(self, truth: Mask) -> None:
        """The (H, W) mask of the object that is asked for next."""
        self._truth = truth

    def begin(self, image: Image) -> None:
        """Needs no picture."""

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """See `Predictor.predict`."""
        return Answer(self._truth)


class EmptyPredictor:
    """Answers with nothing: the worst, IoU 0 in every round and NoC at its cap."""

    name = "empty"

    def begin(self, image: Image) -> None:
        """See `Predictor.begin`."""
        self._nothing = np.zeros(image.shape[:2], bool)

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        """See `Predictor.predict`."""
        return Answer(self._nothing)


PREDICTORS: Mapping[str, Callable[[], Predictor]] = {
    "grabcut": GrabCutPredictor,
    "oracle": OraclePredictor,
    "empty": EmptyPredictor,
    "default": TrackerPredictor,
}
"""Those that need no weights, by name."""


def build_predictor(name: str, device: str = "auto") -> tuple[Predictor, tuple[str, ...]]:
    """The predictor of a name in `PREDICTORS`, or a SEEM model by its name or file; and what to warn of.

    Raises CheckpointError for a model that is not there or damaged, DeviceError for a device that is not there.
    """
    if name in PREDICTORS:
        return PREDICTORS[name](), ()
    from seem_core.segmenter import load_segmenter
    from vos.device import pick_device

    segmenter = load_segmenter(name, device=pick_device(device))
    predictor = SegmenterPredictor(segmenter, reads_previous=segmenter.reads_previous_mask)
    if segmenter.trained == "full":
        return predictor, ()
    return predictor, (
        f"the weights of {name} are not trained (trained: {segmenter.trained}); its figures mean nothing",
    )
