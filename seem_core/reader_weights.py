"""The dense reader on disk: one .safetensors file whose metadata holds its configuration. Loading is strict."""

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

from seem_core.errors import CheckpointError, OutputError
from seem_core.reader import DenseReader, ReaderConfig

FORMAT = "vos-dense-reader-1"


def save_reader(
    state: Mapping[str, Tensor],
    config: ReaderConfig,
    path: str | os.PathLike[str],
    *,
    facts: Mapping[str, str],
    half: bool = False,
) -> None:
    """Write weights, in float16 if ``half``; ``facts`` (data, seconds, ...) join the configuration in the metadata."""
    tensors = {k: (v.half() if half else v.float()).detach().cpu().contiguous() for k, v in state.items()}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(config)), **facts}
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"weights cannot be written to {path}: {error}") from error


def load_reader(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> DenseReader:
    """A reader in eval mode, float32. Raises CheckpointError for a file that is damaged or of another kind."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"reader weights {path} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no dense reader of this version (format {metadata.get('format')!r})")
    try:
        values = json.loads(metadata["config"])
        config = ReaderConfig(**{**values, "decoder": tuple(values["decoder"])})
        model = config.build()
        model.load_state_dict(state, strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit its own configuration: {error}") from error
    return model.to(device).eval()
