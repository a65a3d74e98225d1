"""Trackers for tests of what runs trackers: they must be importable in a process that is started anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

from seem_core.errors import PromptError
from seem_core.prompts import MaskPrompt, Prompt, ReferencePrompt
from trackers.base import Image, ObjectMasks, Traits


class StillTracker:
    """Keeps every mask where it was given; ``asked`` is what it was built with."""

    traits = Traits(returns_first_mask=True, refinds=False, uses_memory=False)

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        self._masks: dict[int, np.ndarray] = {}

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        for prompt in prompts:
            assert isinstance(prompt, MaskPrompt | ReferencePrompt)
            self._masks[prompt.object_id] = prompt.mask
        labels = np.zeros(image.shape[:2], np.uint8)
        for object_id, mask in self._masks.items():
            labels[mask] = object_id
        ids = tuple(sorted(self._masks))
        return ObjectMasks(ids, labels, np.ones(len(ids), np.float32), np.zeros(len(ids), bool))

    def forget(self, object_id: int) -> None:
        del self._masks[object_id]

    def state_dict(self) -> dict[str, Any]:
        return {"masks": dict(self._masks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._masks = dict(state["masks"])


def build_still(name: str, device: str) -> StillTracker:
    return StillTracker(name, device)


class _Failing(StillTracker):
    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        if self.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "ours":
            raise PromptError("box 1,2,3,4 lies outside")
        raise ZeroDivisionError("a bug")


def build_failing(name: str, device: str) -> StillTracker:
    return _Failing(name, device)


def build_hungry(name: str, device: str) -> StillTracker:
    """Takes 200 MB for a moment where it is called hungry."""
    if name == "hungry":
        np.ones(200_000_000, np.uint8)
    return StillTracker(name, device)


def build_only_a(name: str, device: str) -> StillTracker:
    if name != "a":
        raise ValueError(f"asked for {name}")
    return StillTracker(name, device)
