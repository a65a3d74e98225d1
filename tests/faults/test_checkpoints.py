"""Weights that are hostile, damaged, cut short or not finite, and a place without room: a sentence, never a model."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import official_key, tiny_official, use_tiny_presets
from safetensors.torch import load_file, save_file

from seem_core.checkpoint import CLASS_EMBEDDINGS, load_seem, read_card, verify_checkpoint
from seem_core.convert_file import convert_file
from seem_core.errors import CheckpointError, OutputError
from seem_core.reader import ReaderConfig
from seem_core.reader_weights import save_reader

SUPPORT = Path(__file__).resolve().parent.parent / "support"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official file of a small model, in a world where only small models are known."""
    use_tiny_presets(monkeypatch)
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "seem_tiny_v0.pt"
    torch.save(tiny_official(), path)
    return path


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    """The same, converted."""
    return convert_file(source, tmp_path / "tiny.safetensors", classes=False).path


def refused(source: Path) -> str:
    """The sentence with which `source` is refused; nothing is written."""
    out = source.parent / "refused" / "o.safetensors"
    with pytest.raises(CheckpointError) as caught:
        convert_file(source, out, classes=False, routing="v0")
    assert not out.parent.exists()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(source) in sentence
    return sentence


# --- official files --------------------------------------------------------------------------------------------------


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.trace), "w")


def save_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=4))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle])
def test_a_pickle_that_would_run_does_not(source: Path, tmp_path: Path, save: Callable[[object, Path], None]) -> None:
    trace = tmp_path / "trace"
    save({**tiny_official(), "hook": Hostile(trace)}, source)
    sentence = refused(source)
    assert ("nothing in it was run" if save is save_pickle else "more than weights (io.open) and was not") in sentence
    assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace))).close()
    assert trace.exists()  # it does what it is said to do


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.99999])
def test_cut_short(source: Path, save: Callable[[object, Path], None], share: float) -> None:
    save(tiny_official(), source)
    os.truncate(source, int(source.stat().st_size * share))
    assert "damaged" in refused(source)


def test_random_damage_is_a_sentence(source: Path) -> None:
    """Bytes of the structure (not of the numbers, which nothing protects) changed at random."""
    save_legacy({"a": torch.ones(2), "b": torch.ones(3)}, source)
    data, chance = source.read_bytes(), random.Random(0)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(1, len(data))] = chance.randrange(256)
        source.write_bytes(broken)
        refused(source)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "begins with b'<!DOCTYPE ht'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x80", "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (b"\x02\0\0\0\0\0\0\0{}", "is a .safetensors file"),
    ],
)
def test_another_kind_of_file(source: Path, data: bytes, message: str) -> None:
    source.write_bytes(data)
    assert message in refused(source)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(3)], "holds no weights, but a list"),
        ({}, "holds no weights, but nothing"),
        ({"epoch": 3, "config": {}}, 'holds no weights, but the entries ["epoch", "config"]'),
        ({"module": {}}, "holds no weights, but nothing"),
        ({"a": torch.ones(3), "epoch": 3}, "entry 'epoch' is no tensor (int)"),
        ({7: torch.ones(3)}, "entry 7 is no tensor"),
        ({"model": {"a": torch.ones(3)}, "step": np.float64(3)}, "holds more than weights (numpy"),
        ({"a": torch.ones(3).to_sparse()}, "entry 'a' is no tensor"),
    ],
)
def test_no_state_dict(source: Path, value: object, message: str) -> None:
    torch.save(value, source)
    assert message in refused(source)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "1 weights of .* hold NaN or infinity .*predictor.query_feat.weight"),
        (float("-inf"), "1 weights of .* hold NaN or infinity .*predictor.query_feat.weight"),
    ],
)
def test_weights_that_are_not_finite(source: Path, tmp_path: Path, value: float, message: str) -> None:
    weights = tiny_official()
    weights[official_key("decoder.query_content")][3, 4] = value
    torch.save(weights, source)
    with pytest.raises(CheckpointError, match=message):
        convert_file(source, tmp_path / "o.safetensors", classes=False)


def test_weights_of_integers(source: Path) -> None:
    torch.save({k: v.long() for k, v in tiny_official().items()}, source)
    assert "no floating-point numbers" in refused(source)


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_file(source: Path, what: str) -> None:
    source.unlink()
    if what == "folder":
        source.mkdir()
    assert "cannot be read" in refused(source)


# --- converted files -------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    """Change tensors and header of a converted file, as another program would."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    change(tensors, header)
    save_file(tensors, path, header)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.002, 0.5, 0.9999])
@pytest.mark.parametrize("read", [load_seem, read_card, verify_checkpoint])
def test_a_converted_file_cut_short(converted: Path, share: float, read: Callable[[Path], object]) -> None:
    os.truncate(converted, int(converted.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"damaged, cut short or no \.safetensors file"):
        read(converted)


def test_a_changed_bit_is_found_and_named(converted: Path) -> None:
    def flip(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        tensors["decoder.query_content"].view(torch.int32)[2, 3] ^= 1

    rewrite(converted, flip)
    load_seem(converted)  # finite, so that only the digests tell
    with pytest.raises(CheckpointError, match=r"1 tensors differ from what was written \(decoder.query_content\)"):
        verify_checkpoint(converted)


def test_random_bytes_in_the_header(converted: Path) -> None:
    data, chance = converted.read_bytes(), random.Random(0)
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(40):
        broken = bytearray(data)
        broken[chance.randrange(end)] ^= 1 << chance.randrange(8)
        converted.write_bytes(broken)
        for read in (load_seem, read_card, verify_checkpoint):
            with suppress(CheckpointError):  # what still reads as a header is not wrong here
                read(converted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("read", [load_seem, verify_checkpoint])
def test_a_converted_file_that_is_not_finite(converted: Path, value: float, read: Callable[[Path], object]) -> None:
    def poison(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        tensors["text_encoder.logit_scale"].fill_(value)

    rewrite(converted, poison)
    with pytest.raises(CheckpointError, match=r"logit_scale"):
        read(converted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, "was not written by 'vos models convert'"),
        ({"format": "vos-seem-9"}, "has format vos-seem-9, this version reads vos-seem-1"),
        ({"configuration": "seem-huge"}, "configuration 'seem-huge' is not known here"),
        ({"configuration": "wider-v0"}, "do not fit wider-v0"),
        ({"routing": "v7"}, "header of .* is damaged .*'v7'"),
        ({"trained": "some"}, "header of .* is damaged"),
        ({"source": None}, "header of .* is damaged .*source"),
        ({"classes": "[3"}, "header of .* is damaged"),
        ({"classes": "3"}, "header of .* is damaged"),
        ({"classes": '["a"]'}, "embeddings of 0 classes and names of 1"),
    ],
)
def test_a_header_that_does_not_fit(converted: Path, change: dict[str, str | None], message: str) -> None:
    def edit(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        for key, value in change.items():
            header.pop(key, None)
            if value is not None:
                header[key] = value

    rewrite(converted, edit)
    with pytest.raises(CheckpointError, match=message):
        load_seem(converted)


@pytest.mark.parametrize("digests", ["", "[]", '{"a": "b"}'])
def test_digests_that_do_not_fit(converted: Path, digests: str) -> None:
    rewrite(converted, lambda tensors, header: header.update(sha256=digests))
    with pytest.raises(CheckpointError, match="convert the source again"):
        verify_checkpoint(converted)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(1, 5), r"class embeddings of .* are \(1, 5\)"),
        (torch.ones(1, 32, dtype=torch.float16), "float16"),
        (torch.ones(32), "embeddings of 32 classes"),
        (torch.full((1, 32), float("nan")), "class_embeddings"),
    ],
)
def test_class_embeddings_that_do_not_fit(converted: Path, rows: torch.Tensor, message: str) -> None:
    def add(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        tensors[CLASS_EMBEDDINGS] = rows
        header["classes"] = json.dumps(["a"])

    rewrite(converted, add)
    with pytest.raises(CheckpointError, match=message):
        load_seem(converted)


def test_other_models_and_files_are_told_apart(source: Path, tmp_path: Path) -> None:
    config = ReaderConfig()
    save_reader(config.build().state_dict(), config, tmp_path / "reader.safetensors", facts={})
    with pytest.raises(CheckpointError, match=r"holds a dense reader.* no SEEM"):
        load_seem(tmp_path / "reader.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"not written by 'vos models convert' \(format None\)"):
        load_seem(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="run: vos models convert"):
        load_seem(source)
    with pytest.raises(CheckpointError, match="is a folder"):
        load_seem(tmp_path)


# --- places ----------------------------------------------------------------------------------------------------------


def child(code: str, *arguments: object) -> str:
    """What a Python process with the helpers of tests/support prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_fills_up_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: writing stops in the middle of the tensors."""
    said = child(
        """
        import resource, signal, sys
        import pytest
        from official_files import use_tiny_presets
        from seem_core.convert_file import convert_file
        from seem_core.errors import DiskFullError
        use_tiny_presets(pytest.MonkeyPatch())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        try:
            convert_file(sys.argv[1], sys.argv[2], classes=False)
        except DiskFullError as error:
            print(error)
        """,
        source,
        tmp_path / "out" / "o.safetensors",
    )
    assert "no room to write" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        convert_file(source, tmp_path / "file" / "o.safetensors", classes=False)
    with pytest.raises(OutputError, match="cannot be written"):
        convert_file(source, "/proc/nothing/o.safetensors", classes=False)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_the_file_is_as_open_as_the_users_files(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert converted.stat().st_mode == (tmp_path / "plain").stat().st_mode
