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
    DEFAULT_MAX_PIXELS,
    Boxes,
    CheckpointSeconds,
    DecoderChoice,
    Device,
    Direction,
    Fast,
    Forgets,
    Json,
    MaskFormat,
    MaskKind,
    Masks,
    MaxPixels,
    MaxSide,
    Memory,
    Model,
    OnDevice,
    OutFolder,
    Overwrite,
    Points,
    Polygons,
    PromptFiles,
    PromptsSchema,
    Published,
    Quiet,
    Reader,
    ReferenceMasks,
    References,
    Resume,
    Save,
    SaveMemory,
    Scribbles,
    ScribbleWidth,
    Texts,
    Threads,
    Tracker,
    UseDecoder,
    UseDirection,
    UseReader,
    save_list,
)

if TYPE_CHECKING:
    from vos.to_folder import TrackSummary


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file, a folder of images, or one image.")],
    mask: Masks = None,
    point: Points = None,
    box: Boxes = None,
    scribble: Scribbles = None,
    width: ScribbleWidth = 3.0,
    polygon: Polygons = None,
    text: Texts = None,
    reference: References = None,
    reference_mask: ReferenceMasks = None,
    prompts: PromptFiles = None,
    forget: Forgets = None,
    memory: Memory = None,
    save_memory: SaveMemory = None,
    prompts_schema: PromptsSchema = False,
    out: OutFolder = None,
    tracker: Tracker = "lite",
    model: Model = None,
    decoder: UseDecoder = DecoderChoice.auto,
    published: Published = False,
    fast: Fast = False,
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
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    overwrite: Overwrite = False,
    resume: Resume = False,
    checkpoint_seconds: CheckpointSeconds = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Follow objects through VIDEO from masks, clicks, boxes and more, and write everything into one folder.

    Prompts of every kind may be given several times and together. @ says when: @40 is frame 40 of the video, @1.5s the
    frame shown then; without it, the first tracked frame. # says which object; without it, object 1. Frame numbers are
    always those of the video, from 0, also with --start and --stride. A prompt for an object that is followed already
    corrects it; marks with :- say what it is not. @ after --reference is a frame of that video.

    --prompts reads files in which all of this is written down (docs/prompts.md). run.json of a run is one of them:
    vos track VIDEO --prompts OLD/run.json repeats it.

    The folder gets masks/00000.png (palette PNG, one value per object), frames.jsonl (per frame and object: score,
    area, box, lost), run.json, overlay.mp4 and contact.png. Without -o it is called after the video, NAME_vos, in the
    current folder. Ctrl-C finishes the frame and keeps what is done. --resume goes on with a run that was stopped or
    killed, whose masks are then the same as without the interruption.
    """
    from vos.pipeline import TrackOptions
    from vos.prompt_text import parse_mask, parse_prompts, parse_references
    from vos.to_folder import track_to_folder

    parts = save_list(save)
    given = [
        *(prompts or ()),
        *parse_references(reference or (), reference_mask or ()),
        *parse_prompts(
            points=point or (), boxes=box or (), scribbles=scribble or (), polygons=polygon or (), texts=text or (),
            forgets=forget or (), width=width,
        ),
    ]  # fmt: skip
    masks = [parse_mask(text) for text in mask or ()]
    options = TrackOptions(
        tracker, device.value, start, end, stride, max_side, reader.value, threads, mask_format.value,
        direction=direction.value, memory=_text(memory), save_memory=_text(save_memory),
        model=model, decoder=decoder.value, published=published, fast=fast,
        max_pixels=max_pixels,
    )  # fmt: skip
    folder = out if out is not None else default_folder(video)
    drawing = Progress("rendering", quiet=quiet)
    with stop_on_signal() as stop, Progress("tracking", quiet=quiet) as progress, drawing:
        summary = track_to_folder(
            video, folder, given, mask=masks, options=options, save=parts, overwrite=overwrite, resume=resume,
            checkpoint_seconds=checkpoint_seconds, on_progress=progress, on_render=drawing, stop=stop,
        )  # fmt: skip
    if summary.resumed_after is not None:
        note(f"vos: went on after frame {summary.resumed_after} of the run that was there", quiet=quiet)
    for line in summary.warnings:
        warn(line)
    report(summary, as_json=json)
    if summary.state != "interrupted":
        return 0
    note(f"vos: interrupted; {summary.frames} frames are done and kept in {summary.out}; --resume goes on", quiet=quiet)
    return INTERRUPTED


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


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
