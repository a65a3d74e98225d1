"""A worker as its parent sees it: `WorkerProcess`, the process, its pipes, and the video that it has."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO

from vos.batch.engine import Event
from vos.batch.job import VideoJob
from vos.batch.worker import BOOTSTRAP, Order, Ready, Settings

LINES_KEPT = 40  # of what a worker says on standard error
SECONDS_TO_END = 2.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Gone:
    """The process has ended, or ends; it says nothing more."""


class WorkerProcess:
    """Starts a worker; what it tells is put into ``messages`` with it, and `Gone` as the last.

    ready   whether it has told that it waits for jobs; leaving: whether it takes no further one
    video   the name of the one at work, None between two; ``frames`` of it are done
    """

    def __init__(self, settings: Settings, messages: SimpleQueue[tuple[WorkerProcess, Ready | Event | Gone]]) -> None:
        self.name = settings.name
        self.ready, self.leaving, self.frames = False, False, 0
        self.video: str | None = None
        self._began = self._born = time.monotonic()
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        environment = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        environment |= dict.fromkeys(_THREADS, str(settings.threads))
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
        threads = (threading.Thread(target=self._read, args=(messages,), name=f"{self.name} messages", daemon=True),
                   threading.Thread(target=self._read_errors, name=f"{self.name} errors", daemon=True))  # fmt: skip
        self._threads = threads
        for thread in threads:
            thread.start()
        self._send([os.fspath(place) for place in sys.path])
        self._send(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def idle(self) -> bool:
        """Whether a job can begin at once."""
        return self.ready and not self.leaving and self.video is None

    @property
    def age(self) -> float:
        """Wall-clock seconds since it was started."""
        return time.monotonic() - self._born

    @property
    def seconds(self) -> float:
        """Wall-clock time since its video was given to it."""
        return time.monotonic() - self._began

    def begin(self, job: VideoJob) -> None:
        """Give it a job; that it has died meanwhile shows in `Gone`."""
        self.video, self.frames, self._began = job.name, 0, time.monotonic()
        self._said.clear()
        self._send(job)

    def stop(self) -> None:
        """Ask it to finish its frame."""
        self._send("stop")

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def dismiss(self) -> None:
        """Close its input, upon which it ends, whatever it does."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Until it has ended and everything that it said was read; kills it where that takes longer than a moment."""
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:  # they end with the pipes, which a process of the worker's own may keep open
            thread.join(1.0)
        self.dismiss()

    def last_words(self) -> str:
        """The last lines on its standard error since its video began."""
        return "\n".join(self._said)

    def _send(self, order: Order | Settings | list[str]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it is gone
            pickle.dump(order, self._process.stdin)
            self._process.stdin.flush()

    def _read(self, messages: SimpleQueue[tuple[WorkerProcess, Ready | Event | Gone]]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            try:
                while True:
                    messages.put((self, pickle.load(pipe)))
            except Exception:  # the end of the pipe, or half a message of a worker that was killed
                messages.put((self, Gone()))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            for line in _lines(pipe):
                self._said.append(line)


def _lines(pipe: IO[bytes]) -> Iterator[str]:
    """Lines of a pipe, each cut where it is long."""
    while line := pipe.readline(4096):
        yield line.decode(errors="replace").rstrip()
