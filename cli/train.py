"""``vos train``: train the dense reader or SEEM as a JSON file says, pack training data, write first weights."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cli.console import emit, emit_json, note, stop_on_signal
from cli.options import Json, Overwrite, Quiet

if TYPE_CHECKING:
    from seem_core.training.run_settings import Run
    from seem_core.training.seem_task import ClipFunction
    from seem_core.training.train_refiner import PriorFunction

INTERRUPTED = 130


class RunIsDefault(TyperGroup):
    """A group whose command ``run`` need not be named: ``vos train CONFIG.json``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


train = typer.Typer(cls=RunIsDefault, add_completion=False, no_args_is_help=True)


@train.callback()
def _train() -> None:
    """Train as a JSON file says (vos train CONFIG.json), pack data into one file, write first weights.

    The fields of the file are described in docs/training.md.
    """


@train.command("run")
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="What is trained, on what, for how long.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Instead of the file's: log, samples, checkpoint.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Length: of training, all sittings.")] = None,
    within: Annotated[
        float | None, typer.Option("--within", help="Length: minutes that this sitting may take.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Length: steps.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the file's.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto, instead of the file's.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that prepare batches.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads for the computation.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read the file and say what it asks for; train nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int | None:
    """Train until the end; a checkpoint in the folder is taken up. Ctrl-C writes a checkpoint and stops."""
    from seem_core.training.run import read_run, train

    changes = {
        "folder": None if folder is None else str(folder), "minutes": minutes, "within": within, "steps": steps,
        "seed": seed, "device": device, "workers": workers, "threads": threads,
    }  # fmt: skip
    wanted = read_run(config, changes)
    if check:
        _describe(wanted, json)
        return None
    _log_to_stderr(quiet)
    with stop_on_signal() as stop:
        out = train(wanted, stop, _clip_function(wanted), _prior(wanted))
        stopped = stop.is_set()
    if json:
        emit_json({"weights": str(out), "folder": str(wanted.folder), "stopped": stopped})
    else:
        emit(out)
    if stopped:
        note("stopped; the same command goes on from here", quiet=quiet)
    return INTERRUPTED if stopped else None


@train.command("pack")
def pack(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A folder, an instance file, or a JSON file with 'data'.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    still_side: Annotated[int | None, typer.Option("--still-side", help="Short side of stills, pixels.")] = None,
    clip_side: Annotated[int | None, typer.Option("--clip-side", help="Short side of frames of sequences.")] = None,
    max_side: Annotated[int | None, typer.Option("--max-side", help="Long side of both.")] = None,
    still_quality: Annotated[
        int | None, typer.Option("--still-quality", help="WebP quality of stills, 1..100.")
    ] = None,
    clip_quality: Annotated[int | None, typer.Option("--clip-quality", help="WebP quality of frames.")] = None,
    thinning: Annotated[int | None, typer.Option("--thinning", help="Every n-th frame of dense sequences.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make one file of all training pictures and masks; trained from without any other file or video library.

    A folder is recognised by its layout: images/ and masks/, DAVIS, YouTube-VOS, COCO's instance file, or a collection
    of these. What measures are taken on is left out: sequences in ImageSets/dev*.txt, stills in heldback.txt.
    """
    from seem_core.checkpoint import refuse_existing
    from seem_core.training.pack import pack as make_pack
    from seem_core.training.packing import read_sources

    refuse_existing(out, overwrite=overwrite)
    specs, options = read_sources(data)
    given: dict[str, Any] = {
        "still_side": still_side, "clip_side": clip_side, "max_side": max_side, "still_quality": still_quality,
        "clip_quality": clip_quality, "thinning": thinning,
    }  # fmt: skip
    note(f"packing {', '.join(str(spec.path) for spec in specs)}", quiet=quiet)
    made = make_pack(specs, out, replace(options, **{k: v for k, v in given.items() if v is not None}))
    facts = {
        "path": str(out), "clips": len(made.clips), "frames": sum(len(clip.frames) for clip in made.clips),
        "classes": len(made.classes), "bytes": out.stat().st_size, "fingerprint": made.fingerprint,
    }  # fmt: skip
    if json:
        emit_json(facts)
    else:
        emit(f"{out}: {facts['clips']} clips, {facts['frames']} frames, {facts['classes']} classes, "
             f"{out.stat().st_size / 1e6:.1f} MB")  # fmt: skip


@train.command("init")
def init(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    model: Annotated[str, typer.Option("--model", help="reader, or the name of a SEEM configuration.")] = "reader",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws what no package carries.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write first weights: of the dense reader with ImageNet's in its trunk, or of a SEEM, all drawn by a seed."""
    from seem_core.checkpoint import refuse_existing
    from seem_core.training.first_weights import write_first_weights

    refuse_existing(out, overwrite=overwrite)
    write_first_weights(model, out, seed)
    emit(out)


def _clip_function(run: Run) -> ClipFunction | None:
    """How a tracker follows masks through a clip, where the run learns from clips in that way."""
    from seem_core.training.train_seem import SeemRun

    if not isinstance(run, SeemRun) or run.training.video is None:
        return None
    from trackers.clip import track_clip

    return track_clip


def _prior(run: Run) -> PriorFunction | None:
    """The tracker that gives masks to make sharp, where the run learns that."""
    from seem_core.training.train_refiner import RefinerRun

    if not isinstance(run, RefinerRun):
        return None
    from trackers.prior_clip import open_clip

    return open_clip


def _describe(run: Run, json: bool) -> None:
    from dataclasses import asdict

    if json:
        emit_json(asdict(run))
        return
    for name, value in vars(run).items():
        emit(f"{name}: {value}")


def _log_to_stderr(quiet: bool) -> None:
    """What a run says of itself while it goes on."""
    if quiet:
        return
    logger = logging.getLogger("seem_core.training")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
