"""``vos batch`` as a process of its own that tells what happens, and what a quiet run would have left."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = "import sys, cli.main; sys.exit(cli.main.run(sys.argv[1:]))"
COPY = ("--tracker", "copy", "--save", "masks", "--workers", "1")
BOUND = 300.0  # seconds after which a run is ended, so that no test hangs


class BatchRun:
    """A running ``vos batch``; its events are read from its log."""

    def __init__(self, arguments: Sequence[str], code: str = RUN) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "batch", *arguments, "--log-format", "json"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape",
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self.other: list[str] = []  # lines that are no events
        self._ended: tuple[int, str] | None = None
        self._watchdog = threading.Timer(BOUND, self.process.kill)
        self._watchdog.start()

    def until(self, kind: str, video: str | None = None) -> dict[str, Any]:
        """Read on to an event."""
        for event in self._read():
            if event["event"] == kind and video in (None, event.get("video")):
                return event
        raise AssertionError(f"no event {kind} of {video}: {self.events[-3:]} {self.other}")

    def finish(self) -> tuple[int, str]:
        """Exit code and standard output; again, where it was asked before."""
        if self._ended is None:
            for _ in self._read():
                pass
            assert self.process.stdout is not None
            with self.process.stdout as pipe:
                out = pipe.read()
            self._ended = self.process.wait(), out
            assert self.process.stderr is not None
            self.process.stderr.close()
            self._watchdog.cancel()
        return self._ended

    def workers(self) -> list[int]:
        """Process ids of its workers (Linux)."""
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def finished(self) -> list[str]:
        """Videos that this run brought to their end, with how that was."""
        return [f"{e['video']} {e['state']}" for e in self.events if e["event"] == "finished"]

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not line.startswith("{"):
                self.other.append(line)
                continue
            self.events.append(json.loads(line))
            yield self.events[-1]


@contextmanager
def batch_run(*arguments: str, code: str = RUN) -> Iterator[BatchRun]:
    """A run that is ended with the test."""
    run = BatchRun(arguments, code)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.finish()


def run_batch_to_end(*arguments: str, code: str = RUN) -> tuple[int, str, BatchRun]:
    """Exit code, standard output, and what it told."""
    run = BatchRun(arguments, code)
    return *run.finish(), run


def gone(pid: int) -> bool:
    """Whether a process has ended (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def digest(folder: Path) -> str:
    """Of all masks and frames.jsonl of a results folder."""
    found = hashlib.sha256()
    for path in (*sorted((folder / "masks").iterdir()), folder / "frames.jsonl"):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
