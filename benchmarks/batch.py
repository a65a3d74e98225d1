"""Two workers against one process: frames per second and per core, and what the ledger and saved states cost.

    python benchmarks/batch.py                                 16 clips of 150 frames, 854x480
    python benchmarks/batch.py --clips 4 --frames 20 --size 320x180 --groups 2             a trial
    python benchmarks/batch.py --tracker propagate --max-side 854 --minutes 30 --json figures.json

Four ways to track the same clips, side by side in one run:

    one thread        one worker process with one thread, nothing else
    two threads       one worker process with two
    two workers       two worker processes with one thread each
    batch             the same two, through the driver with its ledger, states saved as by default

Workers are started, and track a short clip, before anything is timed. The clips are dealt out in groups; each group is
tracked in every way, one way after the other in an order that turns from group to group, so that what else the machine
does hits all of them. A ratio is that of the sums over all groups; the smallest and the largest of a group stand beside
it. Processor time is that of the workers and of this process, which is the driver; it is hit less by what goes on
beside. Decoding, hashing, loading the model for every video and writing masks are part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moving_shapes import write_clips

from vos.batch.driver import run_batch
from vos.batch.engine import Ended
from vos.batch.job import VideoJob
from vos.batch.ledger import Ledger
from vos.batch.local_engine import LocalEngine
from vos.pipeline import TrackOptions

WARM_UP = 6  # frames of the clip before the first timed one
PATIENCE = 0.25


@dataclass(frozen=True)
class Timing:
    """A group of clips tracked in one way: seconds on the wall, of the workers' and of this process's computing."""

    way: str
    group: int
    frames: int
    wall: float
    workers: float
    driver: float


@dataclass(frozen=True)
class Way:
    """A way to track clips: ``cores`` that it may take, and whether the driver and its ledger are used."""

    name: str
    engine: LocalEngine
    cores: int
    ledger: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", default="854x480")
    parser.add_argument("--tracker", default="lite")
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--max-side", type=int, default=240)
    parser.add_argument("--minutes", type=float, default=7.5, help="no further group is begun after so long")
    parser.add_argument("--json", type=Path, help="write every timing there")
    given = parser.parse_args()
    if given.clips % (2 * given.groups):
        raise SystemExit("--clips is twice --groups or a multiple, so that two workers have as much to do")
    width, height = (int(side) for side in given.size.split("x"))
    options = TrackOptions(given.tracker, "cpu", max_side=given.max_side, fast=given.fast and given.tracker == "lite")
    with tempfile.TemporaryDirectory(prefix="vos-batch-") as text, ExitStack() as stack:
        clips = Path(text) / "clips"
        clips.mkdir()
        names = write_clips(clips, given.clips, given.frames, (width, height))
        jobs = [job_of(name, clips, Path(text) / "out", options) for name in names]
        until = time.monotonic() + 60 * given.minutes
        timings = list(measure(jobs, given.frames, given.groups, ways(stack), Path(text) / "out", until))
    if given.json:
        given.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=1))
    report(timings)


def job_of(name: str, clips: Path, out: Path, options: TrackOptions) -> VideoJob:
    masks = (str(clips / f"{name}.png"),)
    return VideoJob(name, clips / f"{name}.mp4", out / name, masks=masks, options=options, save=frozenset({"masks"}))


def ways(stack: ExitStack) -> tuple[Way, ...]:
    """All of them, with engines that are closed with ``stack``."""
    one, two, pair = (stack.enter_context(closing(LocalEngine(n, threads=t))) for n, t in ((1, 1), (1, 2), (2, 1)))
    return (
        Way("one thread", one, 1), Way("two threads", two, 2), Way("two workers", pair, 2),
        Way("batch", pair, 2, ledger=True),
    )  # fmt: skip


def measure(
    jobs: Sequence[VideoJob], frames: int, groups: int, ways: Sequence[Way], out: Path, until: float
) -> Iterator[Timing]:
    """Every group in every way, as long as there is likely to be time for all of them."""
    for way in ways:  # each worker has a short clip: its libraries and the clips are warm then
        short = replace(jobs[0].options, end=min(WARM_UP, frames))
        count = 2 if way.cores == 2 and way.name != "two threads" else 1
        track([replace(job, options=short, out=out / f"warm-{way.name}-{job.name}") for job in jobs[:count]], way, out)
    size, began = len(jobs) // groups, time.monotonic()
    for group in range(groups):
        if group and time.monotonic() + (time.monotonic() - began) / group > until:
            print(f"no time left: {group} of {groups} groups were measured", file=sys.stderr)
            return
        chosen = jobs[group * size : (group + 1) * size]
        turn = group % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            place = out / f"{way.name}-{group}"
            moved = [replace(job, out=place / job.name) for job in chosen]
            timing = track(moved, way, place)
            yield Timing(way.name, group, size * frames, *timing)
            print(f"group {group + 1} of {groups}, {way.name}: {timing[0]:.1f} s", file=sys.stderr)


def track(jobs: Sequence[VideoJob], way: Way, place: Path) -> tuple[float, float, float]:
    """Seconds on the wall, of the workers' computing and of this process's, from the first clip to the last."""
    while way.engine.free == 0:  # they start with the first call
        way.engine.events(PATIENCE)
    wall, workers, own = time.perf_counter(), children_seconds(), time.process_time()
    (with_ledger if way.ledger else without_ledger)(jobs, way.engine, place)
    return time.perf_counter() - wall, children_seconds() - workers, time.process_time() - own


def with_ledger(jobs: Sequence[VideoJob], engine: LocalEngine, place: Path) -> None:
    with Ledger.open(place) as ledger:
        for _ in run_batch(jobs, ledger, engine):
            pass
        if any(row.state != "done" for row in ledger.rows()):
            raise SystemExit("; ".join(row.message for row in ledger.rows()))


def without_ledger(jobs: Sequence[VideoJob], engine: LocalEngine, place: Path) -> None:
    """The engine alone, without states."""
    left, running = [replace(job, checkpoint_seconds=0.0) for job in jobs], 0
    while left or running:
        while left and engine.free:
            engine.submit(left.pop(0))
            running += 1
        for event in engine.events(PATIENCE):
            if isinstance(event, Ended):
                running -= 1
                if event.outcome.outcome != "done":
                    raise SystemExit(event.outcome.message)


def children_seconds() -> float:
    """Processor time of the processes that this one started and that live (Linux)."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # in user mode and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


def report(timings: Sequence[Timing]) -> None:
    """Two tables in Markdown: speed, and ratios with what they should be."""
    by_way: dict[str, list[Timing]] = defaultdict(list)
    for timing in sorted(timings, key=lambda timing: timing.group):
        by_way[timing.way].append(timing)
    print(f"{sum(t.frames for t in by_way['batch'])} frames in each way, groups of {by_way['batch'][0].frames}\n")
    print("| | wall clock | frames/s | frames/s per core | computing per frame | of the driver |")
    print("|---|---|---|---|---|---|")
    for name, cores in (("one thread", 1), ("two threads", 2), ("two workers", 2), ("batch", 2)):
        found = by_way[name]
        frames, wall = sum(t.frames for t in found), sum(t.wall for t in found)
        workers, driver = sum(t.workers for t in found), sum(t.driver for t in found)
        print(f"| {name} | {wall:.1f} s | {frames / wall:.2f} | {frames / wall / cores:.2f} | "
              f"{1000 * workers / frames:.1f} ms | {1000 * driver / frames:.2f} ms |")  # fmt: skip
    print("\n| ratio | | groups | bar |\n|---|---|---|---|")
    ratio(by_way, "two workers / one thread, frames/s", "one thread", "two workers", wall_of, ">= 1.7")
    ratio(by_way, "batch / one thread, frames/s", "one thread", "batch", wall_of, ">= 1.7")
    ratio(by_way, "batch / two threads, frames/s", "two threads", "batch", wall_of, ">= 1.1")
    ratio(by_way, "batch / two workers, wall clock", "batch", "two workers", wall_of, "< 1.03")
    ratio(by_way, "batch / two workers, all computing", "batch", "two workers", computing_of, "< 1.03")
    ratio(by_way, "two workers / one thread, computing", "two workers", "one thread", computing_of, "-")


def wall_of(timing: Timing) -> float:
    return timing.wall


def computing_of(timing: Timing) -> float:
    return timing.workers + timing.driver


def ratio(
    by_way: dict[str, list[Timing]], what: str, above: str, below: str, of: Callable[[Timing], float], bar: str
) -> None:
    """One row: the seconds of one way over those of another."""
    pairs = [(of(one), of(other)) for one, other in zip(by_way[above], by_way[below], strict=True)]
    each = sorted(one / other for one, other in pairs)
    whole = sum(one for one, _ in pairs) / sum(other for _, other in pairs)
    print(f"| {what} | **{whole:.3f}** | {each[0]:.3f} to {each[-1]:.3f} | {bar} |")


if __name__ == "__main__":
    main()
