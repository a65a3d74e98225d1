"""From a file of the official code to a checkpoint of ours: which configuration, which routing, and its COCO classes.

The configuration is the one whose names and shapes are exactly those of the file. The routing is asked for, or else
that of the configuration that was asked for, or else what the file name says, with a warning (SPEC §1.1).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

import seem_core.config as configurations
from seem_core.checkpoint import CheckpointMetadata, check_finite, refuse_existing, save_seem
from seem_core.class_embeddings import class_embeddings
from seem_core.coco import BACKGROUND, COCO_PANOPTIC
from seem_core.config import SeemConfig
from seem_core.convert import find_misfit, load_converted, rename_keys, shapes_of
from seem_core.errors import CheckpointError, MissingExtraError
from seem_core.model_store import stored_path
from seem_core.official_file import read_official
from seem_core.published import published_licence, routing_of_file
from seem_core.routing import RoutingName
from seem_core.text import TextConfig, TextEncoder, byte_pairs

COCO_CLASSES = (*COCO_PANOPTIC, BACKGROUND)
_TEXT = "text_encoder."


@dataclass(frozen=True)
class ConvertedFile:
    """Where the checkpoint lies, what its header says, and what the user should know about it."""

    path: Path
    metadata: CheckpointMetadata
    warnings: tuple[str, ...] = ()


def convert_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    configuration: str | None = None,
    routing: RoutingName | None = None,
    classes: bool = True,
    licence: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertedFile:
    """Convert one ``.pt`` file of the official code, or of its trainer.

    out: the file to write; None for the store, where its name is the configuration's with the routing at the end.
    classes: whether to compute and store the embeddings of COCO's 133 classes and of the background (minutes); skipped
    with a warning without the extra `text`. licence: as the source states it; None for what is known of its file name.
    progress: called with sentences done and sentences in all.
    Raises CheckpointError for a file that is damaged, of no known configuration, or of another than the one asked for;
    OutputError where the result is there already (unless `overwrite`); DiskFullError.
    """
    source = Path(source)
    if out is not None:
        refuse_existing(Path(out), overwrite=overwrite)
    if configuration is not None and configuration not in configurations.PRESETS:
        raise CheckpointError(
            f"there is no configuration {configuration!r}; known are {', '.join(configurations.PRESETS)}"
        )
    weights, origin = rename_keys(read_official(source))
    preset = find_configuration(source, weights, origin, configuration)
    config, warnings = _choose_routing(source, preset, routing, asked_preset=configuration is not None)
    path = stored_path(f"{config.name.rsplit('-', 1)[0]}-{config.routing}") if out is None else Path(out)
    refuse_existing(path, overwrite=overwrite)
    check_finite(weights, source, origin)
    embeddings = None
    if classes and config.text is not None:
        try:
            embeddings = _embed_classes(weights, config.text, progress)
        except MissingExtraError as error:
            warnings += (f"embeddings of COCO's classes were left out ({error}, then convert again)",)
    metadata = CheckpointMetadata(
        configuration=config.name,
        routing=config.routing,
        trained="full",
        source=source.name,
        source_sha256=_sha256(source),
        licence=licence or published_licence(source.name),
        converter=f"seem-vos {_version()}",
        classes=() if embeddings is None else COCO_CLASSES,
    )
    save_seem(weights, path, metadata, class_embeddings=embeddings, overwrite=overwrite)
    return ConvertedFile(path, metadata, warnings)


def find_configuration(
    source: Path, weights: Mapping[str, Tensor], origin: Mapping[str, str], asked: str | None
) -> SeemConfig:
    """The preset asked for, or the first whose names and shapes are those of the file. Raises CheckpointError."""
    shapes = shapes_of(weights)
    if asked is not None:
        preset = configurations.PRESETS[asked]
        misfit = find_misfit(shapes, preset, origin)
        if not misfit:
            return preset
        others = [config.name for config in configurations.PRESETS.values() if not find_misfit(shapes, config, origin)]
        hint = f"its shapes are those of {' and '.join(others)}" if others else "they fit no other configuration either"
        raise CheckpointError(f"the weights of {source} do not fit {asked}: {misfit}; {hint}")
    misfits = {config.name: find_misfit(shapes, config, origin) for config in configurations.PRESETS.values()}
    nearest = min(misfits, key=lambda name: len(misfits[name]))
    if misfits[nearest]:
        raise CheckpointError(
            f"the weights of {source} fit no known configuration; "
            f"compared with {nearest}, the nearest: {misfits[nearest]}"
        )
    return configurations.PRESETS[nearest]


def _choose_routing(
    source: Path, preset: SeemConfig, asked: RoutingName | None, *, asked_preset: bool
) -> tuple[SeemConfig, tuple[str, ...]]:
    """The preset of the same weights with the routing to record, and warnings about where that comes from."""
    named, remark = routing_of_file(source)
    warnings: tuple[str, ...] = ()
    routing = asked or (preset.routing if asked_preset else None)
    if routing is None:
        if named is None:
            raise CheckpointError(
                f"the file name {source.name} does not say which routing its weights were trained for, and parameters "
                "do not tell; name it (--routing v0 or v1, or demo for the published demo's)"
            )
        routing, warnings = named, (f"{remark}; if it is another, convert again with that routing (--routing)",)
    elif named not in (None, "demo", routing) and routing != "demo":
        warnings = (f"routing {routing} was asked for, though the file name {source.name} speaks of {named}",)
    return _with_routing(preset, routing), warnings


def _with_routing(preset: SeemConfig, routing: RoutingName) -> SeemConfig:
    """The preset of the same parts that has this routing; where there is none, `preset` itself with another routing."""
    wanted = replace(preset, routing=routing)
    return next((c for c in configurations.PRESETS.values() if replace(c, name=preset.name) == wanted), wanted)


def _embed_classes(
    weights: Mapping[str, Tensor], config: TextConfig, progress: Callable[[int, int], None] | None
) -> Tensor:
    """(134, C) float32 embeddings of `COCO_CLASSES` by the text encoder among `weights`."""
    byte_pairs()
    own = {key.removeprefix(_TEXT): value.float() for key, value in weights.items() if key.startswith(_TEXT)}
    encoder = load_converted(config, own)
    if not isinstance(encoder, TextEncoder):
        raise TypeError(f"{type(config).__name__} builds a {type(encoder).__name__}")
    return class_embeddings(encoder, COCO_CLASSES, progress=progress).clone()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version() -> str:
    try:
        return version("seem-vos")
    except PackageNotFoundError:
        return "of a source tree"
