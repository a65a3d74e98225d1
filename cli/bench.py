"""``vos bench``: what a segmenter needs of its user; ``interactive`` counts clicks and other marks."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, warn
from cli.options import Device, Json, OnDevice, Quiet, Threads
from cli.tables import figure, table

if TYPE_CHECKING:
    from vos.benchmarks.interactive import InteractiveRun

_PER_ROW = 5  # rounds


class MarkChoice(StrEnum):
    """How the simulated user marks an object first; see `seem_core.training.strokes.MarkKind`."""

    point = "point"
    box = "box"
    scribble = "scribble"
    polygon = "polygon"
    circle = "circle"


bench = typer.Typer(add_completion=False, no_args_is_help=True)


@bench.callback()
def _bench() -> None:
    """Measure segmenters on pictures whose objects have masks."""


@bench.command("interactive")
def interactive(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="ROOT|LIST", help="Folder with images/NAME.jpg and masks/NAME.png, or a list of FOLDER/NAME ID."
        ),
    ],
    prompt: Annotated[MarkChoice, typer.Option("--prompt", help="The first mark; all later ones are clicks.")] = (
        MarkChoice.point
    ),
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Rounds, and the cap of NoC.")] = 20,
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME|PATH", help="A SEEM model or its file; or grabcut, oracle, empty."),
    ] = "grabcut",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many objects, the first.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides scribbles, polygons and circled areas.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw IoU over rounds; needs matplotlib.")
    ] = None,
    device: OnDevice = Device.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Let a simulated user mark every object and correct the masks, and print how fast they become good.

    1-IoU is the mean IoU after the first mark. NoC85 is the mean number of marks until IoU 0.85; an object that does
    not get there counts as --rounds, and in NoF85. 5-NoC85 is the same with at most 5 marks. Every later mark is a
    click where the larger error is deepest; no click is made from IoU 0.925 on. oracle answers with the truth, empty
    with nothing: the ends of the scale.
    """
    from seem_core.training.strokes import MarkKind
    from vos.benchmarks.interactive import run_interactive
    from vos.benchmarks.predictors import build_predictor
    from vos.benchmarks.stills import list_objects
    from vos.device import tune_process

    if plot is not None:
        from vos.benchmarks.interactive_plot import check_plotting

        check_plotting()  # says at once, and not after an hour, that it is not there
    objects = list_objects(data, limit)
    predictor, warnings = build_predictor(model, device.value)
    for text in warnings:
        warn(text)
    tune_process(threads)
    with Progress(f"{predictor.name}, {prompt.value}", quiet=quiet, unit="object") as progress:
        run = run_interactive(
            objects, predictor, MarkKind(prompt.value), rounds=rounds, seed=seed, progress=progress
        )  # fmt: skip
    if run.left_out:
        count = len(run.left_out)
        warn(f"{count} object{'s' * (count != 1)} too small to be marked left out, such as {run.left_out[0].label}")
    if plot is not None:
        from vos.benchmarks.interactive_plot import plot_rounds

        plot_rounds(run, plot)
    if json:
        emit_json(run.to_json())
    else:
        emit(*_lines(run))


def _lines(run: InteractiveRun) -> Iterator[str]:
    """1-IoU and NoC in one row, then mean IoU after rounds 1, 2, ..."""
    scores = run.scores
    names = [f"NoC{100 * t:g}" for t in scores.clicks]
    head = ("model", "prompt", "objects", "1-IoU", *names, *(name.replace("NoC", "NoF") for name in names), "s/round")
    clicks = [f"{value:.2f}" for value in scores.clicks.values()]
    failures = [str(count) for count in scores.failures.values()]
    seconds = f"{run.seconds / max(run.predictions, 1):.3f}"
    row = (run.predictor, run.kind.value, str(scores.objects), figure(scores.first_iou), *clicks, *failures, seconds)
    yield from table(head, [row], names=2)
    yield ""
    capped = list(scores.capped.items())
    for first in range(0, len(capped), len(scores.clicks)):  # a line for each cap
        yield "  ".join(f"{name} {value:.2f}" for name, value in capped[first : first + len(scores.clicks)])
    if scores.capped:
        yield ""
    for first in range(0, scores.rounds, _PER_ROW):
        some = scores.per_round[first : first + _PER_ROW]
        last = first + len(some)
        yield f"IoU after round {first + 1:>2}..{last:<2}  " + "  ".join(map(figure, some))
