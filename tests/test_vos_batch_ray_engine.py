"""The Ray engine's decisions, on a cluster that is made up: no Ray, no processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seem_core.errors import InputError, LimitError
from vos.batch import ray_engine
from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.ray_cluster import Cluster
from vos.batch.ray_engine import RayEngine
from vos.batch.ray_worker import Hello, News
from vos.run_record import installed_versions


class Lost(Exception):
    """What Ray raises where an actor is gone."""


class TaskFailed(Lost):
    """What Ray raises where a call of an actor raised."""


@dataclass(eq=False)
class Answer:
    """An answer that is awaited, until the test gives it."""

    method: str
    arguments: tuple[Any, ...]
    value: Any = None
    given: bool = False

    def give(self, value: Any) -> None:
        self.value, self.given = value, True


@dataclass(eq=False)
class Handle:
    """An actor; ``asked`` are the calls to it."""

    asked: list[Answer] = field(default_factory=list)
    killed: bool = False

    def __getattr__(self, name: str) -> Any:
        handle = self

        class Method:
            @staticmethod
            def remote(*arguments: Any) -> Answer:
                handle.asked.append(Answer(name, arguments))
                return handle.asked[-1]

        return Method

    def last(self, method: str) -> Answer:
        return [answer for answer in self.asked if answer.method == method][-1]


class MadeUp:
    """Stands for the package and for a cluster of 4 cores and ``gpus``."""

    class exceptions:  # noqa: N801 - Ray's name
        RayError = Lost
        RayTaskError = TaskFailed

    def __init__(self, gpus: int = 0) -> None:
        self.gpus = gpus
        self.actors: list[Handle] = []
        self.options: dict[str, Any] = {}
        self.left = False

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options = options
        made = self.actors

        class Kind:
            @staticmethod
            def remote(*_: Any) -> Handle:
                made.append(Handle())
                return made[-1]

        return lambda _: Kind

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def wait(self, answers: list[Answer], *, num_returns: int, timeout: float) -> tuple[list[Answer], list[Answer]]:
        return [item for item in answers if item.given], [item for item in answers if not item.given]

    def get(self, answer: Answer) -> Any:
        assert answer.given
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value

    def kill(self, actor: Handle, *, no_restart: bool) -> None:
        assert no_restart
        actor.killed = True

    def leave(self) -> None:
        self.left = True


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    made_up = MadeUp()
    monkeypatch.setattr(Cluster, "join", classmethod(lambda cls, address: cls(made_up, made_up.leave)))
    return made_up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The engine's seconds, as the one element of a list."""
    now = [1000.0]
    monkeypatch.setattr(ray_engine, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    return now


def job(name: str) -> VideoJob:
    return VideoJob(name, Path("in") / f"{name}.mp4", Path("out") / name)


def welcome(ray: MadeUp, engine: RayEngine, *which: int, versions: dict[str, str] | None = None) -> Sequence[Event]:
    """Have actors start."""
    engine.events(0)
    for i in which:
        ray.actors[i].last("hello").give(Hello(f"host{i}:1", versions or installed_versions()))
    return engine.events(0)


def test_jobs_go_to_actors_that_have_started(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(3)
    assert engine.free == 0
    welcome(ray, engine, 1)
    assert (len(ray.actors), engine.free) == (3, 1)
    engine.submit(job("a"))
    assert engine.free == 0
    sent = ray.actors[1].last("run").arguments[0]
    assert (sent.video, sent.out) == (Path("in/a.mp4").absolute(), Path("out/a").absolute())
    ray.actors[1].last("news").give(News(True, 3, 9, 5, None))
    assert engine.events(0) == [Started("a", "host1:1"), Advanced("a", 3, 9)]
    ray.actors[1].last("news").give(News(True, 3, 9, 5, None))
    assert engine.events(0) == [], "no news"
    ray.actors[1].last("run").give(VideoOutcome("a", "done", 9))
    assert engine.events(0) == [Ended("a", VideoOutcome("a", "done", 9))]
    assert engine.free == 1


def test_a_video_that_ends_at_once_has_started_before(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(1)
    welcome(ray, engine, 0)
    engine.submit(job("a"))
    ray.actors[0].last("run").give(VideoOutcome("a", "failed", cause="input", message="no"))
    ray.actors[0].last("news").give(Lost("it died right after"))
    assert [type(event) for event in engine.events(0)] == [Started, Ended]


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (Lost("The actor died because its node has died. Node Id: 1"), "crash", "was lost with its node"),
        (Lost("The actor is temporarily unavailable: RPC error"), "crash", "the connection to it broke"),
        (Lost("Task was killed due to the node running low on memory (out of memory)"), "crash", "ran out of memory"),
        (Lost("Worker exit type: SYSTEM_ERROR\n  exit code -9\n"), "crash", "died (exit code -9)"),
        (TaskFailed("ImportError: no module x"), "bug", "ImportError: no module x"),
    ],
)
def test_an_actor_that_is_lost_costs_its_video(
    ray: MadeUp, clock: list[float], error: Exception, cause: str, words: str
) -> None:
    engine = RayEngine(2)
    welcome(ray, engine, 0)
    engine.submit(job("a"))
    ray.actors[0].last("news").give(News(True, 4, 9, 5, None))
    engine.events(0)
    clock[0] += 5
    for answer in (ray.actors[0].last("run"), ray.actors[0].last("news")):
        answer.give(error)
    (ended,) = engine.events(0)
    assert isinstance(ended, Ended)
    assert (ended.outcome.cause, ended.outcome.frames, ended.outcome.seconds) == (cause, 4, 5.0)
    assert words in ended.outcome.message
    assert ray.actors[0].killed
    engine.events(0)
    assert len(ray.actors) == 3, "another one is asked for"


def test_an_actor_that_does_not_answer_counts_as_lost(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(1)
    welcome(ray, engine, 0)
    engine.submit(job("a"))
    clock[0] += ray_engine.ANSWER_PATIENCE + 1
    (ended,) = engine.events(0)
    assert isinstance(ended, Ended)
    assert (ended.outcome.cause, "has not answered" in ended.outcome.message) == ("crash", True)
    assert ray.actors[0].killed
    assert engine.events(0) == []


def test_an_abandoned_video_ends_once(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(1)
    welcome(ray, engine, 0)
    engine.submit(job("a"))
    engine.abandon("a", VideoOutcome("a", "failed", cause="stall", message="slow"))
    engine.abandon("a", VideoOutcome("a", "failed", cause="stall", message="slow"))
    ray.actors[0].last("run").give(VideoOutcome("a", "done", 9))
    events = [*engine.events(0), *engine.events(0)]
    assert events == [Ended("a", VideoOutcome("a", "failed", cause="stall", message="slow"))]


def test_too_much_memory_ends_the_video(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(1, max_memory=1000)
    assert ray.options["memory"] == 1000
    welcome(ray, engine, 0)
    engine.submit(job("a"))
    ray.actors[0].last("news").give(News(True, 1, 9, 5, 1001))
    ended = engine.events(0)[-1]
    assert isinstance(ended, Ended)
    assert ended.outcome.cause == "limit"


def test_stopping_asks_those_at_work_and_gives_up_the_others(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(3)
    welcome(ray, engine, 0, 1)
    engine.submit(job("a"))
    engine.stop()
    assert [actor.killed for actor in ray.actors] == [False, True, True]
    assert ray.actors[0].last("stop")
    assert engine.free == 0
    with pytest.raises(ValueError, match="no worker is free"):
        engine.submit(job("b"))
    ray.actors[0].last("run").give(VideoOutcome("a", "interrupted", 4))
    assert engine.events(0)[-1] == Ended("a", VideoOutcome("a", "interrupted", 4))
    engine.events(0)
    assert len(ray.actors) == 3, "no other one is asked for"
    engine.close()
    engine.close()
    assert ray.left


def test_actors_without_work_are_given_up_and_asked_for_again(ray: MadeUp, clock: list[float]) -> None:
    engine = RayEngine(3)
    welcome(ray, engine, 0, 1)
    engine.submit(job("a"))
    clock[0] += ray_engine.IDLE_SECONDS + 1
    ray.actors[0].last("news").give(News(True, 1, 9, 2, None))
    engine.events(0)
    assert [actor.killed for actor in ray.actors] == [False, True, True]
    ray.actors[0].last("run").give(VideoOutcome("a", "done", 9))
    engine.events(0)
    clock[0] += ray_engine.IDLE_SECONDS + 1
    engine.events(0)
    assert engine.free == 1, "one stays: something may come yet"
    engine.submit(job("b"))
    engine.events(0)
    assert len(ray.actors) == 5


def test_where_no_actor_starts_it_is_said_and_in_the_end_raised(
    ray: MadeUp, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    engine = RayEngine(1)
    engine.events(0)
    clock[0] += ray_engine.ROOM_SECONDS + 1
    with caplog.at_level(logging.WARNING):
        engine.events(0)
    assert "no worker has started on the Ray cluster, where each needs num_cpus 1" in caplog.text

    def fail() -> None:
        for _ in range(ray_engine.STARTS + 1):
            ray.actors[-1].last("hello").give(Lost("the creation failed\nModuleNotFoundError: No module named 'vos'"))
            engine.events(0)
            engine.events(0)

    with pytest.raises(LimitError, match=r"No module named 'vos'.*is seem-vos installed on every node"):
        fail()


def test_another_version_on_a_node_is_refused(
    ray: MadeUp, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    engine = RayEngine(2)
    ours = installed_versions()
    with caplog.at_level(logging.WARNING):
        welcome(ray, engine, 0, versions={**ours, "torch": "0.1"})
    assert "host0 has torch 0.1" in caplog.text
    with pytest.raises(InputError, match=r"host1:1 has seem-vos 0\.0\.1 and this machine"):
        welcome(ray, engine, 1, versions={**ours, "seem-vos": "0.0.1"})


@pytest.mark.parametrize(
    ("gpus", "options", "actors", "needs"),
    [
        (0, {}, 4, {"num_cpus": 1, "num_gpus": 0}),
        (0, {"cores": 2}, 2, {"num_cpus": 2, "num_gpus": 0}),
        (0, {"cores": 8}, 1, {"num_cpus": 8, "num_gpus": 0}),
        (2, {}, 2, {"num_cpus": 1, "num_gpus": 1}),
        (2, {"device": "cpu"}, 4, {"num_cpus": 1, "num_gpus": 0}),
        (0, {"device": "cuda"}, 1, {"num_cpus": 1, "num_gpus": 1}),
        (0, {"workers": 9, "videos": 5}, 5, {"num_cpus": 1, "num_gpus": 0}),
        (0, {"videos": 3}, 3, {"num_cpus": 1, "num_gpus": 0}),
    ],
)
def test_what_is_asked_of_the_cluster(
    ray: MadeUp, clock: list[float], gpus: int, options: dict[str, Any], actors: int, needs: dict[str, int]
) -> None:
    ray.gpus = gpus
    engine = RayEngine(**options)
    engine.events(0)
    assert len(ray.actors) == actors
    assert needs.items() <= ray.options.items()
    assert ray.options["max_restarts"] == 0


def test_what_cannot_be_asked_is_refused(ray: MadeUp) -> None:
    with pytest.raises(InputError, match="device cuda:1 is one of one machine"):
        RayEngine(device="cuda:1")
    for wrong in ({"workers": 0}, {"cores": 0}, {"videos": 0}):
        with pytest.raises(ValueError, match="at least one of"):
            RayEngine(**wrong)
