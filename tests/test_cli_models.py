"""``vos models`` as a user types it: results on stdout, the rest on stderr, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_files import tiny_official, use_tiny_presets
from seem_fixtures import fill_official

import seem_core.download as download_module
from cli.main import run
from seem_core.checkpoint import load_seem
from seem_core.config import PRESETS
from seem_core.published import PublishedFile

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = Path(__file__).parent / "parity" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official file of a small model, in a world where only small models are known."""
    use_tiny_presets(monkeypatch)
    path = tmp_path / "seem_tiny_v0.pt"
    torch.save(tiny_official(), path)
    return path


def vos(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command line, run in this process."""
    code = run(["models", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = vos(capsys, "list")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["model", "published", "as", "here"]
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    assert "xdecoder/SEEM/seem_focalt_v0.pt" in lines[1]
    assert "never published" in lines[-2]
    assert lines[-1].split(maxsplit=1)[1].split("  ")[0] == "ships with this program"
    assert "converted models lie in" in err
    assert vos(capsys, "list", "--quiet")[2] == ""


def test_convert_info_verify_list(source: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = vos(capsys, "convert", source, "--no-classes")
    stored = cache / "tiny-v0.safetensors"
    assert (code, out) == (0, f"{stored}\n")
    assert "vos: warning: routing v0 was taken from the file name" in err
    assert "tiny-v0, routing v0, no class embeddings; licence: not stated by the file" in err

    code, out, _ = vos(capsys, "info", "tiny-v0")
    assert code == 0
    card = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("class", "source")))
    assert (card["file"], card["configuration"], card["trained"]) == (str(stored), "tiny-v0", "full")

    code, out, err = vos(capsys, "info", stored, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).keys() >= {"configuration", "routing", "trained", "source_sha256", "licence", "converter"}

    code, out, err = vos(capsys, "verify", "tiny-v0", "--quiet")
    assert (code, err) == (0, "")
    assert "are as they were written" in out
    assert json.loads(vos(capsys, "verify", stored, "--json")[1])["verified"] is True

    models = json.loads(vos(capsys, "list", "--json")[1])["models"]
    assert [m["path"] for m in models if m["name"] == "tiny-v0"] == [str(stored)]


def test_info_of_lite_shows_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vos(capsys, "info", "lite")
    assert code == 0
    cards = [dict(line.split(maxsplit=1) for line in card.splitlines()) for card in out.split("\n\n")]
    names = ["seem_lite.safetensors", "lite.safetensors", "lite0_trunk.safetensors"]
    assert [Path(card["file"]).name for card in cards] == names
    assert "research data" in cards[0]["licence"] + cards[1]["terms"]
    assert cards[2]["licence"].startswith("Apache-2.0")
    told = json.loads(vos(capsys, "info", "lite", "--json")[1])
    assert (told["configuration"], [Path(part["path"]).name for part in told["tracker"]]) == ("lite", names[1:])
    assert told["tracker"][1]["parameters"] == 692688


def test_options_of_convert(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.safetensors"
    command = ("convert", source, "-o", out, "--config", "tiny-v1", "--routing", "demo", "--no-classes", "--json")
    code, said, err = vos(capsys, *command)
    assert (code, err) == (0, "")
    result = json.loads(said)
    assert (result["path"], result["routing"], result["warnings"]) == (str(out), "demo", [])
    code, said, err = vos(capsys, *command)
    assert (code, said) == (3, "")
    assert "is there already" in err
    assert vos(capsys, *command, "--overwrite")[0] == 0
    assert load_seem(out).config.routing == "demo"
    assert vos(capsys, "convert", source, "--routing", "v2")[0] == 2


def test_the_licence_is_what_the_user_read(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    licence = "CC BY-NC 4.0, says the author's page"
    code, said, _ = vos(capsys, "convert", source, "--no-classes", "--licence", licence, "--json")
    assert (code, json.loads(said)["licence"]) == (0, licence)
    assert licence in vos(capsys, "info", "tiny-v0")[1]


def test_what_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = vos(capsys, "convert", source, "--config", "wider-v0", "--no-classes")
    assert (code, out) == (4, "")
    assert err.startswith("vos: error: the weights of")
    assert "its shapes are those of tiny-v0 and tiny-v1" in err
    assert err.count("\n") == 1
    code, _, err = vos(capsys, "convert", source.rename(tmp_path / "model.pt"), "--no-classes")
    assert code == 4
    assert "--routing" in err
    code, _, err = vos(capsys, "info", "seem-focal-t-v0")
    assert code == 4
    assert "run: vos models get seem-focal-t-v0" in err
    assert vos(capsys, "info", tmp_path / "nothing.safetensors")[0] == 4


def test_verify_fails_with_a_code_and_names(source: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vos(capsys, "convert", source, "--no-classes")
    stored = cache / "tiny-v0.safetensors"
    with stored.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        last = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    code, out, err = vos(capsys, "verify", "tiny-v0", "--quiet")
    assert (code, out) == (4, "")
    assert "1 tensors differ from what was written" in err


def test_get(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: Path, cache: Path) -> None:
    source = source.rename(source.with_name("tiny.pt"))
    published = PublishedFile("tiny-v1", "someone/tiny", source.name, "MIT as stated")
    monkeypatch.setattr(download_module, "PUBLISHED", {"tiny-v1": published})
    monkeypatch.setattr(download_module, "download", lambda published, quiet: source)
    code, out, err = vos(capsys, "get", "tiny-v1", "--no-classes")
    assert (code, out) == (0, f"{cache / 'tiny-v1.safetensors'}\n")
    assert "MIT as stated" in err
    assert load_seem("tiny-v1").config.routing == "v1"
    code, _, err = vos(capsys, "get", "tiny-v0")
    assert code == 3
    assert "published are tiny-v1" in err


@pytest.mark.slow
def test_focal_t_of_full_size(tmp_path: Path) -> None:
    """From a file with the official names and shapes to a model, in processes of their own."""
    source, out = tmp_path / "seem_focalt_v0.pt", tmp_path / "t.safetensors"
    torch.save(fill_official(MANIFESTS / "manifest_focalt_v0.json"), source)

    def vos(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", "models", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)

    done = vos("convert", source, "-o", out, "--no-classes", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["configuration"], result["routing"], result["dtype"]) == ("seem-focal-t-v0", "v0", "F32")
    assert round(result["parameters"] / 1e6, 2) == 164.62
    source.unlink()
    done = vos("verify", out, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert load_seem(out).config == PRESETS["seem-focal-t-v0"]
    out.unlink()
