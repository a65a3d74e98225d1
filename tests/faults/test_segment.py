"""``vos segment`` when things go wrong under it: nowhere to write, no room, damaged weights, pictures of odd shape."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoint import write_tiny_checkpoint

import vos.label_files
from cli.main import run
from vos.label_files import read_labels

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a picture and a model."""
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(picture).save("cat.png")
    write_tiny_checkpoint(Path("tiny.safetensors"), monkeypatch, trained="full")
    return tmp_path


def segment(*arguments: str, image: str = "cat.png", model: str = "tiny.safetensors") -> int:
    return run(["segment", image, "--model", model, "-o", "out", *arguments])


def said_once(capsys: Captured) -> str:
    """The one line on stderr, nothing being on stdout."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_no_room(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vos.label_files.os, "replace", full)
    assert segment("-p", "3,3") == 5
    assert "no room" in said_once(capsys)
    assert list((folder / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(folder: Path, capsys: Captured) -> None:
    (folder / "out").mkdir(mode=0o500)
    assert segment("-p", "3,3") == 3
    assert "cannot write" in said_once(capsys)


def test_the_record_is_written_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace

    def noted(source: str, target: str) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(vos.label_files.os, "replace", noted)
    assert segment("-p", "3,3", "-q") == 0
    assert order == ["masks.png", "overlay.png", "segments.json"]


def test_a_truncated_model(folder: Path, capsys: Captured) -> None:
    whole = (folder / "tiny.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert segment("-p", "3,3", model="cut.safetensors") == 4
    assert "cut.safetensors" in said_once(capsys)
    assert not (folder / "out").exists()


def test_a_model_with_values_that_are_not_numbers(folder: Path, capsys: Captured) -> None:
    tensors = load_file("tiny.safetensors")
    with safe_open("tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors["decoder.norm.weight"] = torch.full_like(tensors["decoder.norm.weight"], float("nan"))
    save_file(tensors, "nan.safetensors", metadata)
    assert segment("-p", "3,3", model="nan.safetensors") == 4
    assert "decoder.norm.weight" in said_once(capsys)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 10), (10, 20_000), (3, 2)])
def test_pictures_of_odd_shape_work(folder: Path, width: int, height: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save("odd.png")
    assert segment("-p", "0,0", "-p", f"{width - 1},{height - 1}#2", image="odd.png") == 0
    assert read_labels("out/masks.png").shape == (height, width)
    assert segment("-b", f"0,0,{width},{height}", "--overwrite", image="odd.png") == 0
    assert segment("--scribble", f"0,0,{width - 1},0", "--overwrite", image="odd.png") == 0


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_damaged_picture(folder: Path, capsys: Captured, content: bytes) -> None:
    (folder / "cut.png").write_bytes(content)
    assert segment("-p", "3,3", image="cut.png") == 3
    assert "cut.png" in said_once(capsys)


def test_many_objects_go_through_in_passes(folder: Path) -> None:
    """100 points; ids above 255 make a 16-bit label map."""
    points = [item for i in range(100) for item in ("-p", f"{i % 60},{i % 40}#{i * 3 + 1}")]
    assert segment(*points, "-q") == 0
    found = json.loads(Path("out/segments.json").read_text())["objects"]
    assert len(found) == 100
    assert read_labels("out/masks.png").dtype == np.uint16
