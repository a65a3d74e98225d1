"""Reading a checkpoint of the official code: nothing in it is run, and what a trainer wrapped around it is taken off.

A ``.pt`` file is a pickle, and a pickle is a program. Here only tensors and plain containers are accepted; anything
else ends in a CheckpointError before it is called. Tensors are mapped from the file rather than read, where its format
allows.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seem_core.errors import CheckpointError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_NESTS = ("module", "model", "state_dict")
_PREFIX = re.compile(r"^(?:(?:module|model)\.)+")
_PREDICTOR = "sem_seg_head.predictor."
_XDECODER_ONLY = (f"{_PREDICTOR}caping_embed", f"{_PREDICTOR}pos_embed_caping.weight")
_SEEM_ONLY = (f"{_PREDICTOR}pn_indicator.weight", f"{_PREDICTOR}mask_sptial_embed.0")


def read_official(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by official names, on the CPU, each with memory of its own or mapped from the file.

    Wrappers ``{"module": ...}`` or ``{"model": ...}`` and prefixes ``module.`` or ``model.`` are taken off.
    Raises CheckpointError for a file that is missing, damaged, holds more than weights, or is an X-Decoder's.
    """
    path = Path(path)
    _check_kind(path)
    weights = _state_dict(_unpickle(path), path)
    if _is_xdecoder(weights):
        raise CheckpointError(
            f"{path} holds an X-Decoder, the model that SEEM was made from: it has no visual sampler and cannot be "
            "prompted by marks; give a file of xdecoder/SEEM"
        )
    return _unshared(weights)


def _check_kind(path: Path) -> None:
    """Refuse by the first bytes what is no PyTorch checkpoint."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror or error})") from error
    if not start:
        raise CheckpointError(f"checkpoint {path} is empty; get it again")
    if start[8:9] == b"{":
        raise CheckpointError(
            f"{path} is a .safetensors file, no checkpoint of the official code; see 'vos models info'"
        )
    if not start.startswith((_ZIP, _PICKLE)):
        hint = "a Git LFS pointer" if start.startswith(b"version https://git-lfs") else f"it begins with {start[:12]!r}"
        raise CheckpointError(f"{path} is no PyTorch checkpoint ({hint}); get the file again")


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        mapped = file.read(4) == _ZIP
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a damaged or hostile stream brings up: EOFError, KeyError, UnicodeError, ...
        if what := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds more than weights ({what[1]}) and was not loaded, since that could run code; "
                "save the model's state_dict alone, from a source that you trust"
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} is damaged, or a pickle of more than weights; nothing in it was run; get it again"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise CheckpointError(f"checkpoint {path} is damaged or cut short ({reason}); get it again") from error


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside `loaded`, without prefixes."""
    for _ in _NESTS:
        if isinstance(loaded, Mapping):
            loaded = next((loaded[k] for k in _NESTS if isinstance(loaded.get(k), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} holds no weights, but {_described(loaded)}")
    weights: dict[str, Tensor] = {}
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{path}: entry {key!r} is no tensor ({type(value).__name__}); save weights alone")
        name = _PREFIX.sub("", key)
        if name in weights:
            raise CheckpointError(f"{path} holds {name} twice, with and without a prefix")
        weights[name] = value
    return weights


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        return f"the entries {json.dumps(keys[:4])}" if keys else "nothing"
    return f"a {type(value).__name__}"


def _is_xdecoder(weights: Mapping[str, Tensor]) -> bool:
    """Its decoder has the same names, parameters for captions, and none for marks."""
    captions = any(key in weights for key in _XDECODER_ONLY)
    decoder = any(key.startswith(_PREDICTOR) for key in weights)
    return (captions or decoder) and not any(key in weights for key in _SEEM_ONLY)


def _unshared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, without gradients, no two in one storage, as the safetensors format wants them."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in weights.items():
        tensor = value.detach().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        separate[key] = tensor
    return separate
