"""The fast settings: which trackers have one, that it does less, and that it is asked for everywhere by one word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import write_clip, write_mask
from scenes import iou, scene

from cli.main import run
from seem_core.errors import InputError
from seem_core.prompts import MaskPrompt
from trackers import TRACKERS, build_tracker
from trackers.fast import FAST
from trackers.propagate import DenseTracker
from trackers.propagation import PropagationConfig
from vos.benchmarks.sequence_tracking import Named
from vos.output import read_run


@pytest.mark.parametrize("name", [name for name, kind in TRACKERS.items() if kind.fast])
def test_it_sees_less_and_remembers_no_more(name: str) -> None:
    usual, fast = build_tracker(name), build_tracker(name, fast=True)
    assert isinstance(usual, DenseTracker)
    assert isinstance(fast, DenseTracker)
    image = np.zeros((480, 854, 3), np.uint8)
    sizes = [tracker.reader.encode(image).levels[1].shape[-2:].numel() for tracker in (usual, fast)]
    assert 1.7 * sizes[1] < sizes[0]
    assert fast.memory.max_recent == FAST[name].max_recent <= usual.memory.max_recent
    given = build_tracker(name, fast=True, config=PropagationConfig(pixels=96 * 160), max_recent=2)
    assert isinstance(given, DenseTracker)
    assert given.memory.max_recent == 2


def test_it_follows_and_reads_a_memory_of_the_usual_setting() -> None:
    video = scene([[(60 + 6 * t, 90)] for t in range(8)])
    usual, fast = build_tracker("propagate"), build_tracker("propagate", fast=True)
    assert isinstance(usual, DenseTracker)
    assert isinstance(fast, DenseTracker)
    for tracker in (usual, fast):
        tracker.step(video.images[0], [MaskPrompt(video.masks[0][0], 1)])
    for image, masks in list(zip(video.images, video.masks, strict=True))[1:]:
        assert iou(fast.step(image).labels == 1, masks[0]) > 0.9
    assert fast.memory_model == usual.memory_model


@pytest.mark.parametrize("name", [name for name, kind in TRACKERS.items() if not kind.fast and kind.model != "needed"])
def test_others_have_none(name: str) -> None:
    with pytest.raises(InputError, match=f"tracker {name} has no fast setting; .* propagate, lite, fused"):
        build_tracker(name, fast=True)
    assert Named(fast=True)(name, "cpu").name == name  # beside trackers that have one, it runs as it is


def test_it_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", frames=3)
    write_mask(tmp_path / "clip.png")
    track = ("track", "clip.mp4", "-m", "clip.png", "-o", "out", "--save", "masks", "-q", "--fast")
    assert run([*track, "--tracker", "copy"]) == 3
    assert "tracker copy has no fast setting" in capsys.readouterr().err
    assert run([*track, "--tracker", "propagate"]) == 0
    assert read_run(tmp_path / "out").options["fast"] is True
