"""``vos batch -n``: the plan of a batch, with what it will take, as a table or as JSON; nothing is tracked."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.batch_progress import duration
from cli.console import Progress, emit, emit_json
from cli.tables import elided, table
from vos.batch.sizes import amount
from vos.wording import printable

if TYPE_CHECKING:
    from vos.batch.estimate import PlanEstimate, VideoEstimate
    from vos.batch.plan import Plan

OTHER_COLUMNS = 61  # width of all columns but the name
LEAST_NAME = 12
HEAD = ("video", "frames", "size", "objects", "time", "memory", "disk")


def print_plan(plan: Plan, *, as_json: bool, workers: int = 1, quiet: bool = False) -> int:
    """Look at all videos of a plan and print what is known. Returns the exit code, 0.

    workers: how many videos will be tracked at once.
    """
    from vos.batch.estimate import estimate_plan

    with Progress("looking at videos", quiet=quiet, unit="video") as progress:
        found = estimate_plan(plan, workers=workers, on_video=progress if len(plan.videos) > 20 else None)
    if as_json:
        emit_json(plan_json(plan, found))
    else:
        emit(*plan_lines(plan, found, shutil.get_terminal_size().columns))
    return 0


def plan_json(plan: Plan, found: PlanEstimate) -> dict[str, object]:
    """``videos`` with their estimates and where results go, ``without_prompt``, ``total``, ``notes``."""
    total = {key: value for key, value in asdict(found).items() if key not in ("videos", "basis")}
    return {
        "videos": [{**asdict(item), "out": job.out} for job, item in zip(plan.videos, found.videos, strict=True)],
        "without_prompt": plan.without_prompt,
        "total": total,
        "basis": found.basis,
        "notes": plan.notes,
    }


def plan_lines(plan: Plan, found: PlanEstimate, width: int) -> Iterator[str]:
    """The plan for a terminal of ``width`` columns."""
    room = max(LEAST_NAME, width - OTHER_COLUMNS)
    texts = list(table(HEAD, [_row(item, room) for item in found.videos]))
    yield texts[0]
    for item, text in zip(found.videos, texts[1:], strict=True):
        yield text
        yield from _wrapped(item.problem, width, "    ")
    yield ""
    if plan.without_prompt:
        one = len(plan.without_prompt) == 1
        yield f"left out, nothing says what to follow in {'it' if one else 'them'}:"
        yield from (f"    {printable(str(path))}" for path in plan.without_prompt)
    for line in (*_total(found), *plan.notes, *found.basis):
        yield from _wrapped(line, width, "")


def _row(item: VideoEstimate, room: int) -> tuple[str, ...]:
    return (
        elided(printable(item.name), room),
        "-" if item.frames is None else f"{item.frames:,}",
        "-" if item.size is None else f"{item.size[1]}x{item.size[0]}",
        "-" if item.objects is None else str(item.objects),
        _time(item),
        "-" if item.memory is None or item.done else amount(item.memory),
        "-" if item.disk is None or item.done else amount(item.disk),
    )


def _time(item: VideoEstimate) -> str:
    if item.done:
        return "done"
    if item.problem:
        return "will fail"
    return "-" if item.seconds is None else duration(max(1.0, item.seconds))


def _total(found: PlanEstimate) -> Iterator[str]:
    count = len(found.videos)
    done, failing = sum(item.done for item in found.videos), len(found.failing)
    text = f"{count} video{'s' * (count != 1)}"
    text += (f", {done} done" if done else "") + (f", {failing} that will fail" if failing else "")
    if done + failing < count:
        text += f": {found.frames:,} frames, about {duration(found.seconds)}, "
        text += f"{amount(found.memory)} of memory with {found.workers} worker{'s' * (found.workers != 1)}"
        text += f", {amount(found.disk)} of disk"
        text += "" if found.disk_free is None else f" ({amount(found.disk_free)} free)"
    yield text
    if found.disk_free is not None and found.disk > found.disk_free:
        yield "the results will not fit on this disk; free some room, or choose less with --save"
    if found.unknown:
        yield f"not in all of these sums: {len(found.unknown)} of which too little is known"


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(printable(text), max(20, width), initial_indent=indent, subsequent_indent=indent)
