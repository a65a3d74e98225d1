"""The border refiner on disk: one .safetensors file whose metadata holds its configuration. Loading is strict."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seem_core.errors import CheckpointError, InputError, OutputError
from seem_core.refiner import BorderRefiner, RefinerConfig

FORMAT = "vos-border-refiner-1"
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
    tensors = {k: v.half().detach().cpu().contiguous() for k, v in state.items()}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(config)), **facts}
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"weights cannot be written to {path}: {error}") from error


def load_refiner(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> BorderRefiner:
    """A refiner in eval mode, float32. Raises CheckpointError for a file that is damaged or of another kind."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"refiner weights {path} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds no border refiner (format {metadata.get('format')!r})")
    try:
        model = RefinerConfig(**json.loads(metadata["config"])).build()
        model.load_state_dict(state, strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
        raise CheckpointError(f"{path} does not fit its own configuration: {error}") from error
    return model.to(device).eval()
