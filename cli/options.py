"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.console import emit


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


Several = list[str] | None


def _print_schema(wanted: bool) -> None:
    if wanted:
        from vos.prompt_file import prompts_schema

        emit(prompts_schema().rstrip())
        raise typer.Exit


Masks = Annotated[
    Several,
    typer.Option(
        "--mask",
        "-m",
        metavar="PATH[@FRAME|@1.5s][#ID]",
        help="Mask of the object(s): ids, 0/255, or one colour each.",
    ),
]
Points = Annotated[
    Several,
    typer.Option("--point", "-p", metavar="X,Y[:+|-][@FRAME|@1.5s][#ID]", help="A click on the object; :- beside it."),
]
Boxes = Annotated[
    Several,
    typer.Option(
        "--box", "-b", metavar="X0,Y0,X1,Y1[@FRAME|@1.5s][#ID]", help="A box around the object, by two corners."
    ),
]
Scribbles = Annotated[
    Several,
    typer.Option(
        "--scribble", "-s", metavar="X,Y,X,Y,...[:+|-][@FRAME|@1.5s][#ID]", help="A stroke through these points."
    ),
]
Polygons = Annotated[
    Several,
    typer.Option("--polygon", metavar="X,Y,X,Y,...[:+|-][@FRAME|@1.5s][#ID]", help="An area by its corners."),
]
Texts = Annotated[
    Several,
    typer.Option("--text", "-t", metavar="WORDS[@FRAME|@1.5s][#ID]", help="The object in words; needs --model."),
]
Forgets = Annotated[
    Several, typer.Option("--forget", metavar="ID@FRAME|ID@1.5s", help="From there on the object is not followed.")
]
PromptFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompts",
        metavar="FILE.json",
        help="A file of prompts, run.json of an earlier run, DAVIS scribbles, COCO annotations or a labelme file.",
    ),
]
Memory = Annotated[
    Path | None,
    typer.Option(
        "--memory", metavar="FILE", help="What was remembered of objects in another video.", show_default=False
    ),
]
SaveMemory = Annotated[
    Path | None,
    typer.Option(
        "--save-memory",
        metavar="FILE",
        help="Keep what was remembered, to follow the objects in other videos.",
        show_default=False,
    ),
]
PromptsSchema = Annotated[
    bool,
    typer.Option(
        "--prompts-schema",
        help="Print the JSON Schema of files of prompts, and exit.",
        callback=_print_schema,
        is_eager=True,
    ),
]
References = Annotated[
    Several,
    typer.Option(
        "--reference",
        metavar="PATH[@FRAME|@1.5s]",
        help="Another picture, or a frame of a video, that shows the object.",
    ),
]
ReferenceMasks = Annotated[
    Several, typer.Option("--reference-mask", metavar="PATH[#ID]", help="The object's mask there, one per --reference.")
]
ScribbleWidth = Annotated[float, typer.Option("--width", min=0.5, help="Width of the scribbles, in pixels.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; errors and warnings stay.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result that is already there.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an unfinished run in the folder, from its last saved state; it must have the same inputs and"
        " options. A finished one stays.",
    ),
]
CheckpointSeconds = Annotated[
    float | None,
    typer.Option(
        "--checkpoint-seconds",
        min=0,
        metavar="SECONDS",
        help="How often to save a state that --resume can go on from; 0 never.",
        show_default="10",
    ),
]
Tracker = Annotated[
    str,
    typer.Option(
        "--tracker",
        help="What follows objects: lite, propagate, fused; with --model also reference, prompt-memory; flow, copy.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|PATH", help="A SEEM model or its file, for trackers that can use one."),
]


class DecoderChoice(StrEnum):
    """Use of a model's decoder, see `trackers.build_tracker`."""

    auto = "auto"
    on = "on"
    off = "off"


UseDecoder = Annotated[
    DecoderChoice, typer.Option("--decoder", help="Whether fused uses the model's decoder; auto: if it is trained.")
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Reference as SEEM's demo published it: 5 frames per second, encoded at a short side of 512.",
    ),
]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="Work on a smaller image with less memory: about twice as fast, and less exact."),
]
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
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Largest picture, mask or video frame that is read (width x height); guards against false headers.",
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

DEFAULT_MAX_PIXELS = 8192 * 8192  # that of vos.picture_limit, which is not loaded to show the help

WHAT = ("masks", "overlay", "contact")


def save_list(text: str, what: tuple[str, ...] = WHAT) -> frozenset[str]:
    """The parts named by ``--save``, comma-separated. Raises a usage error for anything else."""
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts or parts - set(what):
        wrong = ", ".join(sorted(parts - set(what))) or "nothing"
        raise typer.BadParameter(f"--save takes a list of {', '.join(what)}, not {wrong}")
    return parts
