"""The engine of one machine: worker processes that each track one video at a time, `LocalEngine`.

    driver -> LocalEngine -> pipe -> worker (vos.batch.worker) -> pipe -> a thread here -> queue -> events()

A worker lives for many videos. One that dies, hangs or takes too much memory costs the video that it had, and is
replaced. Model files are mapped into memory (`seem_core.checkpoint`), so that workers share their pages.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from seem_core.errors import LimitError
from vos.batch.engine import Advanced, Ended, Event
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.resources import cores, memory_bytes, memory_of
from vos.batch.sizes import amount
from vos.batch.stored_video import run_stored
from vos.batch.worker import Ready, Runner, Settings
from vos.batch.worker_process import Gone, WorkerProcess
from vos.device import pick_device

SECONDS_BETWEEN_LOOKS = 0.5  # at the memory of the workers
SECONDS_TO_START = 300.0  # until a worker is ready
STARTS = 3  # workers that die one after the other before they are ready: then none will ever be
SHARE_OF_MEMORY = 0.9  # of the machine's, for all workers together, unless a limit is given

MEMORY_OF_A_VIDEO = 1.5 * 10**9  # what tracking one takes, roughly, with its libraries

logger = logging.getLogger(__name__)


class LocalEngine:
    """Worker processes on this machine; see `vos.batch.engine.Engine`.

    workers     how many videos at a time
    threads     CPU threads of each; None divides the machine's cores between them
    max_memory  bytes that one worker, with the processes it starts, may take for itself; None is its share of the
                machine's. Watched on Linux.
    networks    whether workers load torch before their first video; without, a tracker that computes loads it
    run         what does a job in the worker

    Use it from one thread: on Linux a worker ends with the thread that started it.
    """

    def __init__(
        self,
        workers: int,
        *,
        threads: int | None = None,
        max_memory: int | None = None,
        networks: bool = True,
        run: Runner = run_stored,
    ) -> None:
        if workers < 1:
            raise ValueError(f"at least one worker is needed, not {workers}")
        there = memory_bytes()
        share = None if there is None else int(SHARE_OF_MEMORY * there / workers)
        self._max_memory = max_memory if max_memory is not None else share
        self._settings = Settings("", os.getpid(), threads or max(1, cores() // workers), networks, run)
        self._messages: SimpleQueue[tuple[WorkerProcess, Ready | Event | Gone]] = SimpleQueue()
        self._workers: list[WorkerProcess] = []
        self._ending: dict[str, VideoOutcome] = {}  # videos whose worker was ended by force, and why
        self._started = self._failed_starts = 0
        self._wanted = workers
        self._stopping = self._closed = False
        self._looked = time.monotonic()

    @property
    def free(self) -> int:
        """Workers that wait for a job."""
        return 0 if self._stopping else sum(worker.idle for worker in self._workers)

    def submit(self, job: VideoJob) -> None:
        """Give a job to a worker that waits. Raises ValueError where none does."""
        worker = next((worker for worker in self._workers if worker.idle), None)
        if worker is None or self._stopping:
            raise ValueError("no worker is free; look at `free` first")
        worker.begin(job)

    def events(self, timeout: float) -> Sequence[Event]:
        """See `Engine.events`. The first call starts the workers; raises LimitError where they cannot be started."""
        found: list[Event] = []
        deadline = time.monotonic() + timeout
        while not self._closed:
            self._hire()
            self._watch()
            left = 0.0 if found else min(SECONDS_BETWEEN_LOOKS, deadline - time.monotonic())
            try:
                worker, message = self._messages.get(block=left > 0, timeout=max(left, 0.0))
            except Empty:
                if found or time.monotonic() >= deadline:
                    break
                continue
            found += self._heard(worker, message)
        return found

    def abandon(self, name: str, why: VideoOutcome) -> None:
        """Kill the worker that has this video; nothing happens where none has."""
        worker = next((worker for worker in self._workers if worker.video == name), None)
        if worker is not None and name not in self._ending:
            self._ending[name] = replace(why, frames=worker.frames, seconds=round(worker.seconds, 3))
            worker.kill()

    def stop(self) -> None:
        """Ask every worker to finish its frame."""
        self._stopping = True
        for worker in self._workers:
            if worker.video is not None:
                worker.stop()

    def close(self) -> None:
        """End all workers at once. A video that is not done is left as after a kill."""
        self._closed = True
        for worker in self._workers:
            worker.dismiss()
            if not worker.idle:
                worker.kill()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def _hire(self) -> None:
        """As many workers as were asked for, also in the place of those that ended."""
        while len(self._workers) < self._wanted and not self._stopping:
            self._started += 1
            settings = replace(self._settings, name=f"worker-{self._started}")
            try:
                self._workers.append(WorkerProcess(settings, self._messages))
            except OSError as error:
                raise LimitError(f"worker processes cannot be started ({error}); use fewer --workers") from error

    def _heard(self, worker: WorkerProcess, message: Ready | Event | Gone) -> list[Event]:
        """Keep the books of the workers; what of a message the driver should know."""
        if isinstance(message, Ready):
            self._failed_starts = 0
            worker.ready = True
            return []
        if isinstance(message, Gone):
            return self._replace(worker)
        if message.name != worker.video:
            return []
        if isinstance(message, Advanced):
            worker.frames = message.done
        elif isinstance(message, Ended):
            self._ending.pop(message.name, None)  # it ended by itself in the moment in which it was killed
            worker.video = None
            worker.leaving = message.outcome.outcome == "interrupted"  # it was told to end, by us or by a signal
            if message.outcome.cause == "bug":
                logger.error("%s: %s", message.name, worker.last_words())
        return [message]

    def _replace(self, worker: WorkerProcess) -> list[Event]:
        """A worker has ended, and another one takes its place: the outcome of its video, if it had one."""
        worker.wait()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise LimitError(f"worker processes cannot be started ({_why(worker)}); use fewer --workers")
        if worker.video is None:
            return []
        name = worker.video
        lost = VideoOutcome(
            name, "failed", worker.frames, round(worker.seconds, 3), "crash", f"its worker process died: {_why(worker)}"
        )
        return [Ended(name, self._ending.pop(name, lost))]

    def _watch(self) -> None:
        """End what takes more memory than it may, and workers that do not get ready."""
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        for worker in self._workers:
            if not worker.ready and worker.age > SECONDS_TO_START:
                worker.kill()
            name, most = worker.video, self._max_memory
            if name is None or most is None:
                continue
            held = memory_of(worker.pid)
            if held is not None and held > most:
                what = f"took {amount(held)} of memory, where one video may take {amount(most)}"
                how = "give more by --max-memory, fewer --workers or a smaller --max-side"
                self.abandon(name, VideoOutcome(name, "failed", cause="limit", message=f"{what}; {how}"))


def default_workers(device: str) -> int:
    """How many videos at a time suit this machine: one per GPU where ``device`` is one, else one per core, as far as
    there is memory for them. Raises DeviceError for a device that is not there."""
    if device != "cpu" and pick_device(device) != "cpu":
        return 1
    there = memory_bytes()
    fits = cores() if there is None else int(SHARE_OF_MEMORY * there / MEMORY_OF_A_VIDEO)
    return max(1, min(cores(), fits))


def _why(worker: WorkerProcess) -> str:
    """How a process ended, and the last thing that it said."""
    code = worker.code
    if code is None:
        return "it closed its pipe"
    how = f"exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
        if -code == getattr(signal, "SIGKILL", 9):
            how += ", as the system does when memory runs out"
    words = worker.last_words().splitlines()
    fatal = [line for line in words if line.startswith("Fatal Python error")]
    said = fatal or ([] if code < 0 else words[-1:])
    return f"{how}; {said[0]}" if said else how
