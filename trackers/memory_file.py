"""Memory on disk: one .safetensors file whose metadata says what it holds and which model can read it.

    metadata  format      "vos-memory"
              version     of this layout
              model       name of the reader (and segmenter) that wrote it: another one cannot read its keys
              objects     ids, as JSON
              contents    the plain form of the bank as JSON, tensors replaced by their names in the file

The same plain form, with tensors in place, is what `MemoryBank.state_dict` returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seem_core.errors import InputError, OutputError
from seem_core.plain_json import brief, in_a_line, parse_json
from seem_core.segmenter_types import ObjectTokens
from trackers.entries import Entry, Previous

if TYPE_CHECKING:
    from trackers.memory_bank import Snapshot

FORMAT = "vos-memory"
VERSION = 2


def save_memory(held: Snapshot, path: str | os.PathLike[str], *, model: str) -> None:
    """Write a bank's contents; an existing file is replaced when the new one is complete. Raises OutputError."""
    tensors: dict[str, Tensor] = {}

    def named(tensor: Tensor) -> str:
        name = f"t{len(tensors)}"
        tensors[name] = tensor.detach().cpu().contiguous().clone()
        return name

    contents = _mapped(to_plain(held), named)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": model,
        "objects": json.dumps(sorted({i for e in (*held.pinned, *held.recent) for i in e.ids})),
        "contents": json.dumps(contents),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that somebody put there
            file.write(save(tensors, metadata))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"the memory cannot be written to {path}: {error}") from error


def objects_of(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Ids of the objects in a memory file, without reading more of it. Raises InputError where it is none."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") == FORMAT:
            return tuple(int(i) for i in parse_json(metadata["objects"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the memory file {path} cannot be read: {in_a_line(error)}") from error
    raise InputError(f"{path} is no memory file; give one that --save-memory wrote")


def load_memory(path: str | os.PathLike[str], *, model: str) -> Snapshot:
    """What `save_memory` wrote. Raises InputError for a file that is missing, damaged, of another kind or model."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"the memory file {path} cannot be read: {in_a_line(error)}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is no memory file; give one that --save-memory wrote")
    if metadata.get("version") != str(VERSION):
        raise InputError(
            f"the memory file {path} has version {brief(metadata.get('version'))}, this program reads {VERSION};"
            " save the memory again"
        )
    if metadata.get("model") != model:
        raise InputError(
            f"the memory file {path} was written by {brief(metadata.get('model'))}, not by {model!r}, which cannot"
            " read it; use the same tracker and model, or save the memory again"
        )
    try:
        return from_plain(_replaced(_mapping(parse_json(metadata["contents"])), tensors))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the memory file {path} is damaged: its description does not fit its contents") from error


def to_plain(held: Snapshot) -> dict[str, Any]:
    """Dictionaries, lists, plain values and tensors."""
    before = held.previous
    values = {} if before is None else {str(i): list(v) for i, v in before.values.items()}
    return {
        "space": list(held.space),
        "pinned": [_plain_entry(e) for e in held.pinned],
        "long_term": None if held.long_term is None else _plain_entry(held.long_term),
        "recent": [_plain_entry(e) for e in held.recent],
        "previous": None if before is None else {"frame": before.frame, "keys": list(before.keys), "values": values},
    }


def from_plain(state: Mapping[str, Any]) -> Snapshot:
    """The inverse of `to_plain`. Raises KeyError, TypeError or ValueError for anything else."""
    from trackers.memory_bank import Snapshot

    before = state["previous"]
    previous = None
    if before is not None:
        values = {int(i): _tensors(v) for i, v in _mapping(before["values"]).items()}
        previous = Previous(int(before["frame"]), _tensors(before["keys"]), values)
    return Snapshot(
        _tensors(state["space"]),
        tuple(_entry(item, pinned=True) for item in _list(state["pinned"])),
        None if state["long_term"] is None else _entry(state["long_term"]),
        tuple(_entry(item) for item in _list(state["recent"])),
        previous,
    )


def _plain_entry(entry: Entry) -> dict[str, Any]:
    tokens = {str(i): {"levels": list(t.levels), "positive": t.positive} for i, t in entry.tokens.items()}
    return {
        "frame": entry.frame,
        "grid": None if entry.grid is None else list(entry.grid),
        "keys": list(entry.keys),
        "values": {str(i): v for i, v in entry.values.items()},
        "tokens": tokens,
        "known": {str(i): k for i, k in entry.known.items()},
        "use": entry.use,
        "looks": {str(i): look for i, look in entry.looks.items()},
    }


def _entry(item: Mapping[str, Any], *, pinned: bool = False) -> Entry:
    item = _mapping(item)
    grid = None if item["grid"] is None else tuple(map(int, _list(item["grid"])))
    if grid is not None and len(grid) != 2:
        raise ValueError(f"a grid has a height and a width, not {grid}")
    entry = Entry(
        int(item["frame"]),
        _tensors(item["keys"]),
        {int(i): _tensors([v])[0] for i, v in _mapping(item["values"]).items()},
        {int(i): _tokens(int(i), _mapping(t)) for i, t in _mapping(item["tokens"]).items()},
        pinned,
        grid,
        {int(i): _tensors([k])[0] for i, k in _mapping(item["known"]).items()},
        None if item["use"] is None else _tensors([item["use"]])[0],
        {int(i): _tensors([look])[0] for i, look in _mapping(item["looks"]).items()},
    )
    cells = entry.cells
    if any(t.ndim == 0 or not cells or len(t) % cells for t in (*entry.keys, *entry.values.values())):
        raise ValueError(f"an entry of {cells} cells holds tensors of other sizes")
    if any(k.shape != (cells,) or k.dtype != torch.bool for k in entry.known.values()):
        raise ValueError(f"an entry of {cells} cells says of others what they know")
    if entry.use is not None and entry.use.shape != (cells, 2):
        raise ValueError(f"an entry of {cells} cells counts the use of others")
    return entry


def _tokens(object_id: int, item: Mapping[str, Any]) -> ObjectTokens:
    positive = None if item["positive"] is None else _tensors([item["positive"]])[0]
    return ObjectTokens(object_id, _tensors(item["levels"]), positive)


def _tensors(values: Any) -> tuple[Tensor, ...]:
    if not all(isinstance(v, Tensor) for v in _list(values)):
        raise ValueError("something else stands where tensors should be")
    return tuple(values)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("something else stands where a list should be")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("something else stands where names and values should be")
    return value


def _mapped(value: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """The same structure with every tensor replaced."""
    if isinstance(value, Tensor):
        return {"tensor": tensor(value)}
    if isinstance(value, Mapping):
        return {key: _mapped(item, tensor) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, tensor) for item in value]
    return value


def _replaced(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_mapped`. Raises KeyError for a name without tensor."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _replaced(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, tensors) for item in value]
    return value
