"""The commands and files of docs/prompts.md work as they stand, and its table of options is that of the command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest
from PIL import Image

import vos
from cli.main import run
from seem_core.prompts import MaskPrompt
from vos.prompt_file import prompts_schema, read_prompts

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "prompts.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
FILES = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def _write_clip(path: str) -> None:
    ground = np.random.default_rng(0).integers(0, 90, (280, 360, 3), dtype=np.uint8)
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 360, 280, "yuv420p"
        for i in range(12):
            image = ground.copy()
            image[120:260, 90 + i : 210 + i] = (230, 120, 40)
            image[130:200, 280:340] = (40, 120, 230)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the page names."""
    place = tmp_path_factory.mktemp("page")
    _write_clip(str(place / "clip.mp4"))
    (place / "first.mp4").write_bytes((place / "clip.mp4").read_bytes())
    (place / "clips").mkdir()
    (place / "clips" / "one.mp4").write_bytes((place / "clip.mp4").read_bytes())
    with vos.open_video(place / "clip.mp4") as video:
        Image.fromarray(video[8].image).save(place / "other.jpg", quality=95)
    for name, frame in (("clip.png", 0), ("six.png", 6), ("other.png", 8)):
        mask = np.zeros((280, 360), np.uint8)
        mask[120:260, 90 + frame : 210 + frame] = 255
        Image.fromarray(mask).save(place / name)
    (place / "prompts.json").write_text(FILES[0])
    return place


def test_the_page_has_examples() -> None:
    assert len(COMMANDS) >= 10
    assert len(FILES) == 2


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_a_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(COMMANDS[number], comments=True)
    assert words.pop(0) == "vos"
    out = [] if "-o" in words else ["-o", f"out{number}"]
    light = [] if any("memory" in word or "reference" in word for word in words) else ["--tracker", "copy"]
    assert run([*words, *out, *light, "--max-side", "180", "--save", "masks", "-q"]) == 0


@pytest.mark.parametrize("text", FILES)
def test_a_file_is_read_and_fits_the_schema(folder: Path, text: str) -> None:
    jsonschema.validate(json.loads(text), json.loads(prompts_schema()))
    (folder / "example.json").write_text(text)
    with vos.open_video(folder / "clip.mp4") as video:
        file = read_prompts(folder / "example.json", video)
    assert {item.prompt.object_id for item in file.prompts} == {1, 2, 3}
    masks = [item.prompt for item in file.prompts if isinstance(item.prompt, MaskPrompt)]
    assert all(mask.mask.any() for mask in masks)
    document = json.loads(text)
    kinds = {key for item in document["objects"] for prompt in item["prompts"] for key in prompt}
    assert kinds <= set(re.findall(r"`([a-z]+)`", PAGE))


def test_the_table_has_the_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", PAGE.partition("## In a file")[0]))
    assert run(["track", "--help"]) == 0
    said = capsys.readouterr().out
    assert {option for option in named if option not in said} == set()
    shown = {"--mask", "--point", "--box", "--scribble", "--polygon", "--text", "--reference", "--reference-mask"}
    assert shown | {"--prompts", "--forget", "--memory", "--save-memory"} <= named
