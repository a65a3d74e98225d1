"""``vos segment``: SEEM on one picture; points, strokes, boxes, masks, references or words in, masks out, in rounds."""

from __future__ import annotations

import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, warn
from cli.options import (
    DEFAULT_MAX_PIXELS,
    Device,
    Json,
    MaskFormat,
    MaskKind,
    MaxPixels,
    OnDevice,
    Overwrite,
    Quiet,
    ReferenceMasks,
    References,
    ScribbleWidth,
    Several,
    Threads,
)

if TYPE_CHECKING:
    from seem_core.geometry import InputSize
    from seem_core.prompts import Prompt
    from vos.prompts import TimedPrompt


class PrecisionChoice(StrEnum):
    """Of the image encoder and of the decoder's products; heads, softmax and norms are always fp32."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class QueryChoice(StrEnum):
    """Which queries answer where an object has marks and words."""

    auto = "auto"
    object = "object"
    text = "text"
    visual = "visual"


Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")]
Points = Annotated[
    Several, typer.Option("--point", "-p", metavar="X,Y[:+|-][#ID]", help="A click on the object; :- beside it.")
]
Boxes = Annotated[Several, typer.Option("--box", "-b", metavar="X0,Y0,X1,Y1[#ID]", help="A box around the object.")]
Scribbles = Annotated[
    Several, typer.Option("--scribble", "-s", metavar="X,Y,X,Y,...[:+|-][#ID]", help="A stroke through these points.")
]
Polygons = Annotated[
    Several, typer.Option("--polygon", metavar="X,Y,X,Y,...[:+|-][#ID]", help="An area by its corners.")
]
Masks = Annotated[
    Several, typer.Option("--mask", "-m", metavar="PATH[#ID]", help="Mask of the object(s) on the picture.")
]
Words = Annotated[Several, typer.Option("--text", "-t", metavar="WORDS[#ID]", help="The object in words.")]
Panoptic = Annotated[bool, typer.Option("--panoptic", help="Segment everything, without prompts.")]
Classes = Annotated[
    str | None,
    typer.Option("--vocabulary", metavar='"A,B,..."', help="Classes to tell apart; by default the model's."),
]
Answer = Annotated[
    QueryChoice, typer.Option("--output-query", help="Which queries answer where there are marks and words.")
]
Previous = Annotated[
    Path | None, typer.Option("--previous", metavar="PATH", help="masks.png of a round before, to be corrected.")
]
Rounds = Annotated[list[Path] | None, typer.Option("--round", metavar="FILE.json", help="Prompts of one more round.")]
SeemModel = Annotated[
    str, typer.Option("--model", metavar="NAME|PATH", help="A name of 'vos models list' or a converted file.")
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="SHORT[xLONG]", help="Short side of the encoded picture, and a cap on the long one."
    ),
]
Precision = Annotated[PrecisionChoice, typer.Option("--precision", help="Of image encoder and decoder.")]
OutFolder = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.", show_default="NAME_seem")
]


def segment(
    image: Picture,
    point: Points = None,
    box: Boxes = None,
    scribble: Scribbles = None,
    width: ScribbleWidth = 3.0,
    polygon: Polygons = None,
    mask: Masks = None,
    text: Words = None,
    reference: References = None,
    reference_mask: ReferenceMasks = None,
    panoptic: Panoptic = False,
    vocabulary: Classes = None,
    output_query: Answer = QueryChoice.auto,
    previous: Previous = None,
    round_files: Rounds = None,
    model: SeemModel = "seem-focal-t-v0",
    size: Size = None,
    precision: Precision = PrecisionChoice.fp32,
    device: OnDevice = Device.auto,
    threads: Threads = None,
    mask_format: MaskFormat = MaskKind.auto,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    out: OutFolder = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Segment objects of one picture with SEEM, by any prompts, in rounds.

    All kinds of prompts may be given several times and together. # says which object; without it, object 1. Negative
    marks (:-) say what the object is not. Prompts on the command line are the first round; every --round file adds one:
    prompts add up, and each round reads the masks of the round before (models of routing demo go by the prompts alone).

    A round file is a file of prompts, as of vos track --prompts, without moments; also a labelme file, COCO annotations
    or DAVIS scribbles. docs/prompts.md describes them, vos track --prompts-schema prints the schema. Paths in it are
    relative to the file.

    The folder gets masks.png (palette PNG, one value per object), overlay.png (positive marks green, negative blue) and
    segments.json (score, area, box and class of each object, and how every round changed them). Without -o it is called
    after the picture, NAME_seem, in the current folder.
    """
    from vos.prompt_text import parse_mask, parse_prompts, parse_references
    from vos.segment_image import PromptFiles, SegmentOptions, segment_image

    timed = parse_prompts(
        points=point or (), boxes=box or (), scribbles=scribble or (), polygons=polygon or (), texts=text or (),
        width=width,
    )  # fmt: skip
    prompts = list(map(_timeless, timed))
    files = PromptFiles(
        tuple(map(parse_mask, mask or ())),
        parse_references(reference or (), reference_mask or ()),
        tuple(round_files or ()),
        previous,
    )
    options = SegmentOptions(
        model, device.value, _input_size(size), precision.value, output_query.value, _names(vocabulary), panoptic,
        mask_format.value, threads, max_pixels,
    )  # fmt: skip
    folder = out if out is not None else Path(f"{image.resolve().stem}_seem")
    with Progress("class names", quiet=quiet, unit="sentence") as progress:
        summary = segment_image(
            image, folder, prompts, files, options=options, overwrite=overwrite, on_classes=progress
        )
    for line in summary.warnings:
        warn(line)
    if json:
        emit_json(asdict(summary))
    else:
        emit(*summary.made)


def _timeless(timed: TimedPrompt) -> Prompt:
    from seem_core.errors import PromptError
    from vos.prompts import Forget

    if timed.when is not None or isinstance(timed.prompt, Forget):
        raise PromptError("a picture has no frames; leave out @ in prompts")
    return timed.prompt


def _input_size(text: str | None) -> InputSize | None:
    """``512`` or ``800x1333``. Raises a usage error for anything else."""
    from seem_core.geometry import InputSize

    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip())
    short, longest = (int(match[1]), int(match[2]) if match[2] else None) if match else (0, None)
    if short < 32 or (longest is not None and longest < short):
        raise typer.BadParameter(f"--size takes SHORT or SHORTxLONG from 32 pixels on, such as 512x1333, not {text}")
    return InputSize(short, longest)


def _names(text: str | None) -> tuple[str, ...]:
    from seem_core.errors import PromptError

    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise PromptError("the vocabulary is empty; give class names, such as --vocabulary 'cat,dog'")
    return names
