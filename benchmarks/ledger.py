"""What the driver's work costs: seconds of processor time for each thing that it does with the ledger.

    python benchmarks/ledger.py [--videos 6000] [--running 10 100 1000]

Prints what `benchmarks/scale.py` reckons with: the time to claim a video (with asking what is left, which every turn of
the driver does), to note that one began and how it ended, and of a heartbeat, alone and for each running video.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from vos.batch.job import VideoJob, VideoOutcome
from vos.batch.ledger import Ledger

REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6000)
    parser.add_argument("--running", type=int, nargs="+", default=[10, 100, 1000])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        jobs = make_jobs(Path(text), given.videos)
        with Ledger.open(Path(text) / "out", find_run=lambda job: None) as ledger:
            entered = timed(lambda: ledger.enter(jobs))
            print(f"enter {given.videos} videos: {entered:.2f} s, {1000 * entered / given.videos:.2f} ms each")
            measure(ledger, given.running)


def measure(ledger: Ledger, counts: list[int]) -> None:
    """Claims up to the largest count; a heartbeat at each one; ends."""
    running: list[str] = []
    claims, begins, ends, asked = list[float](), list[float](), list[float](), list[float]()
    beats: list[tuple[int, float]] = []

    def claim() -> None:
        row = ledger.claim()
        if row is None:
            raise SystemExit("more running videos than --videos")
        running.append(row.name)

    def beat(frame: int) -> float:
        for name in running:
            ledger.advance(name, frame, 1000)
        return timed(lambda: ledger.beat(now=True))

    for target in sorted(counts):
        while len(running) < target:
            claims.append(timed(claim))
            begins.append(timed(lambda: ledger.begin(running[-1], f"worker-{len(running)}")))
            asked.append(timed(ledger.unsettled))
        beats.append((target, median(beat(frame) for frame in range(1, REPEATS + 1))))
        print(f"heartbeat with {target} running: {1000 * beats[-1][1]:.2f} ms")
    for name in running:
        outcome = VideoOutcome(name, "done", 1000, 100.0)
        ends.append(timed(lambda name=name, outcome=outcome: ledger.end(name, outcome)))
    for what, found in (("claim", claims), ("begin", begins), ("ask what is left", asked), ("end", ends)):
        print(f"{what}: {1000 * median(found):.2f} ms, {1 / median(found):.0f} per second")
    (few, least), (many, most) = beats[0], beats[-1]
    if many > few:
        row = (most - least) / (many - few)
        print(f"a heartbeat: {1000 * (least - few * row):.2f} ms, and {1000 * row:.4f} ms for each running video")


def make_jobs(folder: Path, videos: int) -> list[VideoJob]:
    """Jobs with small files of their own, as hashing large ones is no work of the ledger's."""
    (folder / "clips").mkdir()
    jobs = []
    for number in range(videos):
        video = folder / "clips" / f"{number:06d}.mp4"
        video.write_bytes(b"%d" % number)
        jobs.append(VideoJob(video.stem, video, folder / "out" / video.stem, masks=(str(video),)))
    return jobs


def timed(do: Callable[[], object]) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    do()
    return time.process_time() - began


if __name__ == "__main__":
    main()
