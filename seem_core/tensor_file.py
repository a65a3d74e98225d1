"""Tensors on disk as one .safetensors file that appears under its name only when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from seem_core.disk import is_no_room
from seem_core.errors import DiskFullError, OutputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors, with the rights of the user's other files; folders on the way are made. Raises OutputError,
    DiskFullError without room; then nothing has changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder beside the file: older safetensors write in place, newer ones through a temporary file of their own.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            part.touch()
            mode = part.stat().st_mode  # as the user's files are; safetensors makes them private
            save_file(dict(tensors), part, dict(header))
            part.chmod(mode)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        if is_no_room(error):
            raise DiskFullError(f"no room to write {path}; free some space and run again") from error
        raise OutputError(f"{path} cannot be written ({error}); choose another place") from error
