"""What many hours of video take on 10, 100, 1,000 workers, and what holds them up: measured figures, simulated.

    python benchmarks/scale.py [--hours 1000] [--workers 10 100 1000] [--tracker lite | --seconds 0.1] [--objects 1]
    python benchmarks/scale.py --store 1.25e9 --link 1.25e8 --requests 3500 --failures 0.02
    python benchmarks/scale.py --clips 16 --frames 150 --seconds 0.09 --prepare 1.2 --workers 1 2 --start 0

Prints a table in Markdown. Seconds per frame, bytes and the time before the first frame come from `vos.batch.rates`
unless they are given; the driver's work is what `benchmarks/ledger.py` measured. What a cluster and its store can do,
and how often machines are lost, nobody can measure for others: these are options.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from vos.batch.rates import LINE_BYTES, MASK_BYTES, READ_AND_WRITE, rate_of
from vos.batch.scenario import ACTIVITIES, Driver, Scenario, Simulated, Store
from vos.batch.simulate import simulate

# `python benchmarks/ledger.py --videos 600` and `--videos 6000`, seconds: to claim a video, which has to look at every
# one of the plan; to ask what is left, likewise, once for each piece of news; to note how one ended; of a heartbeat.
CLAIM, CLAIM_FOR_EACH = 0.0015, 3.7e-7
ASK_FOR_EACH = 2.8e-7
END = 0.0002
BEAT, BEAT_ROW = 0.0001, 6.6e-6
NEWS_EVERY, MOST_NEWS = 0.3, 64 / 0.3  # as vos.batch.ray_engine asks for them
MODELS = {"fused": "lite"}


def main() -> None:
    given = parse()
    videos = given.clips or math.ceil(given.hours * 60 / given.minutes)
    frames = given.frames or round(given.minutes * 60 * given.rate)
    print(HEAD)
    results = [simulate(scenario(given, workers, videos, frames)) for workers in given.workers]
    for found in results:
        print(line(found))
    if given.details:
        details(results)


HEAD = (
    "| workers | time | core-hours | in frames that count | bottleneck | driver busy | store busy | frames/s | lost |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def line(found: Simulated) -> str:
    """A row of the table."""
    frames = found.done * found.scenario.frames
    cells = [
        f"{found.scenario.workers:,}",
        span(found.makespan),
        f"{found.core_hours:,.0f}" if found.core_hours >= 10 else f"{found.core_hours:.3f}",
        f"{found.utilisation:.1%}",
        found.bottleneck,
        f"{found.driver:.1%}",
        f"{found.store:.1%}" if found.scenario.store else "-",
        f"{frames / found.makespan:,.1f}",
        f"{found.failed} videos, {found.spent['lost'] / 3600:,.1f} h",
    ]
    return f"| {' | '.join(cells)} |"


def details(results: Sequence[Simulated]) -> None:
    """Where the workers' time went."""
    print(f"\n| workers | {' | '.join(ACTIVITIES)} |\n|{'---|' * (len(ACTIVITIES) + 1)}")
    for found in results:
        whole = found.scenario.workers * found.makespan
        shares = " | ".join(f"{found.spent[name] / whole:.2%}" for name in ACTIVITIES)
        print(f"| {found.scenario.workers:,} | {shares} |")


def scenario(given: argparse.Namespace, workers: int, videos: int, frames: int) -> Scenario:
    """One batch of equal videos."""
    width, height = (int(side) for side in given.size.split("x"))
    megapixels = width * height / 1e6
    rate = rate_of(given.tracker, MODELS.get(given.tracker), fast=given.fast)
    if rate is None:
        raise SystemExit(f"--tracker {given.tracker} was not measured; give --seconds and --prepare")
    track = rate.seconds.at(megapixels, given.objects) if given.seconds is None else given.seconds
    claim, news = CLAIM + videos * CLAIM_FOR_EACH, given.news + videos * ASK_FOR_EACH
    driver = Driver(claim, END, BEAT, BEAT_ROW, news, NEWS_EVERY, MOST_NEWS)
    return Scenario(
        workers, videos, frames, track, READ_AND_WRITE.at(megapixels, given.objects), given.start,
        rate.start if given.prepare is None else given.prepare, given.every, given.state_seconds, given.failures,
        given.noticed, given.tries, given.cores, driver, store_of(given, megapixels, frames), given.seed,
    )  # fmt: skip


def store_of(given: argparse.Namespace, megapixels: float, frames: int) -> Store | None:
    """The store, where results go to a URL."""
    if given.store is None:
        return None
    mask = MASK_BYTES.at(megapixels, given.objects) + LINE_BYTES.at(megapixels, given.objects)
    video = given.bits * frames / given.rate / 8
    return Store(given.store, given.link, given.requests, video, mask, 1.0, given.state_bytes)


def span(seconds: float) -> str:
    """In the largest unit of which it has two."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = parser.add_argument_group("the batch")
    whole.add_argument("--hours", type=float, default=1000.0)
    whole.add_argument("--minutes", type=float, default=10.0, help="of each video")
    whole.add_argument("--rate", type=float, default=24.0, help="frames per second of the videos")
    whole.add_argument("--clips", type=int, help="number of videos, in place of --hours")
    whole.add_argument("--frames", type=int, help="of each video, in place of --minutes")
    whole.add_argument("--size", default="854x480")
    whole.add_argument("--objects", type=int, default=1)
    whole.add_argument("--bits", type=float, default=4.2e6, help="per second of video")
    whole.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    work = parser.add_argument_group("a worker")
    work.add_argument("--cores", type=int, default=1)
    work.add_argument("--tracker", default="lite")
    work.add_argument("--fast", action="store_true")
    work.add_argument("--seconds", type=float, help="per frame, beyond reading and writing")
    work.add_argument("--prepare", type=float, help="seconds before the first frame of a video")
    work.add_argument("--start", type=float, default=10.0, help="seconds until a worker is ready")
    work.add_argument("--every", type=float, default=30.0, help="seconds between two saved states")
    work.add_argument("--state-seconds", type=float, default=0.15)
    work.add_argument("--failures", type=float, default=0.01, help="of a worker per hour")
    work.add_argument("--noticed", type=float, default=30.0, help="seconds after which a failure is known")
    work.add_argument("--tries", type=int, default=2)
    around = parser.add_argument_group("driver and store")
    around.add_argument("--news", type=float, default=0.0, help="the driver's seconds for one message of a worker")
    around.add_argument("--store", type=float, help="bytes per second; without, results lie where workers write")
    around.add_argument("--link", type=float, default=1.25e8, help="bytes per second of a worker")
    around.add_argument("--requests", type=float, default=3500.0, help="per second that the store answers")
    around.add_argument("--state-bytes", type=float, default=35e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--details", action="store_true", help="where the workers' time went")
    return parser.parse_args()


if __name__ == "__main__":
    main()
