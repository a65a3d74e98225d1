"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where to compute; ``auto`` takes cuda, else mps, else cpu."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Reader(StrEnum):
    """Which library decodes video files; ``decord`` needs the extra of that name."""

    pyav = "pyav"
    decord = "decord"


class Direction(StrEnum):
    """Which way to track; ``both`` merges the two passes between prompts."""

    forward = "forward"
    backward = "backward"
    both = "both"


class MaskKind(StrEnum):
    """How to read a mask file; ``auto`` refuses to guess where it could be wrong."""

    auto = "auto"
    ids = "ids"
    binary = "binary"
    rgb = "rgb"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; errors and warnings stay.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result that is already there.")]
Tracker = Annotated[str, typer.Option("--tracker", "-t", help="What follows the objects: propagate, flow or copy.")]
OnDevice = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes cuda, else mps, else cpu.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads for the computation.", show_default="all cores")
]
Save = Annotated[
    str,
    typer.Option(
        "--save",
        metavar="LIST",
        help="What to make beside the masks (which are always kept, the rest is made from them): overlay, contact.",
    ),
]
MaxSide = Annotated[
    int | None,
    typer.Option(
        "--max-side",
        min=32,
        help="Longer side of the image that is worked on; masks keep the video's size.",
        show_default=False,
    ),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.", show_default="NAME_vos")
]

UseReader = Annotated[Reader, typer.Option("--reader", help="What decodes video files; decord needs the extra.")]
UseDirection = Annotated[
    Direction,
    typer.Option("--direction", help="forward, backward (from the last prompt to the first frame), or both, merged."),
]
MaskFormat = Annotated[MaskKind, typer.Option("--mask-format", help="How to read mask files; auto refuses to guess.")]

WHAT = ("masks", "overlay", "contact")


def save_list(text: str, what: tuple[str, ...] = WHAT) -> frozenset[str]:
    """The parts named by ``--save``, comma-separated. Raises a usage error for anything else."""
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts or parts - set(what):
        wrong = ", ".join(sorted(parts - set(what))) or "nothing"
        raise typer.BadParameter(f"--save takes a list of {', '.join(what)}, not {wrong}")
    return parts
