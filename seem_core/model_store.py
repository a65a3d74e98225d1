"""Where models lie: a name (``seem-focal-t-v0``) stands for one file in the user's cache, or for one that ships."""

from __future__ import annotations

import os
import re
from pathlib import Path

import seem_core.config as configurations
from seem_core.errors import CheckpointError
from seem_core.published import PUBLISHED
from seem_core.user_cache import user_cache

SUFFIX = ".safetensors"
_NAME = re.compile(r"[\w][\w.\-]*")
_FILE_SUFFIXES = (SUFFIX, ".pt", ".pth", ".bin", ".ckpt")


def models_folder() -> Path:
    """The folder of converted models; it need not exist."""
    return user_cache() / "models"


def stored_path(name: str) -> Path:
    """Where the model of this name lies, or would lie."""
    return models_folder() / f"{name}{SUFFIX}"


def shipped_path(name: str) -> Path | None:
    """The file of a model that comes with the package, None where there is none of this name."""
    path = Path(__file__).parent / "weights" / f"seem_{name}{SUFFIX}"
    return path if path.is_file() else None


def stored_names() -> tuple[str, ...]:
    """Names of the models that are there, sorted."""
    return tuple(sorted(file.stem for file in models_folder().glob(f"[!.]*{SUFFIX}")))


def locate(model: str | os.PathLike[str]) -> Path:
    """The file of a model given by name or path; a name of the store comes first.

    Raises CheckpointError where there is none, and says how to get it.
    """
    text = os.fspath(model)
    if isinstance(model, str) and _NAME.fullmatch(text) and not text.endswith(_FILE_SUFFIXES):
        if (stored := stored_path(text)).is_file():
            return stored
        if (shipped := shipped_path(text)) is not None and not Path(text).is_file():
            return shipped
        if not Path(text).is_file():
            raise CheckpointError(_how_to_get(text))
    path = Path(text)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise CheckpointError(
            f"checkpoint {path} {what}; give a file that 'vos models convert' wrote, or a model's name"
        )
    return path


def _how_to_get(name: str) -> str:
    if name in PUBLISHED:
        return f"model {name} is not on this machine; run: vos models get {name}"
    if name in configurations.PRESETS and not configurations.PRESETS[name].official:
        return f"weights of {name} are not on this machine; train them (vos train), or give the path of a file"
    if name in configurations.PRESETS:
        return (
            f"weights of {name} were never published; "
            f"convert a file of your own: vos models convert FILE.pt --config {name}"
        )
    known = ", ".join(dict.fromkeys((*configurations.PRESETS, *stored_names())))
    return f"there is no model {name!r}; known are {known}"
