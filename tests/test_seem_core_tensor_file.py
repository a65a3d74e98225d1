"""Tensors on disk: whole or not there, with the rights of other files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seem_core.errors import DiskFullError, OutputError
from seem_core.tensor_file import write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3)}


def test_what_was_written_comes_back_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {})
    write_tensors(path, TENSORS, {"format": "x"})
    assert torch.equal(load_file(path)["a"], TENSORS["a"])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_others_may_read_it_where_they_may_read_the_users_files(tmp_path: Path) -> None:
    path, other = tmp_path / "w.safetensors", tmp_path / "other"
    other.touch()
    write_tensors(path, TENSORS, {})
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize(("code", "kind"), [(28, DiskFullError), (5, OutputError)])
def test_a_write_that_fails_changes_nothing(
    code: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS, {})

    def full(tensors: object, part: Path, header: object) -> None:
        part.write_bytes(b"half")
        raise OSError(code, "stopped")

    monkeypatch.setattr("seem_core.tensor_file.save_file", full)
    with pytest.raises(kind):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert torch.equal(load_file(path)["a"], TENSORS["a"])
    assert list(tmp_path.iterdir()) == [path]
