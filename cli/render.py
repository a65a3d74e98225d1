"""``vos render``: the overlay and the contact sheet of a result again, from its masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.console import Progress, emit, emit_json, warn
from cli.options import Json, Quiet, save_list


def render(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A results folder of vos track.")],
    save: Annotated[
        str, typer.Option("--save", metavar="LIST", help="What to make: overlay, contact.")
    ] = "overlay,contact",
    alpha: Annotated[
        float,
        typer.Option("--alpha", min=0, max=1, help="How much colour covers an object; 0: contours alone."),
    ] = 0.5,
    video: Annotated[
        Path | None, typer.Option("--video", help="Where the video is now, if it was moved.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Make overlay.mp4 and contact.png in OUT again from its masks, after they were corrected or with other settings.

    It needs the source video where it was when it was tracked, or --video.
    """
    parts = save_list(save, ("overlay", "contact"))

    from vos.render import render as make

    with Progress("rendering", quiet=quiet) as progress:
        done = make(out, what=parts, alpha=alpha, video=video, progress=progress)
    for text in done.warnings:
        warn(text)
    if json:
        emit_json({"made": done.made, "warnings": done.warnings})
    else:
        emit(*done.made)
    return 0
