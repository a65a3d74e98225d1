"""How fast J and F are: `vos.metrics` against plain numpy and cv2, on the same masks, in one process, as a ratio.

    python benchmarks/scoring.py DAVIS PREDICTIONS [--set dev] [--every 4]

Both sides get the same decoded label maps (the first and the last frame of a sequence left out), both are checked to
give the same figures, and each is timed alternately, in CPU time. "read" is what decoding the two PNG files takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from vos.benchmarks.layouts import mask_files, open_layout
from vos.masks import read_labels
from vos.metrics import measure_labels, tolerance

Pair = tuple[np.ndarray, np.ndarray]  # prediction, truth: (H, W) label maps


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8 0/1: where a mask differs from its right, lower or lower-right neighbour."""
    moved = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ moved[:-1, 1:]) | (mask ^ moved[1:, :-1]) | (mask ^ moved[1:, 1:])


def plain_measures(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of one object, (H, W) bool: byte masks, dilated over the whole frame by a disk."""
    either = np.logical_or(prediction, truth).sum()
    j = np.logical_and(prediction, truth).sum() / either if either else 1.0
    p, g = (plain_boundary(mask.astype(np.uint8)) for mask in (prediction, truth))
    n_p, n_g = p.sum(), g.sum()
    if n_p == 0 or n_g == 0:
        return float(j), float(n_p == n_g)
    radius = tolerance(*truth.shape)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    precision, recall = (p * cv2.dilate(g, disk)).sum() / n_p, (g * cv2.dilate(p, disk)).sum() / n_g
    return float(j), float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain(pairs: list[Pair]) -> list[tuple[float, float]]:
    return [plain_measures(p == i, t == i) for p, t in pairs for i in range(1, int(t.max()) + 1)]


def ours(pairs: list[Pair]) -> list[tuple[float, float]]:
    return [tuple(row) for p, t in pairs for row in measure_labels(p, t, range(1, int(t.max()) + 1)).tolist()]


def cpu_seconds(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of J and F, as a ratio to plain numpy and cv2.")
    parser.add_argument("davis", type=Path, help="DAVIS root")
    parser.add_argument("predictions", type=Path, help="folder with one folder of masks for each sequence")
    parser.add_argument("--set", default="dev", help="list in ImageSets")
    parser.add_argument("--every", type=int, default=4, help="take every n-th frame")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)

    layout = open_layout(options.davis)
    files = [
        (predictions[frame], masks[frame])
        for name in layout.set_names(options.set)
        for masks, predictions in ((layout.sequence(name).masks, mask_files(options.predictions / name)),)
        for frame in list(masks)[1 : -1 : options.every]
    ]
    pairs = [(read_labels(p), read_labels(t)) for p, t in files]
    mine, theirs = np.array(ours(pairs)), np.array(plain(pairs))
    if not np.array_equal(mine, theirs):
        raise SystemExit(f"the two disagree by up to {np.abs(mine - theirs).max()}")
    times = [
        (
            cpu_seconds(lambda: ours(pairs)),
            cpu_seconds(lambda: plain(pairs)),
            cpu_seconds(lambda: [read_labels(f) for pair in files for f in pair]),
        )
        for _ in range(options.rounds)
    ]
    fast, slow, read = (1000 * float(np.median(column)) for column in zip(*times, strict=True))
    ratio = float(np.median([t[1] / t[0] for t in times]))
    n, shapes = len(mine), sorted({f"{t.shape[1]}x{t.shape[0]}" for _, t in pairs})
    print(f"{n} object-frames of {len(pairs)} frames at {', '.join(shapes)}; equal to the last digit")
    print(f"vos.metrics       {fast / n:6.2f} ms CPU per object-frame")
    print(f"numpy and cv2     {slow / n:6.2f} ms CPU per object-frame")
    print(f"ratio             {ratio:6.2f}  (median of {options.rounds} rounds)")
    print(f"read, two files   {read / len(pairs):6.2f} ms CPU per frame")
    print(f"all together      {(fast + read) / n:6.2f} ms CPU per object-frame")


if __name__ == "__main__":
    main()
