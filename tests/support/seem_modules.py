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
    """Makes one part under the name that it has in the whole model, so that the whole model's key rules apply."""

    name: str
    make: Callable[[], nn.Module]

    def build(self) -> nn.Module:
        return nn.ModuleDict({self.name: self.make()})


def load_part(manifest: Path, official_prefix: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The module that `make` builds, holding the filled official parameters under `official_prefix`."""
    official = fill_official(manifest, official_prefix)
    name = (convert_key(next(iter(official))) or "").split(".")[0]
    part = Part(name, make)
    return load_converted(part, convert_state_dict(official, part))[name]


def normalised(image: np.ndarray) -> Tensor:
    """(3, H, W) uint8 RGB -> (1, 3, H, W) float32 in SEEM's normalisation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return ((torch.from_numpy(image).float() - mean) / std)[None]
