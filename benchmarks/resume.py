"""What saved states cost a run, and what they give back: time, size on disk, and the wait until a resumed run tracks.

    python benchmarks/resume.py DAVIS [--sequence schoolgirls] [--set 480p] [--height 1080] [--tracker lite]
                                      [--frames 80] [--seconds 10] [--threads 1]

The sequence is scaled to HEIGHT and tracked from the masks of its first frame as `vos.track_to_folder` does it, into a
temporary folder, with states every SECONDS. What is measured are the run's own copies and writes: a run with and one
without states differ by less than two equal runs do on a busy machine. A second run is stopped after half of the frames
and resumed.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from vos.checkpoints import Checkpoints
from vos.images import read_image
from vos.label_files import read_labels, write_labels
from vos.pipeline import TrackOptions
from vos.to_folder import TrackSummary, track_to_folder


@dataclass
class Costs:
    """Seconds of every copy and every write, wall-clock and computing; bytes of every file."""

    wall: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, computing = time.perf_counter(), time.thread_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.computing.append(time.thread_time() - computing)


@contextmanager
def measured() -> Iterator[Costs]:
    """The costs of the states that are saved meanwhile."""
    costs, take, write = Costs(), Checkpoints.take, Checkpoints.write

    def timed_take(self: Checkpoints, *args: Any) -> Any:
        with costs.timed():
            return take(self, *args)

    def timed_write(self: Checkpoints, packed: Any) -> None:
        with costs.timed():
            write(self, packed)
        costs.sizes.append(max(path.stat().st_size for path in self._folder.glob(f"{packed.frame:05d}-*")))

    with patch.object(Checkpoints, "take", timed_take), patch.object(Checkpoints, "write", timed_write):
        yield costs


def prepare(davis: Path, name: str, split: str, height: int, frames: int, place: Path) -> tuple[Path, Path]:
    """Folder of the scaled pictures, repeated forward and backward up to ``frames``, and the first one's masks."""
    images = sorted((davis / "JPEGImages" / split / name).glob("*.jpg"))
    order = [*images, *reversed(images)]
    folder, mask = place / "pictures", place / "mask.png"
    folder.mkdir()
    for n in range(frames):
        image = read_image(order[n % len(order)])
        size = (round(image.shape[1] * height / image.shape[0]), height)
        cv2.imwrite(str(folder / f"{n:05d}.jpg"), cv2.resize(image, size)[..., ::-1])
    labels = read_labels(next(iter(sorted((davis / "Annotations" / split / name).glob("*.png")))))
    small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    write_labels(mask, small.astype(np.uint8))
    return folder, mask


def track(folder: Path, mask: Path, out: Path, options: TrackOptions, seconds: float, until: int = 0) -> TrackSummary:
    stop = threading.Event()

    def heard(done: int, total: int) -> None:
        if until and done >= until:
            stop.set()

    return track_to_folder(
        folder, out, mask=mask, options=options, save={"masks"}, resume=True, checkpoint_seconds=seconds, stop=stop,
        on_progress=heard,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path)
    parser.add_argument("--sequence", default="schoolgirls")
    parser.add_argument("--set", default="480p")
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--tracker", default="lite")
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    options = TrackOptions(given.tracker, threads=given.threads)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        folder, mask = prepare(given.davis, given.sequence, given.set, given.height, given.frames, place)
        began = time.process_time()
        with measured() as costs:
            summary = track(folder, mask, place / "out", options, given.seconds)
        computing = time.process_time() - began
        print(f"{given.sequence} at {given.height} lines, {len(summary.objects)} objects, {given.tracker}")
        print(f"{summary.frames} frames in {summary.seconds:.1f} s ({computing:.1f} s computing)")
        share = sum(costs.wall) / summary.seconds, sum(costs.computing) / computing
        print(
            f"{len(costs.sizes)} states of up to {max(costs.sizes, default=0) / 1e6:.1f} MB: {share[0]:.2%} of the time"
        )
        print(f"of the computing time {share[1]:.2%}; {sum(costs.wall) / max(1, len(costs.sizes)):.3f} s a state")
        half = track(folder, mask, place / "half", options, given.seconds, until=given.frames // 2)
        began = time.perf_counter()
        again = track(folder, mask, place / "half", options, given.seconds, until=half.frames + 1)
        print(f"resumed after frame {again.resumed_after}: {again.frames - half.frames} frames later at "
              f"{time.perf_counter() - began:.1f} s, the tracker's loading included")  # fmt: skip


if __name__ == "__main__":
    main()
