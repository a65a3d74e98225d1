"""``vos batch``: every video of a folder that has a mask or prompts beside it, one by one, and a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Progress, emit, emit_json, note, stop_on_signal, warn
from cli.main import INTERRUPTED
from cli.options import (
    DecoderChoice,
    Device,
    Json,
    MaskFormat,
    MaskKind,
    MaxSide,
    Memory,
    Model,
    OnDevice,
    Overwrite,
    Quiet,
    Reader,
    ReferenceMasks,
    References,
    Save,
    Texts,
    Threads,
    Tracker,
    UseDecoder,
    UseReader,
    save_list,
)
from cli.tables import table

if TYPE_CHECKING:
    from vos.batch.local import VideoOutcome
    from vos.batch.plan import PlannedVideo
    from vos.prompt_gathering import GivenPrompt

SOME_FAILED = 6


def batch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with clip.mp4 (or images in clip/) and clip.png or clip.json."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Gets one folder of results per video.")],
    text: Texts = None,
    reference: References = None,
    reference_mask: ReferenceMasks = None,
    memory: Memory = None,
    tracker: Tracker = "lite",
    model: Model = None,
    decoder: UseDecoder = DecoderChoice.auto,
    device: OnDevice = Device.auto,
    max_side: MaxSide = None,
    threads: Threads = None,
    save: Save = "masks,overlay,contact",
    reader: UseReader = Reader.pyav,
    mask_format: MaskFormat = MaskKind.auto,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Track every video of DIR that has a mask of its first frame, or prompts, beside it: clip.mp4 with clip.png.

    clip.json is a file of prompts, see vos track --prompts; both may be there. --text, --reference and --memory say
    what to follow in every video, also in those with nothing beside them.

    One after the other. A video that cannot be tracked is named, and the next one goes on; one whose results are done
    is left as it is; videos without a mask are listed. A table ends the run. Exit code 6 if any failed.
    """
    from vos.batch.local import run_local
    from vos.batch.plan import plan_folder
    from vos.pipeline import TrackOptions
    from vos.prompt_text import parse_prompts, parse_references

    parts = save_list(save)
    shared: list[GivenPrompt] = [*parse_references(reference or (), reference_mask or ())]
    shared += parse_prompts(texts=text or ())
    options = TrackOptions(
        tracker, device.value, max_side=max_side, reader=reader.value, threads=threads, mask_format=mask_format.value,
        memory=None if memory is None else str(memory), model=model, decoder=decoder.value,
    )  # fmt: skip
    plan = plan_folder(folder, out, every=bool(shared or memory))
    for video in plan.without_prompt:
        warn(f"{video} has no mask beside it and is left out; put {video.stem}.png or {video.stem}.json there")

    outcomes: list[VideoOutcome] = []
    bars: list[Progress] = []

    def bar(item: PlannedVideo) -> Progress:
        bars.append(Progress(item.out.name, quiet=quiet))
        return bars[-1]

    with stop_on_signal() as stop:
        for found in run_local(
            plan, shared, options=options, save=parts, overwrite=overwrite, on_progress=bar, stop=stop
        ):
            while bars:
                bars.pop().close()
            outcomes.append(found)
            for line in found.warnings:
                warn(f"{found.video.name}: {line}")
            if found.message:
                note(f"vos: {found.video.name} failed: {found.message}")
    if json:
        emit_json({"videos": [asdict(item) for item in outcomes], "without_prompt": plan.without_prompt})
    else:
        emit(*_table(outcomes, plan.without_prompt))
    return _code(outcomes)


def _code(outcomes: Sequence[VideoOutcome]) -> int:
    ends = {item.outcome for item in outcomes}
    if "interrupted" in ends or ("not started" in ends and "failed" not in ends):
        return INTERRUPTED
    return SOME_FAILED if "failed" in ends else 0


def _table(outcomes: Sequence[VideoOutcome], without_prompt: Sequence[Path]) -> Iterator[str]:
    rows = [(item.video.name, str(item.outcome), str(item.frames or "-"), _rate(item)) for item in outcomes]
    rows += [(path.name, "no mask", "-", "-") for path in without_prompt]
    messages = ["", *(item.message for item in outcomes), *("" for _ in without_prompt)]
    for line, message in zip(table(("video", "outcome", "frames", "frames/s"), rows, names=2), messages, strict=True):
        yield f"{line}  {message}".rstrip()


def _rate(item: VideoOutcome) -> str:
    return f"{item.frames / item.seconds:.1f}" if item.seconds > 0 and item.frames else "-"
