"""kill -9 at random moments of a batch, again and again: what is left must be what a quiet run leaves, to the byte.

    python benchmarks/kills.py                       20 kills of workers and the driver, worker processes (Linux)
    python benchmarks/kills.py --engine ray          ... of nodes, workers and the driver, a Ray cluster of two nodes
    python benchmarks/kills.py --kills 5 --clips 4 --frames 40 --tracker lite --seed 1 --json

A quiet batch runs first. Then the same batch runs with states saved as often as that costs little, and dies when the
next of some random shares of all frames is written: a worker that is writing, the driver (which is started again, every
other time only when its workers have ended, after a look at what is there), or all processes of the Ray node that the
driver is not on (which is started again). Exit code 1 where anything differs in the end: masks, frames.jsonl, run.json
without its times, the ledger, or a file that only one of the two has. Two minutes on two cores; with Ray, ten.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

from moving_shapes import write_clips

from vos.batch.ledger import LEDGER_FILE, Ledger
from vos.run_record import FRAMES_FILE, MASKS_FOLDER, RUN_FILE, read_frames, read_run

SIZE = (160, 90)
WORKERS = 2
TIMES = ("started", "finished", "seconds")
LOOK_EVERY = 0.01  # seconds between two looks at how far the batch is
STANDSTILL = 240.0  # seconds without a further frame after which something hangs
LAST = 0.9  # no kill after this share of the frames: the batch could end first
ROOT = Path(__file__).resolve().parent.parent

# `vos batch`, with states as often as they take little of the time: clips are over before the first one is due.
BATCH = """
import sys
from dataclasses import replace
import cli.main, vos.batch.plan as plan
plan_batch = plan.plan_batch
def with_states(*args, **kwargs):
    found = plan_batch(*args, **kwargs)
    return replace(found, videos=tuple(replace(job, checkpoint_seconds=1e-6) for job in found.videos))
plan.plan_batch = with_states
sys.exit(cli.main.run(sys.argv[1:]))
"""


@dataclass
class Report:
    """What was done and what was found. differences: one line each; starts: of drivers; resumed: unfinished clips of
    which a saved state was there when something died."""

    kills: dict[str, int]
    starts: int
    resumed: int
    seconds: float
    cut: bool  # the time for kills was over before all of them were done
    differences: list[str] = field(default_factory=list)


class Place(Protocol):
    """Where the workers of a batch are."""

    options: tuple[str, ...]  # of vos batch
    kinds: tuple[str, ...]  # what can die, besides the driver; what is named twice dies twice as often

    def kill(self, kind: str, out: Path, chance: random.Random) -> bool:
        """Kill something of a kind; False where there is none at this moment."""
        ...


class LocalPlace:
    """Worker processes of the driver."""

    options: tuple[str, ...] = ("--threads", "1")
    kinds: tuple[str, ...] = ("worker", "worker")

    def kill(self, kind: str, out: Path, chance: random.Random) -> bool:
        return kill_worker(out, chance)


class RayPlace:
    """Two nodes with one core each on this machine. The driver is connected to the first one, which stays."""

    kinds: tuple[str, ...] = ("node", "worker")

    def __init__(self) -> None:
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": RAY_STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": RAY_HEALTH})
        self._node = self._start()
        self.options: tuple[str, ...] = ("--engine", "ray", "--address", self._cluster.address)

    def kill(self, kind: str, out: Path, chance: random.Random) -> bool:
        if kind == "worker":
            return kill_worker(out, chance)
        for process in [process for kind in self._node.all_processes.values() for process in kind]:
            process.process.kill()
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._node = self._start()
        return True

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]

    def _start(self) -> Any:
        """Ray gives a node half a minute to start, and 15 seconds to say which ports it chose: so that is done here."""
        for _ in range(NODE_TRIES):
            ports: dict[str, Any] = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
            try:
                return self._cluster.add_node(num_cpus=1, object_store_memory=RAY_STORE, **ports)
            except Exception as error:  # Ray raises no other
                last = error
        raise last


NODE_TRIES = 6
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
RAY_STORE = 80 << 20  # bytes of shared memory of a node
RAY_HEALTH = {  # a dead node is noticed within seconds
    "health_check_initial_delay_ms": 3000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
RAY_ENVIRONMENT = {  # nothing is sent out, and no process is started unasked
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Batch:
    """``vos batch`` in processes of its own, started again as often as it is killed."""

    def __init__(self, clips: Path, out: Path, tracker: str, options: Sequence[str], log: Path) -> None:
        self._command = [
            sys.executable, "-c", BATCH, "batch", str(clips), "-o", str(out), "--tracker", tracker, "--save", "masks",
            "--device", "cpu", "--workers", str(WORKERS), "--tries", "1000", "--log-format", "json", *options,
        ]  # fmt: skip
        self._log = log
        self.starts = 0
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.starts += 1

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Whatever happened to this script, nothing of the batch goes on."""
        if self.starts and self.code is None:
            self.kill()

    def last_words(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])


def disturbed(
    batch: Batch, place: Place, out: Path, names: Sequence[str], moments: Sequence[int], most: float,
    chance: random.Random,
) -> Report:  # fmt: skip
    """Run a batch to its end, and let something die each time when so many bytes of frames.jsonl are written."""
    began, kills, report = time.monotonic(), Counter[str](), Report({}, 0, 0, 0.0, False)
    dealt = list(islice(cycle((*place.kinds, "driver")), len(moments)))
    chance.shuffle(dealt)
    batch.start()
    for moment, kind in zip(moments, dealt, strict=True):
        report.cut = time.monotonic() - began > most
        if report.cut or not await_bytes(batch, out, names, moment):
            break
        report.resumed += len({path.parent for path in out.glob("*/.state/*.safetensors")})
        if kind == "driver" or not place.kill(kind, out, chance):
            kind = "driver"
            workers = writers(out)
            batch.kill()
            if kills[kind] % 2:
                await_end(workers)
                report.differences += [f"after kill {sum(kills.values()) + 1}: {line}" for line in half_written(out)]
            batch.start()
        kills[kind] += 1
    await_bytes(batch, out, names, sys.maxsize)
    if batch.code:
        report.differences.append(f"the last vos batch ended with code {batch.code}: {batch.last_words()}")
    report.kills, report.starts, report.seconds = dict(kills), batch.starts, round(time.monotonic() - began, 1)
    return report


def await_bytes(batch: Batch, out: Path, names: Sequence[str], size: int) -> bool:
    """Until frames.jsonl of all clips have so many bytes together; False where the batch ended before."""
    files = [out / name / FRAMES_FILE for name in names]
    before, since = -1, time.monotonic()
    while batch.code is None:
        if (written := count_bytes(files)) >= size:
            return True
        if written != before:
            before, since = written, time.monotonic()
        if time.monotonic() - since > STANDSTILL:
            batch.kill()
            raise SystemExit(f"no further frame in {STANDSTILL:.0f} seconds: {batch.last_words()}")
        time.sleep(LOOK_EVERY)
    return False


def count_bytes(files: Sequence[Path]) -> int:
    """Sizes of files together, of those that are there."""
    total = 0
    for path in files:
        with suppress(FileNotFoundError):
            total += os.stat(path).st_size
    return total


def writers(out: Path) -> list[int]:
    """Processes that hold a frames.jsonl below ``out`` open, which are the workers with a video."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            names = [os.readlink(link) for link in folder.iterdir()]
            if any(name.startswith(f"{out}/") and name.endswith(FRAMES_FILE) for name in names):
                found.append(int(folder.parent.name))
    return found


def kill_worker(out: Path, chance: random.Random) -> bool:
    """One that has a video; False where for some seconds none has."""
    deadline = time.monotonic() + 5
    while not (there := sorted(writers(out))):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY)
    with suppress(ProcessLookupError):
        os.kill(chance.choice(there), signal.SIGKILL)
    return True


def await_end(pids: Sequence[int]) -> None:
    """Until processes have ended, whoever has to notice that; they do by themselves when their driver is gone."""
    deadline = time.monotonic() + STANDSTILL
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise SystemExit(f"a worker of {pids} outlives its driver")
        time.sleep(LOOK_EVERY)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def half_written(out: Path) -> Iterator[str]:
    """What of a batch that was killed looks finished, and is not."""
    for folder in clip_folders(out):
        if not (folder / RUN_FILE).exists():
            continue
        run, lines = read_run(folder), list(read_frames(folder)) if (folder / FRAMES_FILE).exists() else []
        if run.state == "done" and len(lines) != run.frames_done:
            yield f"{folder.name} is done with {len(lines)} of {run.frames_done} lines"
        for record in lines:
            mask = folder / record.mask
            if not mask.exists() or not mask.read_bytes().endswith(b"IEND\xaeB`\x82"):
                yield f"{folder.name}/{record.mask} has a line and is not whole"


def compare(quiet: Path, out: Path, names: Sequence[str]) -> list[str]:
    """What is not as in a quiet run, one line each; empty where all is equal and the ledger says done of every clip."""
    expected, found = tree(quiet), tree(out)
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    lines += [f"{name} differs" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]
    with Ledger.read(out) as ledger:
        states = {row.name: row.state for row in ledger.rows()}
    lines += [f"the ledger says {states.get(name)} of {name}" for name in names if states.get(name) != "done"]
    return lines + [f"the ledger knows {name}" for name in sorted(states.keys() - set(names))]


def tree(out: Path) -> dict[str, bytes]:
    """Content of every file: of run.json without times, of the ledger none, which is told by its rows."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    found = {name: path.read_bytes() for name, path in files.items() if name != LEDGER_FILE}
    for name, content in found.items():
        if name.endswith(f"/{RUN_FILE}"):
            found[name] = json.dumps({k: v for k, v in json.loads(content).items() if k not in TIMES}).encode()
    folders = {str(path.relative_to(out)): b"" for path in out.rglob("*") if path.is_dir()}
    return found | folders | {LEDGER_FILE: b""}


def clip_folders(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if (path / MASKS_FOLDER).is_dir())


@contextmanager
def place_of(engine: str) -> Iterator[Place]:
    if engine == "local":
        yield LocalPlace()
        return
    place = RayPlace()
    try:
        yield place
    finally:
        place.close()


def run(given: argparse.Namespace, home: Path) -> Report:
    """Quiet batch, disturbed batch, comparison; everything in the folder ``home``."""
    clips, frames, kills, tracker, seed = given.clips, given.frames, given.kills, given.tracker, given.seed
    chance = random.Random(seed)
    (home / "clips").mkdir()
    names = write_clips(home / "clips", clips, frames, SIZE, seed)
    quiet = Batch(home / "clips", home / "quiet", tracker, LocalPlace.options, home / "quiet.log")
    quiet.start()
    await_bytes(quiet, home / "quiet", names, sys.maxsize)
    if quiet.code:
        raise SystemExit(f"the quiet batch ended with code {quiet.code}: {quiet.last_words()}")
    size = count_bytes([home / "quiet" / name / FRAMES_FILE for name in names])
    moments = sorted(chance.randrange(1, int(LAST * size)) for _ in range(kills))
    with ExitStack() as stack:
        place = stack.enter_context(place_of(given.engine))
        batch = Batch(home / "clips", home / "out", tracker, place.options, home / "out.log")
        stack.callback(batch.end)
        report = disturbed(batch, place, home / "out", names, moments, given.seconds, chance)
    report.differences += compare(home / "quiet", home / "out", names)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument(
        "--frames", type=int, help="of a clip; 50, on a cluster, which needs longer to start again, 150"
    )
    parser.add_argument("--tracker", default="flow")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no further kill after so long")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    given.frames = given.frames or (150 if given.engine == "ray" else 50)
    with tempfile.TemporaryDirectory(prefix="vos-kills-") as home:
        report = run(given, Path(home).resolve())
    if given.json:
        print(json.dumps(asdict(report)))
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kills.items()))
        print(
            f"{given.clips} clips of {given.frames} frames, {given.tracker}, engine {given.engine}, seed {given.seed}"
        )
        done = f"{sum(report.kills.values())} of {given.kills} kills ({kinds}) in {report.seconds} s"
        print(f"{done}, {report.starts} starts of vos batch")
        print(f"{report.resumed} unfinished clips had a saved state at the moment of a kill")
        print(
            "\n".join(report.differences) or "all masks, frames.jsonl, run.json and the ledger are those of a quiet run"
        )
    sys.exit(bool(report.differences))


if __name__ == "__main__":
    main()
