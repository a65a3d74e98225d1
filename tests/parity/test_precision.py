"""bfloat16 against float32 with the filled Focal-T on seeded scenes: the same query, nearly the same mask.

At the size of a real picture. Random weights are a hard case: the queries' similarities are close to each other, and a
query that is looked at through a thresholded mask turns small differences into large ones (see `seem_ties`).
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from seem_fixtures import make_image
from seem_scenarios import find_manifest, load_model
from torch import Tensor

from seem_core.config import PRESETS
from seem_core.decoder import DecoderPrompts
from seem_core.model import Seem
from seem_core.selection import choose_by_marks

SCENES, HEIGHT, WIDTH = 20, 480, 864


def segment(model: Seem, image: Tensor, marks: Tensor) -> tuple[int, Tensor]:
    """The chosen query and its mask at stride 4."""
    features = model.encode_image(image)
    tokens = model.sample(features, marks)
    queries = model.decode(features, DecoderPrompts(stroke=tokens), objects=False).spatial
    assert queries is not None
    choice = choose_by_marks(queries, tokens.positive, model.config.decoder.queries_per_object)
    return int(choice.indices), features.mask_features.logits(choice.mask_embeddings)[0, 0] > 0


@pytest.mark.timeout(1800)  # minutes on a processor without bfloat16 units
@pytest.mark.parity_full
def test_bfloat16_finds_the_same_masks(folders: tuple[Path, ...]) -> None:
    config = PRESETS["seem-focal-t-v1"]
    full = load_model(find_manifest("focalt", folders), config, torch.float32)
    half = copy.deepcopy(full).set_precision(torch.bfloat16)
    same, overlaps = [], []
    for scene in range(SCENES):
        image = torch.from_numpy(make_image(1000 + scene, HEIGHT, WIDTH))[None]
        marks = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
        rng = np.random.default_rng(scene)
        top, left = rng.integers(0, HEIGHT - 36), rng.integers(0, WIDTH - 46)
        marks[0, top : top + rng.integers(12, 36), left : left + rng.integers(12, 46)] = True
        (query, mask), (half_query, half_mask) = (segment(model, image, marks) for model in (full, half))
        same.append(query == half_query)
        overlaps.append(float((mask & half_mask).sum() / (mask | half_mask).sum()))
    print(f"same query {np.mean(same):.2f}, mean IoU {np.mean(overlaps):.3f}, worst {min(overlaps):.3f}")
    assert np.mean(same) >= 0.9
    assert np.mean(overlaps) >= 0.93
