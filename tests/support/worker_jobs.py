"""What workers of a batch do in tests instead of tracking: the name of a job says how it goes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vos.batch.job import VideoJob, VideoOutcome

BLOCK = 64 << 20


def job(name: str, out: Path = Path("out")) -> VideoJob:
    """A job that `play` understands; its results would go to a folder in ``out``."""
    return VideoJob(name, Path(f"{name}.mp4"), out / name)


def play(job: VideoJob, *, on_progress: Callable[[int, int], None], stop: threading.Event) -> VideoOutcome:
    """Three frames and done, or what the name of the job begins with."""
    on_progress(1, 3)
    kind = job.name.rstrip("0123456789")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "fault":
        ctypes.string_at(0)
    elif kind == "exit":
        print("the library gave up", file=sys.stderr)
        os._exit(7)
    elif kind == "hang":
        _hold_the_interpreter()
    elif kind == "wait":
        while not stop.is_set():  # its wait() would deadlock with a signal's handler that sets it
            time.sleep(0.02)
        return VideoOutcome(job.name, "interrupted", 1)
    elif kind == "greedy":
        kept = []
        while not stop.is_set():
            time.sleep(0.05)
            kept.append(b"\1" * BLOCK)
    elif kind == "bug":
        return VideoOutcome(job.name, "failed", cause="bug", message="IndexError: 3")
    elif kind == "noise":
        print("x" * 200_000)
        print("y" * 200_000, file=sys.stderr)
    elif kind == "once":  # dies the first time
        mark = Path(f"{job.out}.tried")
        if not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    on_progress(3, 3)
    return replace(VideoOutcome(job.name, "done", 3, 0.1), message=str(os.getpid()))


def _hold_the_interpreter() -> None:
    """Compute without letting another thread of this process run, as native code may."""
    ctypes.PyDLL(None).sleep(60)


def slow(job: VideoJob, *, on_progress: Callable[[int, int], None], stop: threading.Event) -> VideoOutcome:
    """A frame every 50 ms, 1000 of them, until it is stopped."""
    for frame in range(1, 1001):
        time.sleep(0.05)
        on_progress(frame, 1000)
        if stop.is_set():
            return VideoOutcome(job.name, "interrupted", frame)
    return VideoOutcome(job.name, "done", 1000)
