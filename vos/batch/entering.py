"""What becomes of a job that is entered in a ledger, judged from its row, its results folder and its files: `judge`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from seem_core.errors import InputError
from vos.batch.fingerprints import (
    InputHashes,
    changed_from_run,
    changed_inputs,
    changed_settings,
    missing_picture,
    read_settings,
    settings_of,
    signatures_of,
)
from vos.batch.job import VideoJob
from vos.batch.ledger_rows import State, text_of
from vos.run_record import RunRecord

FindRun: TypeAlias = Callable[[VideoJob], RunRecord | None]  # the finished run of a job, wherever its results lie


@dataclass(frozen=True)
class KnownVideo:
    """What the ledger knew of a video before: the columns of its row that a judgement needs.

    stamp    rises with every change of state; a judgement of another stamp is void
    begun    a run of it began, so that its folder may hold a part of its results
    pinned   another live driver runs it, or planned it: what that decided stays
    inputs   role, path and SHA-256 of what the finished run read
    seen     path -> signature of the files when the last run began
    """

    state: State
    stamp: int
    settings: str
    begun: bool
    pinned: bool
    again: str
    inputs: Sequence[Sequence[str]]
    seen: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """The state that a video gets, why results are made anew (``again``, see `LedgerRow`), and what to tell the user.

    run: the finished run that was found in its folder, where the ledger did not know of it
    """

    state: State
    again: str = ""
    why: str = ""
    run: RunRecord | None = None


def known_video(row: sqlite3.Row, others: Collection[int]) -> KnownVideo:
    """What a row of the ledger says. others: numbers of the live drivers besides this one.

    Raises ValueError, TypeError, KeyError or AttributeError where the row does not hold what it should.
    """
    read_settings(row["settings"])
    inputs = [(str(role), str(path), str(digest)) for role, path, digest in json.loads(row["inputs"])]
    pinned = row["planner"] in others or (row["state"] == "running" and row["driver"] in others)
    state: State = "waiting" if row["state"] == "running" and not pinned else row["state"]
    return KnownVideo(
        state, row["stamp"], row["settings"], bool(row["begun"]), pinned, text_of(row["again"]),
        inputs, dict(json.loads(row["seen"]).items()),
    )  # fmt: skip


def refuse_other_settings(
    jobs: Sequence[VideoJob], known: Mapping[str, KnownVideo], settings: Mapping[str, str]
) -> None:
    """Two drivers share the work only where they would do the same. Raises InputError."""
    for job in jobs:
        row = known.get(job.name)
        if row is not None and row.pinned and (told := changed_settings(row.settings, settings[job.name])):
            raise InputError(
                f"another vos batch works on {job.out.parent} with other settings ({job.name}: {told}); "
                "wait for it, give the same settings, or name another folder"
            )


def judge(job: VideoJob, known: KnownVideo | None, hashes: InputHashes, find_run: FindRun) -> Verdict:
    """The state of a job's video on entering. Reads its record; hashes files where it must."""
    if known is None:
        return _judge_new(job, hashes, find_run)
    if known.pinned:
        return Verdict(known.state, known.again)
    if known.state == "done":
        return _judge_done(job, known, hashes, find_run)
    changed = changed_settings(known.settings, settings_of(job))
    if known.state == "failed":
        changed = changed or _changed_since(job, known.seen)
        if job.overwrite and not changed:
            changed = "it is to be overwritten"
        return Verdict("waiting", changed, changed) if changed else Verdict("failed")
    if changed and known.begun:
        return Verdict("waiting", changed, changed)
    return Verdict("waiting", known.again)


def _judge_new(job: VideoJob, hashes: InputHashes, find_run: FindRun) -> Verdict:
    run = find_run(job)
    if run is None or job.overwrite:
        return Verdict("waiting")
    recorded = [(item.role, item.path, item.sha256) for item in run.inputs]
    if differs := changed_from_run(job, run) or changed_inputs(job, recorded, hashes):
        # not this batch's to throw away: tracking refuses and says so, unless the job says overwrite
        return Verdict("waiting", why=f"{job.out} holds a finished run that differs ({differs})")
    if missing := missing_picture(job, run):
        return Verdict("waiting", why=f"{missing} was not made")
    return Verdict("done", run=run)


def _judge_done(job: VideoJob, known: KnownVideo, hashes: InputHashes, find_run: FindRun) -> Verdict:
    if job.overwrite:
        return Verdict("waiting", "it is to be overwritten", "it is to be overwritten")
    run = find_run(job)
    if run is None:
        return Verdict("waiting", why="its results are gone")
    named = [path for _, path in read_settings(known.settings).files]
    changed = changed_settings(known.settings, settings_of(job)) or changed_inputs(job, known.inputs, hashes, named)
    if changed:
        return Verdict("waiting", changed, changed)
    missing = missing_picture(job, run)
    return Verdict("waiting", why=f"{missing} was not made") if missing else Verdict("done")


def _changed_since(job: VideoJob, seen: dict[str, str]) -> str:
    """Which file of a failed video is not as it was when that run began, in words."""
    for path, signature in signatures_of(job).items():
        if path in seen and seen[path] != (signature.text if signature else ""):
            return f"{Path(path).name} changed"
    return ""
