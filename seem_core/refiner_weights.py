"""The border refiner on disk (see `seem_core.net_file`), and the weights of it that ship."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from seem_core.errors import CheckpointError
from seem_core.net_file import read_net, write_net
from seem_core.refiner import BorderRefiner, RefinerConfig

FORMAT = "vos-border-refiner-2"
SHIPPED = Path(__file__).parent / "weights" / "lite.safetensors"


def shipped_weights() -> Path:
    """The weights that come with the package. Raises CheckpointError if they do not."""
    if not SHIPPED.is_file():
        raise CheckpointError(f"{SHIPPED} is missing; install the package again, or use tracker propagate")
    return SHIPPED


def save_refiner(
    state: Mapping[str, Tensor], config: RefinerConfig, path: str | os.PathLike[str], *, facts: Mapping[str, str]
) -> None:
    """Write weights in float16; ``facts`` (data, seconds, ...) join the configuration in the metadata. Raises
    OutputError."""
    write_net({k: v.half() for k, v in state.items()}, config, path, form=FORMAT, facts=facts)


def load_refiner(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> BorderRefiner:
    """A refiner in eval mode, float32. Raises CheckpointError for a file that is damaged or of another kind."""
    return read_net(
        path, device, form=FORMAT, what="border refiner", build=lambda values: RefinerConfig(**values).build()
    )
