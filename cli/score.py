"""``vos score``: predicted masks against ground truth; J, F and J&F as DAVIS defines them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, warn
from cli.options import Json, Quiet
from cli.tables import figure, table

if TYPE_CHECKING:
    from vos.benchmarks.scores import Scores
    from vos.metrics import Statistics


class ProtocolChoice(StrEnum):
    """The rules of a score; see `vos.benchmarks.protocols`."""

    strict = "strict"
    davis2017 = "davis2017"
    davis2016 = "davis2016"


Protocol = Annotated[
    ProtocolChoice,
    typer.Option(
        "--protocol",
        help="strict: DAVIS-2017 with the official tool's mistakes mended; davis2017: its figures to the last digit; "
        "davis2016: one object, 0 and 255.",
    ),
]
SetName = Annotated[
    str | None,
    typer.Option(
        "--set", metavar="NAME|FILE", help="A list in ImageSets (val, train), or a file with one name a line."
    ),
]
Resolution = Annotated[
    str | None, typer.Option("--resolution", help="Folder below Annotations.", show_default="480p, where there is one")
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="all cores")]


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Folder with a folder of PNG masks per sequence, or a result.")
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="GT", help="A DAVIS root, a folder of annotation folders, or one of these.")
    ],
    protocol: Protocol = ProtocolChoice.strict,
    set_name: SetName = None,
    resolution: Resolution = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Values of each frame, as CSV or, with --json, in it.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a line for each object, all digits, as CSV.")] = False,
    jobs: Jobs = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare PREDICTIONS/<sequence>/<frame>.png with the ground truth GT: J (region), F (contour) and their mean.

    Ground truth may be sparse: frames that have a mask count. The first annotated frame, which was the prompt, is left
    out, and so is the last one of dense ground truth, as DAVIS does. Without --set, the sequences that have predictions
    are scored and a warning names the others. A missing frame, a wrong size, an unknown sequence or an RGB mask ends
    with exit code 3, never with a score.
    """
    if csv and json:
        raise typer.BadParameter("give --json or --csv, not both")
    from vos.benchmarks.layouts import open_layout
    from vos.benchmarks.measure import available_cores
    from vos.benchmarks.scoring import score_predictions

    layout = open_layout(truth, resolution)
    names = layout.set_names(set_name) if set_name is not None else None
    with Progress("scoring", quiet=quiet) as progress:
        scores = score_predictions(
            predictions, layout, protocol=protocol.value, names=names, jobs=jobs or available_cores(), progress=progress
        )
    for text in scores.warnings:
        warn(text)
    if json:
        emit_json({Path(os.path.abspath(predictions)).name: scores.to_json(per_frame=per_frame)})
    elif per_frame:
        emit(scores.per_frame_csv().rstrip("\n"))
    elif csv:
        emit(scores.to_csv().rstrip("\n"))
    else:
        emit(*_lines(scores))


def _lines(scores: Scores) -> Iterator[str]:
    """One row for each object and the mean over them."""
    head = ("sequence", "object", "J&F", "J", "J recall", "J decay", "F", "F recall", "F decay")
    rows = [
        (o.sequence, str(o.object_id), figure(o.j_and_f), *_figures(o.region), *_figures(o.contour))
        for o in scores.objects
    ]
    total = ("mean", f"{len(rows)}", figure(scores.j_and_f), *_figures(scores.region), *_figures(scores.contour))
    yield from table(head, [*rows, total])
    yield ""
    frames = sum(len(o.frames) for o in scores.objects)
    yield f"J&F {scores.j_and_f:.4f} over {len(rows)} objects, {frames} object-frames, protocol {scores.protocol}"


def _figures(s: Statistics) -> tuple[str, str, str]:
    return figure(s.mean), figure(s.recall), figure(s.decay)
