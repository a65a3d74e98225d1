"""``vos models``: the weights of SEEM by name or from a file: list, get, convert, info, verify."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import Progress, emit, emit_json, note, warn
from cli.options import Json, Overwrite, Quiet
from cli.tables import table

if TYPE_CHECKING:
    from seem_core.checkpoint import CheckpointCard
    from seem_core.config import SeemConfig
    from seem_core.convert_file import ConvertedFile
    from seem_core.shipped import ShippedCard


class RoutingChoice(StrEnum):
    """Which token attends to which; see `seem_core.routing`."""

    demo = "demo"
    v0 = "v0"
    v1 = "v1"


Model = Annotated[str, typer.Argument(metavar="FILE|NAME", help="A converted file, or the name of one in the store.")]
NoClasses = Annotated[
    bool, typer.Option("--no-classes", help="Do not compute and store the embeddings of COCO's classes (minutes).")
]

models = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Weights of SEEM: list what is known and what is here, get or convert a file, look at it, check it.",
)


@models.command("list")
def list_models(json: Json = False, quiet: Quiet = False) -> None:
    """Show the published models and those that are on this machine, which other commands take by name."""
    from seem_core.config import PRESETS
    from seem_core.model_store import models_folder, shipped_path, stored_names, stored_path
    from seem_core.published import PUBLISHED

    here = stored_names()
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys((*PRESETS, *here)):
        published = PUBLISHED.get(name)
        rows.append(
            {
                "name": name,
                "repository": published.repository if published else None,
                "file": published.file if published else None,
                "licence": published.licence if published else None,
                "ships": shipped_path(name) is not None,
                "path": str(stored_path(name) if name in here else shipped_path(name) or "") or None,
            }
        )
    if json:
        emit_json({"models": rows})
        return
    emit(
        *table(
            ("model", "published as", "here"),
            [_list_row(row, PRESETS.get(str(row["name"]))) for row in rows],
            names=3,
        )
    )
    note(f"converted models lie in {models_folder()}", quiet=quiet)


def _list_row(row: dict[str, Any], config: SeemConfig | None) -> tuple[str, str, str]:
    if row["file"]:
        source = f"{row['repository']}/{row['file']}"
    elif row["ships"]:
        source = "ships with this program"
    elif config is None:
        source = "-"
    else:
        source = "never published; convert a file of your own" if config.official else "nowhere; train it (vos train)"
    return str(row["name"]), source, "yes" if row["path"] else "no"


@models.command("get")
def get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published model, see 'vos models list'.")],
    no_classes: NoClasses = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Download a published model from the Hugging Face hub and convert it; print where it lies.

    What is in the store already is not fetched again, unless --overwrite is given. Needs the extra `hub`.
    """
    from seem_core.download import fetch

    with Progress("embedding COCO's classes", quiet=quiet, unit="sentence") as progress:
        done = fetch(name, classes=not no_classes, overwrite=overwrite, quiet=quiet, progress=progress)
    _report(done, quiet=quiet, json=json)


@models.command("convert")
def convert_model(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="A checkpoint of the official code or its trainer.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="File to write.", show_default="NAME.safetensors in the store"),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="NAME", help="The model that it must be.", show_default="found by its shapes"),
    ] = None,
    routing: Annotated[
        RoutingChoice | None,
        typer.Option("--routing", help="How its tokens attend; weights do not tell.", show_default="by the file name"),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", metavar="TEXT", help="As its source states it.", show_default="what is known of the file name"
        ),
    ] = None,
    no_classes: NoClasses = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Convert a checkpoint of the official code to a .safetensors file; print where it lies.

    Nothing in FILE.pt is run. Every parameter must have its place in one known model, else the misfits are named. What
    the file is and where it comes from is written into the result: 'vos models info' shows it.
    """
    from seem_core.convert_file import convert_file

    with Progress("embedding COCO's classes", quiet=quiet, unit="sentence") as progress:
        done = convert_file(
            file,
            out,
            configuration=config,
            routing=routing.value if routing else None,
            classes=not no_classes,
            licence=licence,
            overwrite=overwrite,
            progress=progress,
        )
    _report(done, quiet=quiet, json=json)


@models.command("info")
def show_model(model: Model, json: Json = False, quiet: Quiet = False) -> None:
    """Show what a converted file is: its configuration, routing, source, licence and size, read from its header.

    For the name lite also what else tracker lite is made of.
    """
    from seem_core.checkpoint import read_card
    from seem_core.shipped import BORDERS, TRUNK

    card = read_card(model)
    parts = [file.card() for file in (BORDERS, TRUNK)] if model == "lite" else []
    if json:
        emit_json(_card(card) | ({"tracker": [_part(part) for part in parts]} if parts else {}))
        return
    emit(*_card_lines(card))
    for part in parts:
        emit("", *_part_lines(part))


@models.command("verify")
def verify_model(model: Model, quiet: Quiet = False, json: Json = False) -> None:
    """Check that a converted file is whole: names, shapes, finite values, and each tensor's SHA-256.

    Ends with exit code 4 and the names of what is wrong.
    """
    from seem_core.checkpoint import verify_checkpoint

    with Progress("verifying", quiet=quiet, unit="tensor") as progress:
        card = verify_checkpoint(model, progress)
    if json:
        emit_json({"verified": True, **_card(card)})
    else:
        emit(f"{card.path}: all {card.tensors} tensors are as they were written")


def _report(done: ConvertedFile, *, quiet: bool, json: bool) -> None:
    from seem_core.checkpoint import read_card

    for text in done.warnings:
        warn(text)
    if json:
        emit_json({**_card(read_card(done.path)), "warnings": done.warnings})
        return
    meta = done.metadata
    classes = f"{len(meta.classes)} class embeddings" if meta.classes else "no class embeddings"
    note(f"{meta.configuration}, routing {meta.routing}, {classes}; licence: {meta.licence}", quiet=quiet)
    emit(done.path)


def _card(card: CheckpointCard) -> dict[str, Any]:
    return {
        "path": str(card.path),
        **asdict(card.metadata),
        "bytes": card.bytes,
        "tensors": card.tensors,
        "parameters": card.parameters,
        "dtype": card.dtype,
    }


def _part(part: ShippedCard) -> dict[str, Any]:
    return {**asdict(part), "path": str(part.path)}


def _part_lines(part: ShippedCard) -> list[str]:
    rows = (
        ("file", str(part.path)),
        ("purpose", part.purpose),
        ("format", part.format),
        ("parameters", f"{part.parameters / 1e6:.2f} million, {part.dtype}, {part.bytes / 1e6:.1f} MB"),
        *((name.replace("_sha256", " SHA-256").replace("_", " "), value) for name, value in part.facts.items()),
    )
    return [f"{name:17} {value}" for name, value in rows]


def _card_lines(card: CheckpointCard) -> list[str]:
    meta = card.metadata
    classes = f"{len(meta.classes)} ({', '.join(meta.classes[:3])}, ...)" if meta.classes else "none"
    rows = (
        ("file", str(card.path)),
        ("configuration", meta.configuration),
        ("routing", meta.routing),
        ("trained", meta.trained),
        ("parameters", f"{card.parameters / 1e6:.2f} million, {card.dtype}, {card.bytes / 1e6:.0f} MB"),
        ("class embeddings", classes),
        ("source", meta.source),
        ("source SHA-256", meta.source_sha256),
        ("licence", meta.licence),
        ("converter", meta.converter),
    )
    return [f"{name:17} {value}" for name, value in rows]
