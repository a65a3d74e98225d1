"""Every Python example of the documentation runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import vos

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]


def examples() -> list[tuple[str, str]]:
    """(page and line, code) of every fenced block marked python."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 2
            found.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return found


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``clip.mp4``, ``clip.png``, results ``OUT`` and ``truth``, in the current folder: two squares, 12 frames."""
    monkeypatch.chdir(tmp_path)
    ground = np.random.default_rng(0).integers(0, 90, (280, 360, 3), dtype=np.uint8)
    with av.open("clip.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 360, 280, "yuv420p"
        for i in range(12):
            image = ground.copy()
            image[120:260, 90 + i : 210 + i] = (230, 120, 40)
            image[130:200, 280:340] = (40, 120, 230)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    mask = np.zeros((280, 360), np.uint8)
    mask[120:260, 90:210] = 255
    Image.fromarray(mask).save("clip.png")
    vos.track_to_folder("clip.mp4", "OUT", mask="clip.png", options=vos.TrackOptions(tracker="copy"), save={"masks"})
    shutil.copytree("OUT/masks", "truth/clip")
    return tmp_path


def test_there_are_examples() -> None:
    assert len([name for name, _ in examples() if name.startswith("docs/python.md")]) >= 4


@pytest.mark.parametrize(("place", "code"), examples(), ids=[place for place, _ in examples()])
@pytest.mark.usefixtures("clip")
def test_an_example_runs(place: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, place, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
