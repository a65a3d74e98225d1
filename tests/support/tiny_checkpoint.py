"""A converted file of the tiny random SEEM, and a name under which `load_seem` takes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from tiny_seem import TINY, tiny_seem

import seem_core.config as configurations
from seem_core.checkpoint import CheckpointMetadata, save_seem
from seem_core.config import SeemConfig
from seem_core.model import Seem
from seem_core.routing import RoutingName
from seem_core.segmenter_types import Trained


def write_tiny_checkpoint(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    routing: RoutingName = "v0",
    trained: Trained = "none",
    classes: tuple[str, ...] = (),
    config: SeemConfig = TINY,
) -> Path:
    """Save the model and let the table of configurations know it for the time of the test."""
    known = {**configurations.PRESETS, config.name: config}
    monkeypatch.setattr(configurations, "PRESETS", MappingProxyType(known))
    model = tiny_seem(routing) if config is TINY else Seem(replace(config, routing=routing)).eval()
    metadata = CheckpointMetadata(config.name, routing, trained, "tiny.pt", "0" * 64, "none", "test", classes)
    embeddings = None
    if classes:
        random = torch.randn(len(classes), 32, generator=torch.Generator().manual_seed(1))
        embeddings = random / random.norm(dim=-1, keepdim=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_seem(weights, path, metadata, class_embeddings=embeddings)
    return path
