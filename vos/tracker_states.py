"""Saved states of a tracker, so that a pass can go on from its middle: `TrackerStates`.

00012-<made from>.safetensors   the state after frame 12; tensors as they are, everything else as JSON beside them, and
                                a checksum over both, as a power cut may leave blocks of zeros in a file
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from seem_core.plain_json import parse_json
from vos.label_files import write_whole
from vos.writing import refuse_link, writing

if TYPE_CHECKING:  # the trackers that compute nothing do without, until a state is saved
    import torch

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class SavedState:
    """A tracker's `state_dict` after ``frame`` was stepped; ``ids`` are the objects it knew then."""

    frame: int
    ids: tuple[int, ...]
    state: dict[str, Any]


@dataclass(frozen=True, eq=False)
class PackedState:
    """A state as a file holds it, on its own: the tracker may go on while it is written."""

    frame: int
    note: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]


class TrackerStates:
    """Saved states of one pass in ``folder``, which is made; at most ``most``, spread over the video.

    A state belongs to what its pass was told until then (``made_from``, a text that a file name can hold).
    Raises OutputError where the folder cannot be made or written, DiskFullError without room.
    """

    def __init__(self, folder: Path, most: int = 8) -> None:
        if most < 1:
            raise ValueError(f"at least one state must be kept, not {most}")
        self.folder, self.most = folder, most
        refuse_link(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._places())

    def save(self, saved: SavedState, made_from: str, is_valid: Callable[[int, str], bool]) -> None:
        """Keep a state. Where there are too many, those that ``is_valid(frame, made_from)`` refuses go first, then the
        one that is least missed: its neighbours lie closest together."""
        self.write(pack(saved), made_from, is_valid)

    def write(self, packed: PackedState, made_from: str, is_valid: Callable[[int, str], bool]) -> None:
        """`save` of a state that was packed before, on any thread."""
        from safetensors.torch import save

        path = self._path(packed.frame, made_from)
        note = {**packed.note, "checksum": _checksum(packed.note, packed.tensors)}
        write_whole(path, save(dict(packed.tensors), note))
        self._thin(keep=path, is_valid=is_valid)

    def nearest(self, frame: int, made_from: Callable[[int], str | None], *, backward: bool) -> SavedState | None:
        """The last state that a pass to ``frame`` comes by before it; None where there is none.

        ``made_from`` says what a state must have been made from to be of use.
        """
        found = [
            (place, path)
            for place, text, path in self._places()
            if (place > frame if backward else place < frame) and made_from(place) == text
        ]
        for place, path in sorted(found, reverse=not backward):
            saved = _read(path, place)
            if saved is not None:
                return saved
        return None

    def _path(self, frame: int, made_from: str) -> Path:
        return self.folder / f"{frame:05d}-{made_from}{_SUFFIX}"

    def _places(self) -> list[tuple[int, str, Path]]:
        """(frame, made from, file) of every state, by frame."""
        names = ((path, path.stem.partition("-")) for path in self.folder.glob(f"[0-9]*{_SUFFIX}"))
        return sorted((int(frame), text, path) for path, (frame, _, text) in names if frame.isdigit())

    def _thin(self, keep: Path, is_valid: Callable[[int, str], bool]) -> None:
        while len(places := self._places()) > self.most:
            stale = [path for frame, text, path in places if path != keep and not is_valid(frame, text)]
            victim = stale[0] if stale else _least_missed(places, keep)
            with writing(victim):
                victim.unlink(missing_ok=True)


def pack(saved: SavedState) -> PackedState:
    """A copy of a state. Raises TypeError where it holds anything but tensors, arrays and plain values."""
    tensors: dict[str, torch.Tensor] = {}
    plain = _to_plain(saved.state, tensors)
    return PackedState(saved.frame, {"state": json.dumps(plain), "ids": json.dumps(saved.ids)}, tensors)


def _least_missed(places: list[tuple[int, str, Path]], keep: Path) -> Path:
    """The state between the closest neighbours; what lies outside the video is as close as frame 0 on either side."""
    frames = [-1, *(frame for frame, _, _ in places), places[-1][0] + places[0][0] + 1]
    spans = [(frames[n + 2] - frames[n], path) for n, (_, _, path) in enumerate(places) if path != keep]
    return min(spans)[1]


def _read(path: Path, frame: int) -> SavedState | None:
    """A state from its file; None where it is damaged (a pass then begins earlier)."""
    try:
        with safe_open(path, framework="pt") as file:
            note = file.metadata()
            # copies: what lies in a mapped file is not aligned as the tracker's own tensors are
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        if note["checksum"] != _checksum(note, tensors):
            return None
        state = _from_plain(parse_json(note["state"], any_float=True), tensors)
        return SavedState(frame, tuple(parse_json(note["ids"])), state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _checksum(note: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    total = zlib.crc32(f"{note['state']} {note['ids']}".encode())
    for _, tensor in sorted(tensors.items()):
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"", total)
    return f"{total:08x}"


def _to_plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON holds it, with its tensors and arrays put into ``tensors`` under numbers.

    Whatever JSON has no word for is written as a list that begins with its kind.
    """
    import torch

    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        return ["tensor", *_put(value, tensors)]
    if isinstance(value, np.ndarray):
        return ["array", *_put(torch.from_numpy(np.ascontiguousarray(value)), tensors)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return ["dict", [[_to_plain(k, tensors), _to_plain(v, tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [_to_plain(item, tensors) for item in value]]
    raise TypeError(f"a tracker's state holds tensors, arrays and plain values, not {type(value).__name__}")


def _put(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> tuple[str, list[int]]:
    """Name of the tensor's copy (views may share memory), whose dimensions lie in memory as they come, and their order:
    what is computed from a tensor depends, in its last bits, on how that lies in memory."""
    import torch

    name = str(len(tensors))
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    if not tensor.permute(order).is_contiguous():  # a part of a larger one
        order = list(range(tensor.ndim))
    tensors[name] = tensor.detach().permute(order).cpu().clone(memory_format=torch.contiguous_format)
    return name, order


def _take(tensors: Mapping[str, torch.Tensor], name: str, order: Sequence[int]) -> torch.Tensor:
    return tensors[name].permute([order.index(dimension) for dimension in range(len(order))])


def _from_plain(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(plain, list):
        return plain
    kind, content, *order = plain
    if kind == "tensor":
        return _take(tensors, content, *order)
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {_from_plain(k, tensors): _from_plain(v, tensors) for k, v in content}
    items = [_from_plain(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
