"""``vos batch``: many videos with their prompts through the night; in the morning everything is there, or says why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.batch_options import (
    Address,
    BatchOut,
    EngineChoice,
    Inputs,
    LogFormat,
    MaxDisk,
    MaxMemory,
    PlanOnly,
    PromptsFolder,
    Report,
    Stall,
    Tries,
    Truth,
    UseEngine,
    UseLogFormat,
    Workers,
    WorkerThreads,
)
from cli.batch_progress import BatchProgress
from cli.batch_run import EngineOptions, check_truth, local_workers, make_engine, run_plan, write_page
from cli.batch_summary import summary
from cli.console import emit, emit_json
from cli.options import (
    DEFAULT_MAX_PIXELS,
    DecoderChoice,
    Device,
    Direction,
    Fast,
    Json,
    MaskFormat,
    MaskKind,
    MaxPixels,
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
    Tracker,
    UseDecoder,
    UseDirection,
    UseReader,
    save_list,
)

if TYPE_CHECKING:
    from vos.batch.plan import Plan
    from vos.prompt_gathering import GivenPrompt


def batch(
    inputs: Inputs,
    out: BatchOut,
    prompts: PromptsFolder = None,
    text: Texts = None,
    reference: References = None,
    reference_mask: ReferenceMasks = None,
    memory: Memory = None,
    dry_run: PlanOnly = False,
    workers: Workers = None,
    threads: WorkerThreads = None,
    engine: UseEngine = EngineChoice.local,
    address: Address = None,
    tries: Tries = 2,
    stall: Stall = 120.0,
    max_memory: MaxMemory = None,
    max_disk: MaxDisk = None,
    report: Report = False,
    truth: Truth = None,
    tracker: Tracker = "lite",
    model: Model = None,
    decoder: UseDecoder = DecoderChoice.auto,
    fast: Fast = False,
    device: OnDevice = Device.auto,
    direction: UseDirection = Direction.forward,
    max_side: MaxSide = None,
    save: Save = "masks,overlay,contact",
    reader: UseReader = Reader.pyav,
    mask_format: MaskFormat = MaskKind.auto,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    overwrite: Overwrite = False,
    log_format: UseLogFormat = LogFormat.text,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Track every video of a folder, list or table that has prompts, several at a time, and go on after any stop.

    A folder's videos are paired by name: clip.mp4 with clip.png, the mask of its first frame, or clip.json, a file of
    prompts (vos track --prompts); both may be there, beside it or in --prompts DIR. A table names videos and prompts in
    columns. --text, --reference and --memory say what to follow in every video. See docs/batch.md.

    What is done is never done again; the same command goes on where an earlier one was stopped or killed, and a second
    one on the same folder shares the work. vos status DIR shows how far it is, vos retry DIR tries failed videos again.
    Exit code 6 if any failed, 130 after Ctrl-C (twice: at once), 5 where the disk was getting full.
    """
    from vos.batch.driver import Limits
    from vos.batch.plan import plan_batch
    from vos.batch.sizes import parse_amount
    from vos.pipeline import TrackOptions
    from vos.prompt_text import parse_prompts, parse_references

    options = TrackOptions(
        tracker, device.value, max_side=max_side, reader=reader.value, mask_format=mask_format.value,
        direction=direction.value, memory=None if memory is None else str(memory), model=model, decoder=decoder.value,
        fast=fast, max_pixels=max_pixels,
    )  # fmt: skip
    if truth is not None:
        check_truth(out, truth)
    limits = Limits(tries, stall or None, None if max_disk is None else parse_amount(max_disk))
    where = EngineOptions(engine, address, workers, threads, None if max_memory is None else parse_amount(max_memory))
    shared: list[GivenPrompt] = [
        *parse_references(reference or (), reference_mask or ()),
        *parse_prompts(texts=text or ()),
    ]
    plan = plan_batch(
        inputs, out, prompts_folder=prompts, shared=shared, options=options, save=save_list(save), overwrite=overwrite
    )
    progress = BatchProgress(len(plan.videos), quiet=quiet, as_json=log_format is LogFormat.json)
    if dry_run:
        from cli.batch_plan import print_plan

        workers = local_workers(where, options, len(plan.videos))
        return print_plan(plan, as_json=json, workers=workers, quiet=quiet)
    _tell(plan, progress)
    end = run_plan(plan, out, limits, lambda: make_engine(where, options, len(plan.videos)), progress)
    if json:
        emit_json({"videos": [asdict(line) for line in end.lines]})
    else:
        emit(*summary(end.lines, end.seconds, end.frames))
    if report or truth is not None:
        emit(write_page(out, end, truth))
    progress.tell_end(end.counts, end.code, out)
    return end.code


def _tell(plan: Plan, progress: BatchProgress) -> None:
    """What is known to be wrong before anything runs."""
    for line in plan.notes:
        progress.warn(line)
    for problem in plan.problems:
        progress.warn(f"{problem.name}: {problem.message}", video=problem.name, message=problem.message)
    for video in plan.without_prompt:
        how = f"put {video.stem}.png or {video.stem}.json there"
        progress.warn(f"{video} has no prompt beside it and is left out; {how}", video=video, message="no prompt")
