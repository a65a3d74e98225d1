"""The Ray engine on a cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip, write_mask
from s3 import s3_server
from support import require

from seem_core.errors import InputError
from vos.batch import ray_engine
from vos.batch.engine import Advanced, Ended, Event, Started
from vos.batch.job import VideoJob, VideoOutcome, run_video
from vos.batch.ray_engine import RayEngine
from vos.batch.storage import open_storage
from vos.batch.transfer import upload
from vos.batch.urls import open_store
from vos.pipeline import TrackOptions

pytestmark = [pytest.mark.slow]

PATIENCE = 180.0  # seconds that anything here may take on a busy machine
STORE = 80 << 20  # bytes of shared memory of a node
# A dead node is noticed within seconds, and one that is merely slow is not taken for dead.
HEALTH = {
    "health_check_initial_delay_ms": 3000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
# Nothing is sent out; a node may take its time to start; and it starts no processes that nobody asked for.
ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
}


class TwoNodes:
    """A cluster whose nodes have one CPU core each; ``url`` is a store that they reach."""

    def __init__(self, url: str) -> None:
        from ray.cluster_utils import Cluster

        self.url = url
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "_system_config": HEALTH}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.node: Any = None
        self._engine: RayEngine | None = None

    def engine(self, waiting: int = 2) -> RayEngine:
        """One engine for many tests, as its workers take a while to start, with so many that wait for jobs."""
        if waiting == 2 and self.node is None:
            self.node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE)
        if self._engine is None:
            self._engine = RayEngine(3, address=self.cluster.address)  # there is room for two: one stays pending
        running = self._engine
        until(running, lambda: running.free >= waiting, [])
        return running

    def close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def kill_node(self) -> None:
        """As when a machine is switched off: nothing of the node says good-bye."""
        for process in [process for kind in self.node.all_processes.values() for process in kind]:
            process.process.kill()
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = None

    def is_on_node(self, worker: str) -> bool:
        return parent_of(pid_of(worker)) == self.node.all_processes["raylet"][0].process.pid


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    try:
        import ray
    except ImportError:
        require(False, "Ray is not installed; pip install 'seem-vos[ray]'")
    require(Path("/proc/self/stat").exists(), "processes cannot be looked at")
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(ray_engine, "IDLE_SECONDS", 3600.0)  # workers wait here for the next test
        found = TwoNodes(url)
        try:
            yield found
        finally:
            found.close_engine()
            ray.shutdown()
            found.cluster.shutdown()


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., VideoJob]:
    """Makes jobs over one clip that takes a while."""
    mask = write_mask(tmp_path / "mask.png")
    clips: dict[int, Path] = {}

    def make(name: str, frames: int = 20, tracker: str = "propagate", **others: Any) -> VideoJob:
        if frames not in clips:
            clips[frames] = write_clip(tmp_path / f"{frames}.mp4", frames)
        options = TrackOptions(tracker, "cpu", threads=1)
        save = frozenset({"masks"})
        return replace(
            VideoJob(name, clips[frames], tmp_path / "out" / name, masks=(str(mask),), options=options, save=save),
            **others,
        )

    return make


def pid_of(worker: str) -> int:
    return int(worker.rpartition(":")[2])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    """Also where nobody has asked yet how the process ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(engine: RayEngine, true: Callable[[], object], seen: list[Event]) -> None:
    """Hear what the engine tells until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, seen
        seen += engine.events(0.5)


def run_all(engine: RayEngine, jobs: Sequence[VideoJob]) -> tuple[dict[str, VideoOutcome], list[Event]]:
    """What a driver does without a fault: jobs as there is room for them, until all have ended."""
    left, seen = list(jobs), list[Event]()

    def done() -> bool:
        while left and engine.free:
            engine.submit(left.pop(0))
        return len(outcomes(seen)) == len(jobs)

    until(engine, done, seen)
    return outcomes(seen), seen


def outcomes(seen: Sequence[Event]) -> dict[str, VideoOutcome]:
    ended = [event for event in seen if isinstance(event, Ended)]
    assert len({event.name for event in ended}) == len(ended), "a job ended twice"
    return {event.name: event.outcome for event in ended}


def workers(seen: Sequence[Event]) -> dict[str, str]:
    return {event.name: event.worker for event in seen if isinstance(event, Started)}


def advanced(seen: Sequence[Event], frames: int) -> set[str]:
    """Names of the videos of which so many frames are done."""
    return {event.name for event in seen if isinstance(event, Advanced) and event.done >= frames}


def masks(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in [*sorted((out / "masks").iterdir()), out / "frames.jsonl"]}


def quiet_run(job: VideoJob, out: Path) -> dict[str, bytes]:
    """Masks and frames.jsonl of the same job where nothing goes wrong."""
    assert run_video(replace(job, out=out, resume=False)).outcome == "done"
    return masks(out)


def test_jobs_end_on_both_nodes_and_in_order(nodes: TwoNodes, job: Callable[..., VideoJob], tmp_path: Path) -> None:
    good = [job(f"v{i}", 8, "copy") for i in range(5)]
    bad = job("bad", 8, "copy", video=tmp_path / "none.mp4")
    running = nodes.engine()

    found, seen = run_all(running, [*good[:2], bad, *good[2:]])

    ends = {name: item.outcome for name, item in found.items()}
    assert ends == {**{f"v{i}": "done" for i in range(5)}, "bad": "failed"}
    assert (found["bad"].cause, "none.mp4" in found["bad"].message) == ("input", True)
    for name in found:
        kinds = [type(event) for event in seen if event.name == name]
        assert (kinds[0], kinds[-1]) == (Started, Ended), kinds
    assert len({event.worker for event in seen if isinstance(event, Started)}) == 2
    assert masks(good[3].out) == quiet_run(good[3], tmp_path / "quiet")
    assert running.free == 2


def test_videos_and_results_at_urls(nodes: TwoNodes, job: Callable[..., VideoJob], tmp_path: Path) -> None:
    local = job("s3", 12)
    for file in (local.video, Path(str(local.masks[0]))):
        upload(file, f"{nodes.url}/in/{file.name}")
    there = replace(
        local,
        video=Path(f"{nodes.url}/in/{local.video.name}"),
        masks=(f"{nodes.url}/in/mask.png",),
        out=Path(f"{nodes.url}/out/s3"),
    )
    found, _ = run_all(nodes.engine(), [there])
    assert found["s3"].outcome == "done", found
    assert open_storage(f"{nodes.url}/out").finished("s3") == 12
    store, key = open_store(f"{nodes.url}/out/s3")
    content = {Path(name).name: store.cat_file(name) for name in store.find(key) if not name.endswith("run.json")}
    assert content == quiet_run(local, tmp_path / "quiet")


def test_a_worker_that_dies_or_is_abandoned_costs_its_video_only(nodes: TwoNodes, job: Callable[..., VideoJob]) -> None:
    running, seen = nodes.engine(), list[Event]()
    running.submit(job("dies", 1000))
    running.submit(job("hangs", 1000))
    with pytest.raises(ValueError, match="no worker is free"):
        running.submit(job("waits"))
    until(running, lambda: advanced(seen, 1) == {"dies", "hangs"}, seen)
    os.kill(pid_of(workers(seen)["dies"]), signal.SIGKILL)
    running.abandon("hangs", VideoOutcome("hangs", "failed", cause="stall", message="stood still"))
    running.abandon("nobody", VideoOutcome("nobody", "failed"))
    until(running, lambda: len(outcomes(seen)) == 2, seen)
    dies, hangs = outcomes(seen)["dies"], outcomes(seen)["hangs"]
    assert (dies.outcome, dies.cause, dies.worth_another_try) == ("failed", "crash", True)
    assert (hangs.cause, hangs.message, hangs.frames > 0) == ("stall", "stood still", True)
    until(running, lambda: is_gone(pid_of(workers(seen)["hangs"])), seen)
    found, _ = run_all(running, [job("dies", 20), job("hangs", 20)])
    assert {item.outcome for item in found.values()} == {"done"}, found


def test_a_node_is_killed_and_the_results_are_those_of_a_quiet_run(
    nodes: TwoNodes, job: Callable[..., VideoJob], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = {name: job(name, 150, resume=True, checkpoint_seconds=0.01) for name in ("a", "b")}
    jobs["c"] = job("c")
    expected = {name: quiet_run(item, tmp_path / "quiet" / name) for name, item in jobs.items()}
    running, seen = nodes.engine(), list[Event]()
    running.submit(jobs["a"])
    running.submit(jobs["b"])
    until(running, lambda: advanced(seen, 30) == {"a", "b"}, seen)
    (lost,) = [name for name, worker in workers(seen).items() if nodes.is_on_node(worker)]
    capfd.readouterr()
    nodes.kill_node()

    until(running, lambda: len(outcomes(seen)) == 2, seen)
    assert (outcomes(seen)[lost].outcome, outcomes(seen)[lost].cause) == ("failed", "crash")
    assert f"its worker {workers(seen)[lost]} was lost" in outcomes(seen)[lost].message
    assert outcomes(seen)["ab".replace(lost, "")].outcome == "done"
    until(running, lambda: is_gone(pid_of(workers(seen)[lost])), seen)
    again, more = run_all(running, [jobs[lost], jobs["c"]])
    assert {name: item.outcome for name, item in again.items()} == {lost: "done", "c": "done"}, again
    assert min(event.done for event in more if isinstance(event, Advanced) and event.name == lost and event.done) > 1
    assert {name: masks(item.out) for name, item in jobs.items()} == expected
    assert capfd.readouterr().out == ""


def test_workers_are_asked_to_stop(nodes: TwoNodes, job: Callable[..., VideoJob]) -> None:
    running, seen = nodes.engine(waiting=1), list[Event]()
    running.submit(job("stops", 1000))
    until(running, lambda: advanced(seen, 1), seen)
    running.stop()
    assert running.free == 0
    until(running, lambda: outcomes(seen), seen)
    stops = outcomes(seen)["stops"]
    assert (stops.outcome, 0 < stops.frames < 1000) == ("interrupted", True)
    nodes.close_engine()
    running.close()
    assert running.events(0.1) == []


def test_what_takes_too_much_memory_is_ended(nodes: TwoNodes, job: Callable[..., VideoJob]) -> None:
    nodes.close_engine()
    running = RayEngine(1, address=nodes.cluster.address, max_memory=1 << 20)
    try:
        found, _ = run_all(running, [job("greedy", 1000)])
    finally:
        running.close()
    assert (found["greedy"].outcome, found["greedy"].cause) == ("failed", "limit")
    assert "where one video may take 1" in found["greedy"].message


def test_the_command_runs_a_batch_on_the_cluster_into_a_store(nodes: TwoNodes, tmp_path: Path) -> None:
    nodes.close_engine()
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a", "b"):
        write_clip(clips / f"{name}.mp4", 6)
        write_mask(clips / f"{name}.png")
    (clips / "broken.mp4").write_bytes(b"no video")
    write_mask(clips / "broken.png")
    out, cache = f"{nodes.url}/batch", {"VOS_CACHE": str(tmp_path / "cache")}
    command = [
        sys.executable, "-m", "cli", "batch", str(clips), "-o", out, "--engine", "ray",
        "--address", nodes.cluster.address, "--workers", "2", "--tracker", "copy", "--json", "--report",
    ]  # fmt: skip

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=os.environ | cache, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    first = run()
    assert first.returncode == 6, first.stderr
    found, _ = json.JSONDecoder().raw_decode(first.stdout)
    assert {Path(video["video"]).stem: video["outcome"] for video in found["videos"]} == {
        "a": "done", "b": "done", "broken": "failed",
    }, first.stdout  # fmt: skip
    storage = open_storage(out)
    assert (storage.finished("a"), storage.finished("b"), storage.finished("broken")) == (6, 6, None)
    store, key = open_store(f"{out}/report.html")
    assert b"data:image/jpeg" in store.cat_file(key)
    assert not list(tmp_path.glob("s3:*"))
    assert (cache_files := list((tmp_path / "cache").rglob("ledger.sqlite")))
    assert len(cache_files) == 1

    second = run()
    assert second.returncode == 6, second.stderr
    found, _ = json.JSONDecoder().raw_decode(second.stdout)
    assert {video["outcome"] for video in found["videos"]} == {"already done", "failed"}, second.stdout


def test_what_cannot_be_a_cluster_is_refused() -> None:
    require(importlib.util.find_spec("ray") is not None, "Ray is not installed; pip install 'seem-vos[ray]'")
    with pytest.raises(InputError, match="is that of a Ray client"):
        RayEngine(address="ray://127.0.0.1:10001")
