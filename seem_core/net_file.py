"""A small net of ours on disk: one .safetensors file whose metadata holds its configuration. Loading is strict."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seem_core.errors import CheckpointError, InputError
from seem_core.plain_json import brief, in_a_line, parse_json
from seem_core.tensor_file import write_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Net = TypeVar("Net", bound=nn.Module)


def write_net(
    tensors: Mapping[str, Tensor],
    config: DataclassInstance,
    path: str | os.PathLike[str],
    *,
    form: str,
    facts: Mapping[str, str],
) -> None:
    """Write weights; ``facts`` (data, seconds, ...) join ``form`` and the configuration in the metadata. The file
    appears under its name only when it is whole. Raises OutputError, DiskFullError without room."""
    metadata = {"format": form, "config": json.dumps(asdict(config)), **facts}
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_tensors(Path(path), plain, metadata)


def read_net(
    path: str | os.PathLike[str],
    device: str | torch.device,
    *,
    form: str,
    what: str,
    build: Callable[[dict[str, Any]], Net],
) -> Net:
    """A net in eval mode, float32. what: names the kind in messages. build: makes it from its configuration.

    Raises CheckpointError for a file that is damaged or of another kind.
    """
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{what} weights {path} cannot be read: {in_a_line(error)}") from error
    if metadata.get("format") != form:
        raise CheckpointError(f"{path} holds no {what} of this version (format {brief(metadata.get('format'))})")
    try:
        model = build(parse_json(metadata["config"]))
        model.load_state_dict(state, strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
        raise CheckpointError(f"{path} does not fit its own configuration: {in_a_line(error)}") from error
    return model.to(device).eval()
