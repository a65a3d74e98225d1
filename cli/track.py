"""``vos track``: a video and a mask, click or box in; masks, an overlay and a contact sheet out."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, note, stop_on_signal, warn
from cli.main import INTERRUPTED
from cli.options import (
    Device,
    Direction,
    Json,
    MaskFormat,
    MaskKind,
    MaxSide,
    OnDevice,
    OutFolder,
    Overwrite,
    Quiet,
    Reader,
    Save,
    Threads,
    Tracker,
    UseDirection,
    UseReader,
    save_list,
)

if TYPE_CHECKING:
    from vos.to_folder import TrackSummary


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file, a folder of images, or one image.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            "-m",
            metavar="PATH[@FRAME|@1.5s][#ID]",
            help="Mask of the object(s): ids, 0/255, or one colour each.",
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point", "-p", metavar="X,Y[:+|-][@FRAME|@1.5s][#ID]", help="A click on the object; :- beside it."
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box", "-b", metavar="X0,Y0,X1,Y1[@FRAME|@1.5s][#ID]", help="A box around the object, by two corners."
        ),
    ] = None,
    out: OutFolder = None,
    tracker: Tracker = "propagate",
    device: OnDevice = Device.auto,
    start: Annotated[int, typer.Option("--start", min=0, help="First frame to track.")] = 0,
    end: Annotated[
        int | None, typer.Option("--end", min=1, help="First frame that is left out.", show_default="the end")
    ] = None,
    stride: Annotated[int, typer.Option("--stride", min=1, help="Track every Nth frame.")] = 1,
    direction: UseDirection = Direction.forward,
    max_side: MaxSide = None,
    threads: Threads = None,
    save: Save = "masks,overlay,contact",
    reader: UseReader = Reader.pyav,
    mask_format: MaskFormat = MaskKind.auto,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Follow objects through VIDEO from a mask, clicks or boxes, and write everything into one folder.

    -m, -p and -b may be given several times and together. @ says when: @40 is frame 40 of the video, @1.5s the frame
    shown then; without it, the first tracked frame. # says which object; without it, object 1. Frame numbers are
    always those of the video, from 0, also with --start and --stride.

    The folder gets masks/00000.png (palette PNG, one value per object), frames.jsonl (per frame and object: score,
    area, box, lost), run.json, overlay.mp4 and contact.png. Without -o it is called after the video, NAME_vos, in the
    current folder. Ctrl-C finishes the frame and keeps what is done.
    """
    from vos.pipeline import TrackOptions
    from vos.prompt_text import parse_box, parse_mask, parse_point
    from vos.to_folder import track_to_folder

    parts = save_list(save)
    prompts = [*map(parse_point, point or ()), *map(parse_box, box or ())]
    masks = [parse_mask(text) for text in mask or ()]
    options = TrackOptions(
        tracker, device.value, start, end, stride, max_side, reader.value, threads, mask_format.value,
        direction=direction.value,
    )  # fmt: skip
    folder = out if out is not None else default_folder(video)
    drawing = Progress("rendering", quiet=quiet)
    with stop_on_signal() as stop, Progress("tracking", quiet=quiet) as progress, drawing:
        summary = track_to_folder(
            video, folder, prompts, mask=masks, options=options, save=parts, overwrite=overwrite,
            on_progress=progress, on_render=drawing, stop=stop,
        )  # fmt: skip
    for text in summary.warnings:
        warn(text)
    report(summary, as_json=json)
    if summary.state != "interrupted":
        return 0
    note(f"vos: interrupted; {summary.frames} frames are done and kept in {summary.out}", quiet=quiet)
    return INTERRUPTED


def default_folder(video: Path) -> Path:
    """``NAME_vos`` in the current folder."""
    path = Path(os.path.abspath(video))
    return Path(f"{path.name if os.path.isdir(path) else path.stem}_vos")


def report(summary: TrackSummary, *, as_json: bool) -> None:
    """The paths of what was made, one a line, or one JSON object with everything about the run."""
    if as_json:
        emit_json(asdict(summary))
    else:
        emit(*summary.made)
