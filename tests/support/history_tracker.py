"""A tracker whose every result depends on everything it was ever shown and told: what is done differently shows."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seem_core.errors import PromptError
from seem_core.prompts import MaskPrompt, Prompt
from trackers.base import Image, ObjectMasks, Traits
from vos.pass_inputs import prompt_digest


class HistoryTracker:
    """Masks and scores are noise, seeded by all images and prompts since the first prompt. ``steps`` counts them."""

    name = "history"
    traits = Traits(returns_first_mask=True, refinds=False, uses_memory=True)

    def __init__(self, kill_at: int | None = None) -> None:
        self.steps = 0
        self._kill_at = kill_at
        self._history, self._ids = "", ()

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        self.steps += 1
        if self.steps == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if prompts or self._ids:
            seen = [self._history, hashlib.sha256(image.tobytes()).hexdigest(), *map(prompt_digest, prompts)]
            self._history = hashlib.sha256(" ".join(seen).encode()).hexdigest()
        self._ids = tuple(sorted({*self._ids, *(p.object_id for p in prompts)}))
        rng = np.random.default_rng(int(self._history or "0", 16))
        labels = np.array([0, *self._ids], np.uint16)[rng.integers(0, 1 + len(self._ids), image.shape[:2])]
        for prompt in prompts:
            if isinstance(prompt, MaskPrompt):
                labels[labels == prompt.object_id] = 0
                labels[prompt.mask] = prompt.object_id
        if max(self._ids, default=0) <= 255:
            labels = labels.astype(np.uint8)
        n = len(self._ids)
        return ObjectMasks(self._ids, labels, rng.random(n, np.float32), np.zeros(n, np.bool_))

    def forget(self, object_id: int) -> None:
        if object_id not in self._ids:
            raise PromptError(f"object {object_id} is not known")
        self._ids = tuple(i for i in self._ids if i != object_id)
        self._history = hashlib.sha256(f"{self._history} without {object_id}".encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        ids = torch.tensor(self._ids, dtype=torch.int64)
        return {"history": self._history, "ids": ids, "more": ({1: np.ones(2)}, None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._history, self._ids = state["history"], tuple(state["ids"].tolist())


def same(a: ObjectMasks | None, b: ObjectMasks | None) -> bool:
    """Whether two results are equal to the bit."""
    if a is None or b is None:
        return a is b
    return (
        a.ids == b.ids
        and a.labels.dtype == b.labels.dtype
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.lost, b.lost)
    )
