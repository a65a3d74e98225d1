"""A worker process of the local engine: takes jobs from its standard input, tells what happens on its standard output.

Both carry our own pickled messages between a process and the child that it started itself; nothing that a user gives
is unpickled. Whatever else prints goes to standard error. A worker lives for many videos. It reads its input on a
thread, and where that ends, the parent is gone and so is the worker: within a second or two, whatever it does.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import BinaryIO, Literal, Protocol, TypeAlias

from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome

SECONDS_BETWEEN_REPORTS = 0.2
_PR_SET_PDEATHSIG = 1


class Runner(Protocol):
    """What does a job: `vos.batch.stored_video.run_stored`, or something like it that can be pickled."""

    def __call__(
        self, job: VideoJob, *, on_progress: Callable[[int, int], None], stop: threading.Event
    ) -> VideoOutcome: ...


@dataclass(frozen=True)
class Settings:
    """How a worker is set up, once.

    name      of the worker; parent: the process that started it
    threads   CPU threads for its computation
    networks  whether to load torch before the first job
    run       what does a job
    """

    name: str
    parent: int
    threads: int
    networks: bool
    run: Runner


@dataclass(frozen=True)
class Ready:
    """The worker has loaded what it needs and waits for its first job."""


Message: TypeAlias = Ready | Event
Order: TypeAlias = "VideoJob | Literal['stop']"

# What the child runs before this module: it must look for modules where its parent does.
BOOTSTRAP = (
    "import signal, sys, pickle; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = pickle.load(sys.stdin.buffer); from vos.batch.worker import main; main()"
)


def main() -> None:
    """Serve the parent at the other end of the pipes until there are no more jobs."""
    faulthandler.enable()
    orders, reports = _take_pipes()
    settings: Settings = pickle.load(orders)
    _end_with(settings.parent)
    _load(settings)
    Worker(settings, orders, reports).serve()


class Worker:
    """Does one job after the other; listens meanwhile."""

    def __init__(self, settings: Settings, orders: BinaryIO, reports: BinaryIO) -> None:
        self._settings, self._orders, self._reports = settings, orders, reports
        self._jobs: SimpleQueue[VideoJob] = SimpleQueue()
        self._stop = threading.Event()
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Returns after a SIGTERM, whose video was finished to the frame; otherwise the listener ends the process."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        self._tell(Ready())
        while not self._stop.is_set():
            self._do(self._next())

    def _next(self) -> VideoJob:
        while True:  # with a bound, so that signals are handled while waiting
            with suppress(Empty):
                return self._jobs.get(timeout=1.0)
            if self._stop.is_set():
                raise SystemExit

    def _do(self, job: VideoJob) -> None:
        self._tell(Started(job.name, self._settings.name))
        told, ended = 0.0, False

        def heard(done: int, total: int) -> None:
            nonlocal told, ended
            now = time.monotonic()
            if now - told >= SECONDS_BETWEEN_REPORTS or (done >= total and not ended):
                told, ended = now, done >= total
                self._tell(Advanced(job.name, done, total))

        self._tell(Ended(job.name, self._settings.run(job, on_progress=heard, stop=self._stop)))

    def _listen(self) -> None:
        try:
            while True:
                order: Order = pickle.load(self._orders)
                if order == "stop":
                    self._stop.set()
                else:
                    self._jobs.put(order)
        except EOFError:  # the end of the pipe: nobody is left to work for
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _tell(self, message: Message) -> None:
        try:
            with self._writing:
                pickle.dump(message, self._reports)
                self._reports.flush()
        except OSError:  # the parent is gone
            os._exit(0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes to the parent; afterwards nothing that prints or reads gets between our messages."""
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, reports  # the bootstrap has read from this very buffer


def _end_with(parent: int) -> None:
    """Let the system kill this process when its parent ends, where it can; elsewhere the end of the pipe does."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)
    with suppress(OSError):  # where memory runs out, the system should end the worker and not who replaces it
        Path("/proc/self/oom_score_adj").write_text("500")


def _load(settings: Settings) -> None:
    """Import what every video needs, so that it counts for none, and take the share of the processor."""
    import vos.video  # noqa: F401 - loads the decoders
    from vos.device import tune_process

    if settings.networks:
        import torch

        torch.set_num_interop_threads(1)
    tune_process(settings.threads)
