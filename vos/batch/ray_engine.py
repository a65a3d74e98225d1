"""The engine of a Ray cluster: one actor per GPU, or per so many cores, that each track one video at a time.

    driver -> RayEngine -> actor (vos.batch.ray_worker) -> results folder, on storage that all nodes share or at a URL

Actors are asked for up to the number of workers. Those for which the cluster has no room stay pending, which is what an
autoscaler goes by, and a job is given to an actor only once that has started: ``free`` counts actors that wait. An
actor that ends, with its process or its node, costs the video that it had, and this engine asks for another one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seem_core.errors import InputError, LimitError
from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.job_paths import with_inputs
from vos.batch.ray_cluster import Cluster
from vos.batch.ray_worker import CALLS_AT_ONCE, Hello, News, TrackingWorker
from vos.batch.sizes import amount
from vos.batch.stored_video import run_stored
from vos.batch.urls import url_of
from vos.batch.worker import Runner
from vos.run_record import installed_versions

NEWS_PAUSE, NEWS_WAIT = 0.3, 4.0  # seconds between two answers about one video, and until one comes without news
ANSWER_PATIENCE = 90.0  # seconds without any answer after which an actor, or its node, counts as lost
IDLE_SECONDS = 60.0  # after which an actor that waits is given up, so that its node can go
ROOM_SECONDS = 60.0  # without any actor, after which that is said
STARTS = 3  # actors that cannot start, more than were asked for, one after the other: then none ever will

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Actor:
    """One actor, and the answers that are awaited from it."""

    handle: Any
    hello: Any  # answer that comes when it has started; None after that
    name: str = ""
    job: VideoJob | None = None
    result: Any = None
    news: Any = None
    told: News | None = None
    started: bool = False
    began: float = 0.0  # when it got its job
    since: float = field(default_factory=lambda: time.monotonic())  # of its last answer
    idle_since: float = 0.0

    @property
    def ready(self) -> bool:
        return self.hello is None

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    @property
    def awaited(self) -> list[Any]:
        return [ref for ref in (self.hello, self.result, self.news) if ref is not None]


class RayEngine:
    """Actors on a Ray cluster; see `vos.batch.engine.Engine`.

    workers     how many videos at a time; None: as many as the cluster's GPUs, or its cores divided by ``cores``
    address     of the cluster, HOST:PORT or "auto"; None starts one on this machine
    cores       CPU cores that each actor holds, and the CPU threads that it computes with
    device      as of `TrackOptions`: auto takes one GPU per actor where the cluster has some, cuda always, cpu never
    max_memory  bytes that each actor reserves on its node, and may take for itself
    videos      how many there are to do; no more actors than that are asked for
    run         what does a job in the actor

    seem-vos of the same version must be installed on every node. `events` raises LimitError where no actor can be
    started, InputError where a node has another version; the engine is of no use then.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        cores: int = 1,
        device: str = "auto",
        max_memory: int | None = None,
        videos: int | None = None,
        run: Runner = run_stored,
    ) -> None:
        for what, value in (("workers", workers), ("cores", cores), ("videos", videos)):
            if value is not None and value < 1:
                raise ValueError(f"at least one of {what} is needed, not {value}")
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device {device} is one of one machine; on a Ray cluster give auto, cpu or cuda")
        self._cluster = Cluster.join(address)
        there = self._cluster.resources()
        gpus = int(there.get("GPU", 0)) if device != "cpu" else 0
        on_gpu = gpus > 0 or device == "cuda"
        whole = gpus if on_gpu else int(there.get("CPU", 0)) // cores
        self._most = self._wanted = min(workers or max(1, whole), videos or sys.maxsize)
        self._max_memory = max_memory
        self._arguments = (run, cores)
        self._needs = {"num_cpus": cores, "num_gpus": int(on_gpu), **({"memory": max_memory} if max_memory else {})}
        self._kind = self._cluster.ray.remote(max_restarts=0, max_concurrency=CALLS_AT_ONCE, **self._needs)(
            TrackingWorker
        )
        self._actors: list[_Actor] = []
        self._ended: list[Event] = []
        self._failed_starts = 0
        self._stopping = self._closed = False
        self._last_actor = time.monotonic()  # when there was one last, or that was said
        self._warned: set[str] = set()

    @property
    def free(self) -> int:
        """Actors that have started and wait for a job."""
        return 0 if self._stopping or self._closed else sum(actor.idle for actor in self._actors)

    def submit(self, job: VideoJob) -> None:
        """See `Engine.submit`. Paths are made absolute: they mean the same files on every node."""
        actor = next((actor for actor in self._actors if actor.idle), None)
        if actor is None or self._stopping or self._closed:
            raise ValueError("no worker is free; look at `free` first")
        actor.job, actor.told, actor.started = _absolute(job), None, False
        actor.began = actor.since = time.monotonic()
        actor.result = actor.handle.run.remote(actor.job)
        self._ask(actor)
        if not self.free:
            self._wanted = self._most

    def events(self, timeout: float) -> Sequence[Event]:
        """See `Engine.events`. Raises LimitError, InputError as the class says."""
        if self._closed:
            return []
        self._hire()
        awaited = [ref for actor in self._actors for ref in actor.awaited]
        left = 0.0 if self._ended else max(0.0, timeout)
        if awaited:
            self._cluster.ray.wait(awaited, num_returns=1, timeout=left)
            answered, _ = self._cluster.ray.wait(awaited, num_returns=len(awaited), timeout=0)
            self._hear(set(answered))
        else:
            time.sleep(left)
        self._watch()
        found, self._ended = self._ended, []
        return found

    def abandon(self, name: str, why: VideoOutcome) -> None:
        """Kill the actor that has this video; nothing happens where none has."""
        for actor in [actor for actor in self._actors if actor.job is not None and actor.job.name == name]:
            self._drop(actor, why)

    def stop(self) -> None:
        """Ask every actor to finish its frame; those that are pending or wait are given up."""
        self._stopping = True
        for actor in list(self._actors):
            if actor.job is None:
                self._drop(actor)
            else:
                actor.handle.stop.remote()

    def close(self) -> None:
        """Kill all actors and leave the cluster. A video that is not done is left as after a kill."""
        if self._closed:
            return
        self._closed = True
        for actor in self._actors:
            self._kill(actor)
        self._actors.clear()
        self._cluster.leave()

    def _hire(self) -> None:
        """As many actors as are wanted, also in the place of those that ended."""
        while len(self._actors) < self._wanted and not self._stopping:
            handle = self._kind.remote(*self._arguments)
            self._actors.append(_Actor(handle, handle.hello.remote()))

    def _ask(self, actor: _Actor) -> None:
        """Have the actor tell how far it is when there is news; less often where there are many to ask."""
        known = -1 if actor.told is None else actor.told.number
        pause = NEWS_PAUSE * max(1.0, len(self._actors) / 64)
        actor.news = actor.handle.news.remote(known, pause, NEWS_WAIT)

    def _hear(self, answered: set[Any]) -> None:
        for actor in list(self._actors):
            if not any(ref in answered for ref in actor.awaited):
                continue
            try:
                if actor.hello in answered:
                    self._welcome(actor, self._cluster.ray.get(actor.hello))
                if actor.result in answered:
                    self._finish(actor, self._cluster.ray.get(actor.result))
                if actor.news in answered:
                    self._advance(actor, self._cluster.ray.get(actor.news))
            except self._cluster.ray.exceptions.RayError as error:
                self._lose(actor, error)

    def _welcome(self, actor: _Actor, hello: Hello) -> None:
        ours = installed_versions()
        name = "seem-vos"
        if hello.versions.get(name) != ours.get(name):
            raise InputError(
                f"{hello.worker} has {name} {hello.versions.get(name)} and this machine {ours.get(name)}; install the "
                "same version on every node"
            )
        for other in [key for key in ours if key != name and hello.versions.get(key) != ours[key]]:
            self._warn(
                f"{hello.worker.partition(':')[0]} has {other} {hello.versions.get(other)} and this machine "
                f"{ours[other]}; masks may differ in a few pixels from node to node"
            )
        actor.hello, actor.name = None, hello.worker
        actor.since = actor.idle_since = time.monotonic()
        self._failed_starts = 0

    def _advance(self, actor: _Actor, news: News) -> None:
        before, actor.told, actor.since = actor.told, news, time.monotonic()
        actor.news = None
        if actor.job is None:
            return
        if news.begun:
            self._start(actor)
            if before is None or news.number != before.number:
                self._ended.append(Advanced(actor.job.name, news.done, news.total))
        most = self._max_memory
        if most is not None and news.memory is not None and news.memory > most:
            what = f"took {amount(news.memory)} of memory, where one video may take {amount(most)}"
            message = f"{what}; give more by --max-memory, or a smaller --max-side"
            self._drop(actor, VideoOutcome(actor.job.name, "failed", cause="limit", message=message))
            return
        self._ask(actor)

    def _start(self, actor: _Actor) -> None:
        if not actor.started and actor.job is not None:
            actor.started = True
            self._ended.append(Started(actor.job.name, actor.name))

    def _finish(self, actor: _Actor, outcome: VideoOutcome) -> None:
        self._start(actor)
        if actor.job is not None:
            self._ended.append(Ended(actor.job.name, outcome))
        actor.job = actor.result = actor.news = None
        actor.since = actor.idle_since = time.monotonic()
        if self._stopping:
            self._drop(actor)

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """An actor, or its node, is gone; or it could not do what it was asked for, which it will not do again."""
        if actor.ready:
            cause = "bug" if isinstance(error, self._cluster.ray.exceptions.RayTaskError) else "crash"
            self._drop(actor, self._outcome(actor, cause, f"its worker {actor.name} {_why(error)}"))
            return
        self._drop(actor)
        self._failed_starts += 1
        if self._failed_starts >= STARTS + self._most:
            raise LimitError(
                f"no worker can be started on the Ray cluster (it {_why(error)}); is seem-vos installed on every node?"
            )

    def _watch(self) -> None:
        """Give up actors that do not answer, and those that wait for nothing; say where there is no room for any."""
        now = time.monotonic()
        for actor in list(self._actors):
            if actor.job is not None and now - actor.since > ANSWER_PATIENCE:
                message = f"its worker {actor.name} has not answered for {ANSWER_PATIENCE:.0f} seconds"
                self._drop(actor, self._outcome(actor, "crash", message))
        waiting = [actor for actor in self._actors if actor.idle and now - actor.idle_since > IDLE_SECONDS]
        for actor in waiting + ([actor for actor in self._actors if not actor.ready] if waiting else []):
            if len(self._actors) > 1:
                self._drop(actor)
                self._wanted = max(1, len(self._actors))
        if self._stopping or any(actor.ready for actor in self._actors):
            self._last_actor = now
        elif now - self._last_actor > ROOM_SECONDS:
            self._last_actor = now
            needs = ", ".join(f"{name} {value}" for name, value in self._needs.items() if value)
            self._warn(f"no worker has started on the Ray cluster, where each needs {needs}; waiting until one has")

    def _outcome(self, actor: _Actor, cause: str, message: str) -> VideoOutcome:
        name = actor.job.name if actor.job is not None else ""
        return VideoOutcome(name, "failed", cause=cause, message=message)  # type: ignore[arg-type]

    def _drop(self, actor: _Actor, why: VideoOutcome | None = None) -> None:
        """End an actor, and say why its video ended, if it had one."""
        if actor.job is not None and why is not None:
            frames = actor.told.done if actor.told is not None else 0
            seconds = round(time.monotonic() - actor.began, 3)
            self._ended.append(Ended(actor.job.name, replace(why, frames=frames, seconds=seconds)))
        actor.job = actor.hello = actor.result = actor.news = None
        self._actors.remove(actor)
        self._kill(actor)

    def _kill(self, actor: _Actor) -> None:
        try:
            self._cluster.ray.kill(actor.handle, no_restart=True)
        except Exception as error:  # Ray has lost it already
            logger.debug("killing %s: %s", actor.name, error)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s", message)


def _absolute(job: VideoJob) -> VideoJob:
    def absolute(path: Path) -> Path:
        return path if url_of(path) is not None else path.absolute()

    return replace(with_inputs(job, absolute), out=absolute(job.out))


def _why(error: Exception) -> str:
    """What became of an actor, in a few words; Ray's own are many."""
    text = str(error)
    if "node has died" in text or "node was terminated" in text:
        return "was lost with its node"
    if "unavailable" in text:
        return "was lost: the connection to it broke"
    if "memory" in text and "out of" in text.lower().replace("-", " "):
        return "was ended by Ray, because its node ran out of memory"
    told = list(_lines(text))
    return f"died ({told[-1]})" if told else f"died ({type(error).__name__})"


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())
