"""Milliseconds per frame of reading a video to RGB: our PyAV source, decord, and OpenCV for comparison.

    python benchmarks/decode.py FILE [--frames 200] [--repeat 3]

The best of the repeats counts, as process CPU time (all threads) and as wall time. Every reader has one decoding
thread where it lets us say so; threads that decord and OpenCV start all the same are in the CPU time. Opening, with
the index that exact random access needs, is measured apart.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from seem_core.errors import VosError
from vos.video import Reader, open_video

Times = tuple[float, float]  # CPU, wall


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the readers on one video file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--frames", type=int, default=200, help="frames to read at most")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    info = open_video(arguments.file).info
    print(
        f"{arguments.file.name}: {info.codec}, {info.width}x{info.height}, {info.frames} frames, {os.cpu_count()} CPUs"
    )
    print(f"{'reader':<8}{'open ms':>10}{'CPU ms/frame':>15}{'wall ms/frame':>15}{'frames':>8}")
    for name, opener in READERS.items():
        try:
            opening, reading, count = best(opener, arguments.file, arguments.frames, arguments.repeat)
        except VosError as error:
            print(f"{name:<8}  {error}")
        else:
            print(f"{name:<8}{1e3 * opening[0]:>10.1f}{per(reading[0], count)}{per(reading[1], count)}{count:>8}")


def best(opener: Callable[[Path], Iterator[Any]], path: Path, limit: int, repeat: int) -> tuple[Times, Times, int]:
    """Fastest opening and fastest reading of ``repeat`` runs, and the number of frames read."""
    openings, readings, count = [], [], 0
    for _ in range(repeat):
        start = clocks()
        frames = opener(path)
        openings.append(since(start))
        start = clocks()
        count = sum(1 for _ in islice(frames, limit))
        readings.append(since(start))
    return min(openings), min(readings), count


def clocks() -> Times:
    return time.process_time(), time.perf_counter()


def since(start: Times) -> Times:
    cpu, wall = clocks()
    return cpu - start[0], wall - start[1]


def per(seconds: float, count: int) -> str:
    return f"{1e3 * seconds / max(count, 1):>15.2f}"


def ours(reader: Reader) -> Callable[[Path], Iterator[Any]]:
    return lambda path: iter(open_video(path, reader=reader))


def opencv(path: Path) -> Iterator[Any]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    def frames() -> Iterator[Any]:
        while True:
            found, bgr = capture.read()
            if not found:
                return
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    return frames()


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {"pyav": ours("pyav"), "decord": ours("decord"), "cv2": opencv}

if __name__ == "__main__":
    main()
