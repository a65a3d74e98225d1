"""The oracle table: each fault is removed by the truth, and by nothing else; runs go on where they were cut."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seem_core.prompts import MaskPrompt
from trackers.memory_bank import Entry
from trackers.quadtree import quadtree_rows, to_cells, to_maps
from vos.label_files import write_labels

H, W = 96, 160


def load() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "oracle.py"
    spec = importlib.util.spec_from_file_location("oracle_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


oracle = load()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(-5, 5), st.integers(-5, 5))
def test_a_rolled_entry_is_the_map_rolled(h: int, w: int, down: int, right: int) -> None:
    maps = torch.arange(16.0 * h * w).view(1, 4 * h, 4 * w)
    finest = quadtree_rows(maps.view(-1, 1), h, w)  # (4 L, 4)
    entry = Entry(3, (finest.view(h * w, 16), finest), {1: to_cells(maps).view(-1, 4)}, grid=(h, w))
    moved = oracle.rolled(entry, down, right)
    expected = maps.roll((4 * down, 4 * right), (1, 2))
    assert torch.equal(to_maps(moved.values[1].view(1, -1), h, w), expected)
    assert torch.equal(moved.keys[1], quadtree_rows(expected.reshape(-1, 1), h, w))
    assert torch.equal(moved.keys[0].view(-1, 4), moved.keys[1])


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:H, :W]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_finer_cells_say_more() -> None:
    truth = (disc(50, 40, 21) | disc(100, 60, 9)).astype(np.uint8)
    wrong = [int((oracle.reduced(truth, stride) != truth).sum()) for stride in (16, 8, 4)]
    assert wrong[0] > wrong[1] > wrong[2]
    assert wrong[2] < 0.03 * truth.sum()
    assert not oracle.reduced(np.zeros((H, W), np.uint8), 8).any()


def test_errors_by_their_place() -> None:
    truth = disc(50, 48, 30)
    assert oracle._error_shares(truth, truth) == (0, 0, 0)
    near, surplus, missing = oracle._error_shares(truth, disc(50, 48, 33))
    assert near > 0.1
    assert surplus == missing == 0
    near, surplus, missing = oracle._error_shares(truth, truth | disc(130, 40, 10))
    assert (near, missing) == (0, 0)
    assert surplus == pytest.approx(disc(130, 40, 10).sum() / (truth | disc(130, 40, 10)).sum())
    near, surplus, missing = oracle._error_shares(truth, truth & ~disc(50, 48, 12))
    assert (near, surplus) == (0, 0)
    assert missing > 0.1
    assert oracle._error_shares(np.zeros_like(truth), disc(50, 48, 12)) == (0, 1, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sequences of four frames in which a red disc jumps, with a twin that stays."""
    chance = np.random.default_rng(0)
    for name in ("left", "right"):
        for i in range(4):
            ground = chance.normal((70, 120, 60), 6, (H, W, 3))
            place = disc(30 + 25 * i if name == "right" else 130 - 25 * i, 30, 14)
            ground[place | disc(80, 78, 13)] = (200, 50, 40)
            for kind in ("JPEGImages", "Annotations"):
                (tmp_path / "davis" / kind / "480p" / name).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
            image.save(tmp_path / f"davis/JPEGImages/480p/{name}/{i:05d}.jpg")
            write_labels(tmp_path / f"davis/Annotations/480p/{name}/{i:05d}.png", place.astype(np.uint8))
    (tmp_path / "davis/ImageSets").mkdir()
    (tmp_path / "davis/ImageSets/dev.txt").write_text("left\nright\n")
    return tmp_path / "davis"


def test_tables_and_going_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*only: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["oracle.py", str(root), "-o", str(tmp_path / "out"), "--only", *only])
        oracle.main()
        return capsys.readouterr().out.splitlines()

    said = run("as-is", "border-4", "size-240")
    assert "left: as-is, border-4, size-240" in said
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in said if line.startswith("| ")}
    assert float(rows["border-4"][0]) > 0.95
    assert rows["as-is"][-1] == "+0.000 |"
    assert float(rows["best size of each sequence"][3].rstrip(" |")) >= 0
    assert len(rows["left"]) == 3  # errors come last and have three columns
    said = run("border-8", "as-is")
    assert "left: border-8" in said
    assert any(line.startswith("| size-240 ") for line in said)


def test_the_truth_removes_its_fault_alone(root: Path) -> None:
    """A mask of the twin, drawn from outside into the reading, goes; the memory of the truth is the truth."""
    layout = oracle.open_layout(root)
    sequence = layout.sequence("right")
    images = [oracle.read_image(path) for path in oracle.sequence_images(sequence)]
    truths = [oracle.true_labels(sequence, frame) for frame in sequence.frames]
    found = {}
    reader = oracle.EncodesOnce()
    for variant in ("as-is", "true-previous", "true-place", "no-look-alikes", "all-three"):
        tracker = oracle.ToldTracker(reader, variant)
        for i, (image, truth) in enumerate(zip(images, truths, strict=True)):
            tracker.truth = truth
            result = tracker.step(image, [MaskPrompt(truth > 0)] if i == 0 else ())
        found[variant] = result.labels > 0
        if variant in ("true-previous", "all-three"):
            entry = tracker.memory.entries[-1]
            h, w = entry.grid or (0, 0)
            remembered = to_maps(entry.values[1].float().view(1, -1), h, w)[0].numpy()
            np.testing.assert_allclose(remembered, oracle.shrink_mask(truths[-1] == 1, 4 * h, 4 * w).numpy(), atol=1e-3)
    reach = np.hypot(*np.indices((H, W)) - np.array([30, 105])[:, None, None]) < 14 + 16
    for variant in ("no-look-alikes", "all-three"):
        assert not (found[variant] & ~reach).any()
