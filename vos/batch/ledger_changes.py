"""What changes in a video's row when it is entered, taken, or has ended: columns and their new values, and the SQL."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vos.batch.ledger_rows import blob_of

if TYPE_CHECKING:
    from vos.batch.entering import KnownVideo, Verdict
    from vos.batch.job import VideoJob, VideoOutcome
    from vos.run_record import RunRecord

Values = dict[str, Any]
_AFRESH: Values = {"tries": 0, "cause": None, "message": b"", "begun": 0, "frame": 0, "total": 0, "ended": None}


def update(connection: sqlite3.Connection, name: bytes, values: Mapping[str, Any], stamp: int | None = None) -> bool:
    """Set columns of a row; with ``stamp`` only if the row is still of that stamp. Says whether it did."""
    columns = ", ".join(f"{column}=?" for column in values)
    only = "" if stamp is None else " AND stamp=?"
    given = (*values.values(), name, *(() if stamp is None else (stamp,)))
    return connection.execute(f"UPDATE videos SET {columns} WHERE name=?{only}", given).rowcount == 1


def enter(
    connection: sqlite3.Connection,
    job: VideoJob,
    known: KnownVideo | None,
    verdict: Verdict,
    settings: str,
    position: int,
    planner: int,
) -> None:
    """Write what was judged of a job, unless its row has changed since, or came to be."""
    name = os.fsencode(job.name)
    values: Values = {"video": os.fsencode(job.video), "out": os.fsencode(job.out), "settings": settings}
    values |= {"planner": planner, "state": verdict.state, "again": blob_of(verdict.again)}
    if verdict.run is not None:
        values |= finished(verdict.run)
    if known is None:
        columns, marks = ", ".join(("name", "position", *values)), ", ".join("?" * (len(values) + 2))
        connection.execute(
            f"INSERT INTO videos ({columns}) VALUES ({marks}) ON CONFLICT (name) DO NOTHING",
            (name, position, *values.values()),
        )
    elif not known.pinned:
        if verdict.state == "waiting" and (known.state in ("done", "failed") or verdict.again != known.again):
            values |= _AFRESH
        update(connection, name, values | {"stamp": known.stamp + 1}, known.stamp)


def taken(driver: int, pid: int, again: bytes, before: str, stamp: int, started: str) -> Values:
    """A driver claims it. before: the identity of the finished run that its folder holds already."""
    values: Values = {"state": "running", "driver": driver, "pid": pid, "again": again, "before": before, "begun": 1}
    values |= {"stamp": stamp, "started": started, "ended": None, "worker": b""}
    return values | {"first_frame": None, "first_beat": None, "beat": None}


def finished(run: RunRecord) -> Values:
    """Its folder holds a finished run."""
    inputs = json.dumps([(item.role, item.path, item.sha256) for item in run.inputs])
    values: Values = {"state": "done", "again": b"", "cause": None, "message": b"", "driver": None, "inputs": inputs}
    values |= {"frame": run.frames_done, "total": run.frames_done, "seconds": run.seconds, "ended": run.finished}
    return values | {"warnings": json.dumps(run.warnings)}


def ended(row: sqlite3.Row, outcome: VideoOutcome, tries: int, run: RunRecord | None) -> Values:
    """Its run ended. tries: how many runs may fail by a crash or a stall before it has failed."""
    values: Values = {"seconds": outcome.seconds, "warnings": json.dumps(outcome.warnings), "driver": None}
    if outcome.outcome == "interrupted":
        return values | {"state": "waiting"}
    if outcome.outcome == "done":
        values |= {} if run is None else finished(run)
        values |= {"state": "done", "again": b"", "cause": None, "message": b"", "seconds": outcome.seconds}
        return values | {"tries": row["tries"] + 1, "frame": outcome.frames, "total": outcome.frames}
    values |= {"cause": outcome.cause, "message": blob_of(outcome.message)}
    if outcome.cause == "disk":  # nothing is wrong with the video
        return values | {"state": "waiting"}
    count = row["tries"] + 1
    another = outcome.worth_another_try and count < tries
    return values | {"tries": count, "state": "waiting" if another else "failed"}
