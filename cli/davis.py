"""``vos davis``: trackers over a DAVIS dataset; masks for the official tool, and one table with all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, note, warn
from cli.options import DecoderChoice, Device, Fast, Json, Model, OnDevice, Overwrite, Quiet, Threads, UseDecoder
from cli.score import Jobs, ProtocolChoice, Resolution
from cli.tables import figure, grouped_table

if TYPE_CHECKING:
    from vos.benchmarks.davis import TrackerRun
    from vos.benchmarks.official import Difference

DEFAULT_TRACKERS = ("copy", "flow", "propagate", "lite")


class Year(StrEnum):
    """Which DAVIS; 2016 has one object per sequence, and its own protocol."""

    y2016 = "2016"
    y2017 = "2017"


def davis(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder with JPEGImages, Annotations and ImageSets.")],
    year: Annotated[
        Year | None, typer.Option("--year", help="Lists of that year; 2016 also means one object and its protocol.")
    ] = None,
    set_name: Annotated[
        str, typer.Option("--set", metavar="NAME|FILE", help="A list in ImageSets, or a file with one name a line.")
    ] = "val",
    resolution: Resolution = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker",
            "-t",
            help="A tracker; may be given several times.",
            show_default=", ".join(DEFAULT_TRACKERS) + "; of a reference: propagate, lite",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for masks and scores.",
            show_default="NAME_davis and what is set otherwise, in this folder",
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            metavar="KIND",
            help="What is given of each object: its mask, or a point, box, scribble, polygon or circle made from it, "
            "or reference:K, its mask on frame K shown as a picture.",
        ),
    ] = "mask",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides scribbles, polygons and circled areas.")] = 0,
    model: Model = None,
    decoder: UseDecoder = DecoderChoice.auto,
    fast: Fast = False,
    protocol: Annotated[
        ProtocolChoice | None,
        typer.Option("--protocol", help="Rules of the score, see vos score.", show_default="strict; 2016: davis2016"),
    ] = None,
    device: OnDevice = Device.auto,
    threads: Threads = None,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
    compare_official: Annotated[
        bool, typer.Option("--compare-official", help="Run the installed davis2017 package too, and print differences.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run trackers over the sequences of a set, each prompted with the first mask of every object, and score them.

    Writes OUT/<tracker>/<sequence>/00000.png for every frame, as the official tool and the servers take them, and
    OUT/scores.json, to which later runs with the same settings add their trackers. Frames/s is from image file to mask
    file; peak memory is that of the process that ran only this tracker. Masks may be sparse; an object that is
    annotated later is prompted where it first appears. With --prompt reference:K tracking starts on the first frame all
    the same; that frame counts, and those within 5 of frame K (from 0) do not.
    """
    from vos.benchmarks.davis import run_davis
    from vos.benchmarks.davis_prompts import PromptChoice
    from vos.benchmarks.layouts import open_layout
    from vos.benchmarks.measure import available_cores
    from vos.benchmarks.sequence_tracking import Named

    if compare_official:
        from vos.benchmarks.official import official_evaluation

        official_evaluation()  # says at once, and not after an hour, that it is not there
    choice = PromptChoice.parse(prompt, seed)
    if compare_official and choice.reference is not None:
        raise typer.BadParameter(f"the official tool has no rule for --prompt {prompt}; leave --compare-official out")
    layout = open_layout(root, resolution)
    names = layout.set_names(set_name, year.value if year else None)
    usual = ProtocolChoice.davis2016 if year is Year.y2016 else ProtocolChoice.strict
    rules = protocol or usual
    folder = out or _default_folder(root, [
        Path(set_name).stem if set_name != "val" else "",
        year.value if year else "",
        resolution or "",
        rules.value if rules is not usual else "",
        choice.label.replace(":", "-") if choice.label != "mask" else "",
        f"seed{seed}" if seed and choice.is_random else "",
        Path(model).stem if model else "",
        f"decoder-{decoder.value}" if decoder is not DecoderChoice.auto else "",
        "fast" if fast else "",
    ])  # fmt: skip
    usual_trackers = DEFAULT_TRACKERS if choice.reference is None else ("propagate", "lite")  # the others cannot use it
    workers = jobs or available_cores()
    with _Bars(quiet) as bars:
        runs = run_davis(
            layout, names, tuple(tracker or usual_trackers), folder, protocol=rules.value, prompt=choice,
            device=_device(device), threads=threads, jobs=workers, overwrite=overwrite, progress=bars,
            build=Named(model, decoder.value, fast),
        )  # fmt: skip
    differences: dict[str, tuple[Difference, ...]] = {}
    if compare_official:
        from vos.benchmarks.official import compare_official as compare

        note("scoring again with the official tool", quiet=quiet)
        differences = {run.tracker: compare(run.folder, layout, names, jobs=workers) for run in runs}
    _report(runs, differences, as_json=json)


def _default_folder(root: Path, settings: Sequence[str]) -> Path:
    """A name for the results that no run with other settings has."""
    return Path("_".join(filter(None, [Path(os.path.abspath(root)).name, "davis", *settings])))


def _device(wanted: Device) -> str:
    """Asking what is there loads torch, which the baselines do without."""
    if wanted is Device.cpu:
        return wanted.value
    from vos.device import pick_device

    return pick_device(wanted.value)


class _Bars:
    """A progress bar for each tracker, one after the other."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()
        self._bars: dict[str, Progress] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._stack.close()
            self._bars[what] = self._stack.enter_context(Progress(what, quiet=self._quiet))
        self._bars[what](done, total)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _report(runs: Sequence[TrackerRun], differences: dict[str, tuple[Difference, ...]], *, as_json: bool) -> None:
    for text in dict.fromkeys(f"{run.tracker}: {text}" for run in runs for text in run.scores.warnings):
        warn(text)
    if as_json:
        result = {run.tracker: run.to_json() for run in runs}
        for tracker, figures in differences.items():
            result[tracker]["official"] = {d.figure: {"ours": d.ours, "official": d.official} for d in figures}
        emit_json(result)
        return
    emit(*_table(runs))
    for tracker, figures in differences.items():
        emit(*_difference_lines(tracker, figures))


def _table(runs: Sequence[TrackerRun]) -> Iterator[str]:
    """Sequences down, trackers across; the mean is over objects, as DAVIS takes it."""
    groups = [run.tracker for run in runs]
    head = ("J", "F", "J&F", "frames/s")
    rows = []
    for i, sequence in enumerate(runs[0].scores.sequences):
        cells = [
            (figure(s.J), figure(s.F), figure(s.j_and_f), f"{run.times[i].rate:.1f}")
            for run in runs
            for s in (run.scores.sequences[i],)
        ]
        rows.append((sequence.sequence, cells))
    means = [
        (figure(s.region.mean), figure(s.contour.mean), figure(s.j_and_f), f"{run.rate:.1f}")
        for run in runs
        for s in (run.scores,)
    ]
    count = len(runs[0].scores.objects)
    rows.append((f"mean of {count} object{'s' * (count != 1)}", means))
    rows.append(("peak memory", [("", "", "", _bytes(run.peak.resident)) for run in runs]))
    if any(run.peak.device is not None for run in runs):
        rows.append(("peak device memory", [("", "", "", _bytes(run.peak.device)) for run in runs]))
    yield from grouped_table("sequence", groups, head, rows)


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.0f} MB"


def _difference_lines(tracker: str, figures: Sequence[Difference]) -> Iterator[str]:
    """The largest differences to the official tool, or that there is none."""
    apart = sorted((d for d in figures if not d.size <= 1e-9), key=lambda d: -d.size)  # not a number counts as apart
    yield f"{tracker}: {len(figures) - len(apart)} of {len(figures)} figures equal the official tool's to 1e-9"
    for d in apart[:20]:
        yield f"  {d.figure}: ours {d.ours:.12g}, official {d.official:.12g}"
