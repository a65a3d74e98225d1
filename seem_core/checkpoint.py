"""A SEEM on disk: one .safetensors file whose header says what it is and where it comes from. Loading is strict.

    header    format, configuration, routing, trained, source and its SHA-256, licence, converter, class names,
              SHA-256 of every tensor
    tensors   the parameters by our names, and `class_embeddings` (K, C) of the class names, if there are any

Loading checks names, shapes and that every value is finite; `verify_checkpoint` also the SHA-256 of every tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import seem_core.config as configurations
from seem_core.config import SeemConfig
from seem_core.convert import find_misfit, load_converted, shapes_of
from seem_core.errors import CheckpointError, DeviceError, OutputError
from seem_core.model import Seem
from seem_core.model_store import locate
from seem_core.plain_json import brief, in_a_line, parse_json
from seem_core.routing import RoutingName
from seem_core.segmenter_types import Trained
from seem_core.tensor_file import write_tensors

FORMAT = "vos-seem-1"
CLASS_EMBEDDINGS = "class_embeddings"

_DIGESTS = "sha256"
_SHOWN = 4  # names per complaint


@dataclass(frozen=True)
class CheckpointMetadata:
    """What the header says about the weights.

    configuration: name of a preset; routing may be another than the preset's, since parameters do not tell.
    trained: which part of the weights is more than an initial value.
    source, source_sha256: name and digest of the file that was converted.
    licence: as its source states it; nobody verified that.
    converter: the program that wrote the file.
    classes: names of the rows of the class embeddings; empty where there are none.
    """

    configuration: str
    routing: RoutingName
    trained: Trained
    source: str
    source_sha256: str
    licence: str
    converter: str
    classes: tuple[str, ...] = ()

    @property
    def config(self) -> SeemConfig:
        """The preset with the recorded routing. Raises CheckpointError for a name that is not known here."""
        preset = configurations.PRESETS.get(self.configuration)
        if preset is None:
            known = ", ".join(configurations.PRESETS)
            raise CheckpointError(f"configuration {brief(self.configuration)} is not known here; known are {known}")
        return replace(preset, routing=self.routing)

    def to_header(self) -> dict[str, str]:
        """As strings, which is all that a safetensors header holds."""
        return {"format": FORMAT} | {k: json.dumps(v) if k == "classes" else v for k, v in asdict(self).items()}

    @classmethod
    def from_header(cls, header: Mapping[str, str], path: Path) -> CheckpointMetadata:
        """Raises CheckpointError where `path` is not a SEEM of this version."""
        _check_format(header, path)
        try:
            values = {field.name: header[field.name] for field in fields(cls)}
            classes = tuple(str(name) for name in parse_json(values.pop("classes")))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the header of {path} is damaged ({in_a_line(error)}); convert the source again"
            ) from error
        if values["routing"] not in get_args(RoutingName) or values["trained"] not in get_args(Trained):
            raise CheckpointError(
                f"the header of {path} is damaged (routing {brief(values['routing'])}, "
                f"trained {brief(values['trained'])})"
            )
        return cls(
            **{k: values[k] for k in ("configuration", "source", "source_sha256", "licence", "converter")},
            routing=cast(RoutingName, values["routing"]),
            trained=cast(Trained, values["trained"]),
            classes=classes,
        )


def _check_format(header: Mapping[str, str], path: Path) -> None:
    found = header.get("format")
    if found == FORMAT:
        return
    if found is not None and found.startswith("vos-dense-reader"):
        raise CheckpointError(f"{path} holds a dense reader, which follows objects by itself, and no SEEM")
    if found is not None and found.startswith("vos-seem"):
        raise CheckpointError(
            f"{path} has format {in_a_line(found, 60)}, this version reads {FORMAT}; convert the source again"
        )
    raise CheckpointError(
        f"{path} was not written by 'vos models convert' (format {brief(found)}); convert the official file"
    )


@dataclass(frozen=True, eq=False)
class LoadedSeem:
    """A model in eval mode, and what its file says. class_embeddings: (K, C) float32 of `metadata.classes`, or None."""

    model: Seem
    config: SeemConfig
    metadata: CheckpointMetadata
    class_embeddings: Tensor | None


@dataclass(frozen=True)
class CheckpointCard:
    """A file at a glance: its metadata, its size in bytes, and how many parameters of which type it holds."""

    path: Path
    metadata: CheckpointMetadata
    bytes: int
    tensors: int
    parameters: int
    dtype: str


# --- writing ---------------------------------------------------------------------------------------------------------


def save_seem(
    weights: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: CheckpointMetadata,
    *,
    class_embeddings: Tensor | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint; the file appears under its name only when it is whole.

    weights: contiguous tensors by our names. class_embeddings: (K, C) of `metadata.classes`.
    Raises CheckpointError for weights that are not finite or do not fit the configuration, OutputError where the file
    is there already (unless `overwrite`) or cannot be written, DiskFullError without room.
    """
    path = Path(path)
    _check_weights(weights, metadata.config, path)
    tensors = dict(weights)
    if class_embeddings is not None:
        tensors[CLASS_EMBEDDINGS] = class_embeddings.float().cpu().contiguous()
    _check_classes(tensors.get(CLASS_EMBEDDINGS), metadata, path)
    header = metadata.to_header() | {_DIGESTS: json.dumps({k: _digest(v) for k, v in tensors.items()})}
    refuse_existing(path, overwrite=overwrite)
    write_tensors(path, tensors, header)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises OutputError where something would be replaced without having been asked to."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} is there already; name another file or allow it to be overwritten (--overwrite)")


# --- reading ---------------------------------------------------------------------------------------------------------


def load_seem(
    path_or_name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedSeem:
    """The model of a converted file, or of a name such as ``seem-focal-t-v0`` that was fetched or converted before.

    On the CPU in float32 the weights are mapped from the file: processes share them, and the file must not be changed
    in place. dtype: the precision of `Seem.set_precision`; queries, heads and class embeddings are float32 always.
    Raises CheckpointError for a name or file that is not there, damaged, of another kind, or not finite; DeviceError.
    """
    path = locate(path_or_name)
    header, tensors = _read(path)
    metadata = CheckpointMetadata.from_header(header, path)
    config = metadata.config
    embeddings = _check_tensors(tensors, metadata, path)
    model = cast(Seem, load_converted(config, {key: value.float() for key, value in tensors.items()}))
    try:
        model.to(device)
        embeddings = None if embeddings is None else embeddings.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"{config.name} cannot be put on {device} ({str(error).splitlines()[0]})") from error
    if dtype != torch.float32:
        model.set_precision(dtype)
    return LoadedSeem(model, config, metadata, embeddings)


def read_card(path_or_name: str | os.PathLike[str]) -> CheckpointCard:
    """What a file is, from its header alone. Raises CheckpointError as `load_seem`, without looking at values."""
    path = locate(path_or_name)
    with _opened(path) as file:
        metadata = CheckpointMetadata.from_header(file.metadata() or {}, path)
        slices = {key: file.get_slice(key) for key in file.keys() if key != CLASS_EMBEDDINGS}  # noqa: SIM118 - no mapping
        counts = [torch.Size(part.get_shape()).numel() for part in slices.values()]
        dtypes = sorted({str(part.get_dtype()) for part in slices.values()})
    return CheckpointCard(path, metadata, path.stat().st_size, len(counts), sum(counts), ", ".join(dtypes))


def verify_checkpoint(
    path_or_name: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> CheckpointCard:
    """Everything that loading checks, and that each tensor is to the last bit the one that was written.

    progress: called with tensors done and tensors in all. Raises CheckpointError naming what is wrong.
    """
    path = locate(path_or_name)
    header, tensors = _read(path)
    metadata = CheckpointMetadata.from_header(header, path)
    recorded = _recorded_digests(header, path)
    if set(recorded) != set(tensors):
        odd = sorted(set(recorded) ^ set(tensors))
        raise CheckpointError(f"{path} and its header name other tensors: {_listed(odd)}; convert the source again")
    changed = []
    for done, (key, value) in enumerate(tensors.items(), 1):
        if _digest(value) != recorded[key]:
            changed.append(key)
        if progress is not None:
            progress(done, len(tensors))
    _check_tensors(tensors, metadata, path)
    if changed:
        raise CheckpointError(
            f"{path} is damaged: {len(changed)} tensors differ from what was written ({_listed(changed)}); "
            "convert the source again"
        )
    return read_card(path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _opened(path) as file:
        try:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, RuntimeError, SafetensorError) as error:
            raise _unreadable(path, error) from error


def _opened(path: Path) -> safe_open:
    if path.suffix in (".pt", ".pth"):
        raise CheckpointError(f"{path} is a checkpoint of the official code; run: vos models convert {path}")
    try:
        return safe_open(os.fspath(path), "pt")
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged, cut short or no .safetensors file ({in_a_line(error)}); get it again"
    )


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_tensors(tensors: dict[str, Tensor], metadata: CheckpointMetadata, path: Path) -> Tensor | None:
    """Take the class embeddings out of `tensors`, and check both; the former or None."""
    embeddings = tensors.pop(CLASS_EMBEDDINGS, None)
    _check_classes(embeddings, metadata, path)
    _check_weights(tensors, metadata.config, path)
    return embeddings


def _check_weights(weights: Mapping[str, Tensor], config: SeemConfig, path: Path) -> None:
    if misfit := find_misfit(shapes_of(weights), config):
        raise CheckpointError(f"the weights of {path} do not fit {config.name}: {misfit}")
    check_finite(weights, path)


def check_finite(weights: Mapping[str, Tensor], path: Path, names: Mapping[str, str] | None = None) -> None:
    """Raises CheckpointError naming tensors that hold NaN or infinity, or no real numbers; by `names`, where given."""
    shown = names or {}
    if strange := [shown.get(k, k) for k, v in weights.items() if not v.is_floating_point()]:
        raise CheckpointError(f"{path} holds weights that are no floating-point numbers: {_listed(strange)}")
    if broken := [shown.get(k, k) for k, v in weights.items() if not _finite(v)]:
        raise CheckpointError(
            f"{len(broken)} weights of {path} hold NaN or infinity ({_listed(broken)}); use another checkpoint"
        )


def _finite(value: Tensor) -> bool:
    """Without a copy: both ends of a tensor that holds NaN are NaN."""
    return value.numel() == 0 or all(bool(end.isfinite()) for end in value.aminmax())


def _check_classes(embeddings: Tensor | None, metadata: CheckpointMetadata, path: Path) -> None:
    count = 0 if embeddings is None else len(embeddings)
    if count != len(metadata.classes):
        raise CheckpointError(f"{path} has embeddings of {count} classes and names of {len(metadata.classes)}")
    if embeddings is None:
        return
    text = metadata.config.text
    if text is None or embeddings.shape != (count, text.projected) or embeddings.dtype != torch.float32:
        raise CheckpointError(
            f"class embeddings of {path} are {tuple(embeddings.shape)} {embeddings.dtype}, not (K, C)"
        )
    check_finite({CLASS_EMBEDDINGS: embeddings}, path)


def _recorded_digests(header: Mapping[str, str], path: Path) -> dict[str, str]:
    with suppress(KeyError, TypeError, ValueError):
        recorded = parse_json(header[_DIGESTS])
        if isinstance(recorded, dict):
            return recorded
    raise CheckpointError(f"the header of {path} is damaged (no {_DIGESTS}); convert the source again")


def _digest(value: Tensor) -> str:
    content: memoryview = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return hashlib.sha256(content).hexdigest()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
