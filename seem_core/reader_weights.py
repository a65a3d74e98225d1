"""The dense reader on disk; see `seem_core.net_file`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seem_core.net_file import read_net, write_net
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
    tensors = {k: v.half() if half else v.float() for k, v in state.items()}
    write_net(tensors, config, path, form=FORMAT, facts=facts)


def load_reader(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> DenseReader:
    """A reader in eval mode, float32. Raises CheckpointError for a file that is damaged or of another kind."""
    return read_net(path, device, form=FORMAT, what="dense reader", build=_build)


def _build(values: dict[str, Any]) -> DenseReader:
    return ReaderConfig(**{**values, "decoder": tuple(values["decoder"])}).build()
