"""What `vos batch -n` reckons with: seconds, memory and disk of tracking, measured, as its curves.

    python benchmarks/estimates.py $VOS_DATA/davis             all trackers; prints figures and curves to write down
    python benchmarks/estimates.py $VOS_DATA/davis --trackers lite --frames 60

A clip is dance-jump at 320x180, 854x480 and 1920x1080 as H.264; its object is cut into five upright strips where five
are followed. Each case is a process of its own with one thread. Seconds are processor time between frame 8 and the
last, without start; memory is the highest resident size; bytes are those of the files that are left.

Seconds of a tracker are those beyond `copy`, which reads and writes only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vos.images import read_image
from vos.label_files import read_labels, write_labels
from vos.pipeline import TrackOptions
from vos.render import render
from vos.to_folder import track_to_folder
from vos.video_writer import VideoWriter

CASES = ((320, 180, 1), (854, 480, 1), (854, 480, 5), (1920, 1080, 1), (1920, 1080, 5))
TRACKERS = ("copy", "flow", "propagate", "lite", "lite fast", "fused", "reference", "prompt-memory")
WITH_MODEL = {"fused": "lite", "reference": "lite", "prompt-memory": "lite"}
WARM_UP = 8
Measured = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path, help="folder with JPEGImages/480p and Annotations/480p")
    parser.add_argument("--trackers", nargs="+", default=TRACKERS, choices=TRACKERS)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--case", metavar="TRACKER", help="one tracker over the clip in the folder, as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.davis, arguments.case)))
        return
    wanted = ["copy", *(name for name in arguments.trackers if name != "copy")]
    figures = {name: [run_case(arguments.davis, name, case, arguments.frames) for case in CASES] for name in wanted}
    report(figures)


def run_case(davis: Path, name: str, case: tuple[int, int, int], frames: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        write_clip(davis, Path(folder), case[:2], case[2], frames)
        done = subprocess.run([sys.executable, __file__, folder, "--case", name], check=True, stdout=subprocess.PIPE)
    found: Measured = json.loads(done.stdout)
    shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
    print(f"{name:<14}{case[0]}x{case[1]}, {case[2]} objects: {shown}", flush=True)
    return found


def measure(folder: Path, name: str) -> Measured:
    """Track the clip in a folder in this process, which did nothing before."""
    moments: list[float] = []
    tracker, fast, _ = name.partition(" fast")
    out = folder / "out"
    began = time.process_time()
    summary = track_to_folder(
        folder / "clip.mp4", out, mask=folder / "clip.png", save={"masks"},
        options=TrackOptions(tracker, threads=1, model=WITH_MODEL.get(tracker), device="cpu", fast=bool(fast)),
        on_progress=lambda done, total: moments.append(time.process_time()),
    )  # fmt: skip
    tracked = time.process_time()
    render(out, what={"overlay"})
    rendered = time.process_time()
    render(out, what={"contact"})
    return {
        "start": moments[0] - began,
        "frame": (moments[-1] - moments[WARM_UP - 1]) / (len(moments) - WARM_UP),
        "overlay": (rendered - tracked) / summary.frames,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "masks": sum(path.stat().st_size for path in (out / "masks").iterdir()) / summary.frames,
        "lines": (out / "frames.jsonl").stat().st_size / summary.frames,
        "overlay_bytes": (out / "overlay.mp4").stat().st_size / summary.frames,
        "contact_bytes": (out / "contact.png").stat().st_size,
    }


def write_clip(davis: Path, folder: Path, size: tuple[int, int], objects: int, frames: int) -> None:
    """The clip of that (W, H) and its first mask."""
    images = sorted((davis / "JPEGImages" / "480p" / "dance-jump").glob("*.jpg"))[:frames]
    rate = Fraction(24)
    with VideoWriter(folder / "clip.mp4", size[1], size[0], rate) as writer:
        for n, path in enumerate(images):
            image = np.asarray(cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA), np.uint8)
            writer.write(image, n / float(rate))
    first = read_labels(davis / "Annotations" / "480p" / "dance-jump" / "00000.png") > 0
    labels = np.asarray(cv2.resize(first.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), np.uint8)
    write_labels(folder / "clip.png", strips(labels, objects))


def strips(labels: npt.NDArray[np.uint8], objects: int) -> npt.NDArray[np.uint8]:
    """(H, W) The one object cut into strips of equal area, ids from 1 on."""
    columns = labels.astype(bool).sum(axis=0).cumsum()
    ids = np.minimum(columns * objects // max(1, columns[-1]), objects - 1) + 1
    return np.where(labels > 0, ids[None, :], 0).astype(np.uint8)


def report(figures: dict[str, list[Measured]]) -> None:
    """The curves as `vos.batch.rates` holds them."""
    copy = [case["frame"] for case in figures["copy"]]
    for name, found in figures.items():
        own = [case["frame"] - (0 if name == "copy" else base) for case, base in zip(found, copy, strict=True)]
        start, memory = (float(np.median([case[what] for case in found])) for what in ("start", "memory"))
        print(f"\n{name}: start {start:.2g}, median memory {memory:.3g}")
        print(f"  seconds  {curve(own)}\n  memory   {curve([case['memory'] for case in found])}")
    print("\nall trackers, median")
    for what in ("overlay", "masks", "lines", "overlay_bytes", "contact_bytes"):
        values = [float(np.median([found[i][what] for found in figures.values()])) for i in range(len(CASES))]
        print(f"  {what:<14}{curve(values)}")


def curve(values: Sequence[float]) -> str:
    """With one object at the three sizes, and for each further object at the two larger ones."""
    small, middle, middle_five, large, large_five = values
    further = max(0.0, middle_five - middle) / 4, max(0.0, large_five - large) / 4
    return f"Curve(({small:.3g}, {middle:.3g}, {large:.3g}), ({further[0]:.2g}, {further[1]:.2g}))"


if __name__ == "__main__":
    main()
