"""A worker of the Ray engine: the process of one actor, which tracks one video at a time (`TrackingWorker`).

Jobs, outcomes and figures travel, each a few hundred bytes of our own plain data; frames and masks never leave the
worker but for the results folder. Ray calls `run` on one thread and the other methods on others, so that a worker that
computes still answers.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.resources import memory_of
from vos.batch.urls import url_of
from vos.batch.worker import Runner
from vos.folder_lock import is_locked
from vos.run_record import installed_versions

CALLS_AT_ONCE = 4  # `run`, `news`, `stop`, and one more
LOCK_PATIENCE = 60.0  # seconds that a worker whose node is lost may take to end
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Hello:
    """Who a worker is: host and process, and the versions of what decides about the masks."""

    worker: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class News:
    """What a worker is at.

    begun   it has begun with its job; done, total: frames of it
    number  of changes until now; memory: bytes that its process holds for itself, None where that is not known
    """

    begun: bool
    done: int
    total: int
    number: int
    memory: int | None


class TrackingWorker:
    """An actor's body. ``threads``: CPU threads of each video; ``run`` does a job."""

    def __init__(self, run: Runner, threads: int) -> None:
        _end_with_parent()
        self._run, self._threads = run, threads
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._begun, self._done, self._total, self._number = False, 0, 0, 0
        import torch  # noqa: F401 - loaded now, so that it counts for no video

        import vos.video  # noqa: F401

    def hello(self) -> Hello:
        """Answers once the worker has started."""
        return Hello(f"{socket.gethostname().partition('.')[0]}:{os.getpid()}", installed_versions())

    def run(self, job: VideoJob) -> VideoOutcome:
        """Do a job. Whatever goes wrong with it is in the outcome."""
        from vos.device import tune_process

        tune_process(self._threads)  # a thread of its own has its own figure
        self._tell(True, 0, 0)
        try:
            if url_of(job.out) is None:
                _await_lock(job, self._stop)
            return self._run(job, on_progress=lambda done, total: self._tell(True, done, total), stop=self._stop)
        finally:
            self._tell(False, 0, 0)

    def news(self, known: int, pause: float, wait: float) -> News:
        """How far the job is: after ``pause`` seconds, and ``wait`` more if nothing changed since change ``known``."""
        deadline = time.monotonic() + pause + wait
        with self._changed:
            self._changed.wait_for(lambda: not self._begun and self._number != known, pause)
            self._changed.wait_for(lambda: self._number != known, max(0.0, deadline - time.monotonic()))
            return News(self._begun, self._done, self._total, self._number, memory_of(os.getpid()))

    def stop(self) -> None:
        """Finish the frame in work, and end the job as interrupted."""
        self._stop.set()

    def _tell(self, begun: bool, done: int, total: int) -> None:
        with self._changed:
            self._begun, self._done, self._total = begun, done, total
            self._number += 1
            self._changed.notify_all()


def _await_lock(job: VideoJob, stop: threading.Event) -> None:
    """Let the worker end that had this video before: one that was killed, or whose node was, may take a moment."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while is_locked(job.out) and time.monotonic() < deadline and not stop.wait(0.2):
        pass


def _end_with_parent() -> None:
    """Let the system kill this process when the node's own process ends, where it can; Ray does in its time."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
