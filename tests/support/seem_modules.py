"""One part of SEEM, filled as the official weights would fill it: official names -> convert -> load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from seem_fixtures import fill_official
from torch import Tensor, nn

from seem_core.convert import convert_key, convert_state_dict, load_converted

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Part:
    """Makes one part under the dotted name that it has in the whole model, so that the model's key rules apply."""

    name: str
    make: Callable[[], nn.Module]

    def build(self) -> nn.Module:
        module = self.make()
        for step in reversed(self.name.split(".")):
            module = nn.ModuleDict({step: module})
        return module


def load_part(manifest: Path, official_prefix: str, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` builds, holding the filled official parameters under `official_prefix` (which ends with a dot)."""
    part = Part((convert_key(official_prefix) or "").rstrip("."), make)
    weights = convert_state_dict(fill_official(manifest, official_prefix), part)
    return load_converted(part, weights).get_submodule(part.name)


def normalised(image: np.ndarray) -> Tensor:
    """(3, H, W) uint8 RGB -> (1, 3, H, W) float32 in SEEM's normalisation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return ((torch.from_numpy(image).float() - mean) / std)[None]
