"""What `propagate` costs: seconds per frame by station, in units of Y, and memory over a long stream.

    python benchmarks/propagate.py                                   synthetic, 854x480, one and five objects
    python benchmarks/propagate.py --images FOLDER --mask FIRST.png  real frames
    python benchmarks/propagate.py --tracker lite                    the same with trained borders
    python benchmarks/propagate.py --tracker lite --fast             its fast setting
    python benchmarks/propagate.py --objects 1 5 20 100 --frames 12  what every further object costs
    python benchmarks/propagate.py --size 3840x2160 --objects 20 --frames 10
    python benchmarks/propagate.py --stream 10000 --plot stream.png  resident memory of a 320x180 stream
    python benchmarks/propagate.py --stream 3000 --objects 5         the same with five objects

Y is one 3x3 convolution 512 -> 512 on 120x216, fp32, channels last, one thread, in this process (122 GFLOP): figures
from different machines compare in that unit. Times are processor time of this process, medians over the frames after
the memory bank is full. Every frame is decoded from JPEG and its label map written as a PNG file. The synthetic frames
(discs on a moving, textured ground) are drawn before the clock starts.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from seem_core.prompts import MaskPrompt
from trackers.dense import DenseReader
from trackers.fast import FAST
from trackers.propagate import PropagateTracker
from trackers.propagation import LabelPropagation, PropagationConfig
from trackers.refined import lite_reader
from vos.device import tune_process
from vos.label_files import read_labels, write_labels

T = TypeVar("T")
Labels = npt.NDArray[Any]
DISTINCT = 48  # frames that are drawn; longer runs go back and forth through them
WARM_UP = 8  # frames until the memory bank is full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default=None, help="WxH of the synthetic frames (854x480; 320x180 for --stream)")
    parser.add_argument("--objects", type=int, nargs="+", default=None, help="numbers of objects (1 5)")
    parser.add_argument("--tracker", choices=("propagate", "lite"), default="propagate", help="which one is timed")
    parser.add_argument("--fast", action="store_true", help="time the fast setting")
    parser.add_argument("--frames", type=int, default=30, help="frames that are timed")
    parser.add_argument("--images", type=Path, help="folder of real .jpg frames, with --mask")
    parser.add_argument("--mask", type=Path, help="label map of the first real frame")
    parser.add_argument("--stream", type=int, metavar="N", help="follow an N-frame stream and watch memory")
    parser.add_argument("--plot", type=Path, help="where --stream draws resident memory (PNG)")
    arguments = parser.parse_args()
    tune_process(1)
    width, height = map(int, (arguments.size or ("320x180" if arguments.stream else "854x480")).split("x"))
    if arguments.stream:
        stream(height, width, (arguments.objects or [1])[0], arguments.stream, arguments.plot)
        return
    if arguments.images:
        jpegs = [path.read_bytes() for path in sorted(arguments.images.glob("*.jpg"))]
        compare([(jpegs, read_labels(arguments.mask))], arguments.frames, arguments.tracker, arguments.fast)
    else:
        clips = [drawing(height, width, n) for n in arguments.objects or [1, 5]]
        compare(clips, arguments.frames, arguments.tracker, arguments.fast)


def compare(clips: list[tuple[list[bytes], Labels]], frames: int, tracker: str, fast: bool) -> None:
    """Time each clip and print its stations, in milliseconds and in Y."""
    unit = yardstick()
    print(f"Y = {unit:.3f} s on {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread")
    totals, counts = [], []
    for jpegs, labels in clips:
        stations, memory = run(jpegs, labels, frames, tracker, fast)
        height, width = labels.shape
        count = len(np.unique(labels)) - 1
        total = sum(statistics.median(s[-frames:]) for s in stations.values())
        totals.append(total)
        counts.append(count)
        print(f"\n{width}x{height}, {count} objects: {total:.3f} s per frame = {total / unit:.3f} Y; {memory}")
        for name, seconds in stations.items():
            print(f"  {name:<8}{1e3 * statistics.median(seconds[-frames:]):>8.1f} ms")
        print(f"  peak resident {peak():.0f} MB")
    for total, count in zip(totals[1:], counts[1:], strict=True):
        further = (total - totals[0]) / max(1, count - counts[0])
        print(
            f"\n{count} objects take {total / totals[0]:.2f} times the time of {counts[0]};"
            f" each further one {1e3 * further:.1f} ms = {further / unit:.4f} Y"
        )


def run(
    jpegs: list[bytes], labels: Labels, frames: int, name: str, fast: bool = False
) -> tuple[dict[str, list[float]], str]:
    """Seconds by station and frame, and the memory bank in words."""
    stations: dict[str, list[float]] = {}
    reader = timed_reader(name, stations, FAST[name].config if fast else None)
    tracker = PropagateTracker(reader, max_recent=FAST[name].max_recent) if fast else PropagateTracker(reader)
    prompts = [MaskPrompt(labels == i, int(i)) for i in np.unique(labels) if i]
    with tempfile.TemporaryDirectory() as folder:
        for n, jpeg in enumerate(back_and_forth(jpegs, frames + WARM_UP)):
            image = timed(stations, "decode", decode, jpeg)
            start, inside = time.process_time(), sum(map(sum, stations.values()))
            found = tracker.step(image, prompts if n == 0 else ())
            elapsed = time.process_time() - start
            stations.setdefault("borders", []).append(elapsed - (sum(map(sum, stations.values())) - inside))
            timed(stations, "save", write_labels, Path(folder) / f"{n:05d}.png", found.labels)
    return stations, repr(tracker.memory)


def timed_reader(name: str, stations: dict[str, list[float]], config: PropagationConfig | None = None) -> DenseReader:
    """The reader of a tracker, propagate or lite, that notes the processor time of its stations."""
    reader: DenseReader = lite_reader(config) if name == "lite" else LabelPropagation(config)
    for station in ("encode", "look", "read", "write"):
        call = getattr(reader, station)
        setattr(reader, station, functools.partial(timed, stations, station, call))
    return reader


def timed(stations: dict[str, list[float]], name: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """``call``, with its processor time noted under ``name``."""
    start = time.process_time()
    result = call(*args, **kwargs)
    stations.setdefault(name, []).append(time.process_time() - start)
    return result


def stream(height: int, width: int, objects: int, frames: int, plot: Path | None) -> None:
    """Follow a long stream; print resident memory at frame 500 and at the end, and the highest in between."""
    jpegs, labels = drawing(height, width, objects)
    tracker = PropagateTracker()
    prompts = [MaskPrompt(labels == i, int(i)) for i in np.unique(labels) if i]
    at, megabytes = [], []
    start = time.perf_counter()
    for n, jpeg in enumerate(back_and_forth(jpegs, frames)):
        tracker.step(decode(jpeg), prompts if n == 0 else ())
        if n % 50 == 0 or n == frames - 1:
            at.append(n)
            megabytes.append(resident())
    early = megabytes[at.index(500)] if frames > 500 else megabytes[-1]
    print(
        f"{frames} frames of {width}x{height}, {objects} objects, {(time.perf_counter() - start) / frames:.3f} s each"
    )
    print(f"resident at frame 500 {early:.1f} MB, at the end {megabytes[-1]:.1f} MB ({megabytes[-1] / early - 1:+.2%})")
    late = [m for n, m in zip(at, megabytes, strict=True) if n >= min(500, frames - 1)]
    print(f"highest from frame 500 on {max(late):.1f} MB")
    if plot:
        draw(at, megabytes, plot, f"propagate, {width}x{height}, {objects} object(s)")


def draw(at: list[int], megabytes: list[float], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    axes.plot(at, megabytes)
    axes.set(title=title, xlabel="frame", ylabel="resident memory, MB", ylim=(0, 1.2 * max(megabytes)))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    print(path)


def drawing(height: int, width: int, objects: int) -> tuple[list[bytes], Labels]:
    """`DISTINCT` frames as JPEG, and the label map of the first; objects cover about 8 % together."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 160, (24, 40, 3), np.uint8), (width + 4 * DISTINCT, height))
    ground = cv2.add(ground, rng.integers(0, 40, ground.shape, np.uint8))
    radius = max(6, round((0.08 * height * width / objects / np.pi) ** 0.5))
    colours = rng.integers(0, 255, (objects, 2, 3)).tolist()
    starts = rng.uniform(0.25, 0.75, (objects, 2)) * (width, height)
    jpegs, first = [], np.zeros((height, width), np.uint8)
    for t in range(DISTINCT):
        image = np.ascontiguousarray(ground[:, 4 * t : 4 * t + width])
        for i, (dark, light) in enumerate(colours):
            x, y = (int(v) for v in starts[i] + np.array([3, 2]) * t * (1 if i % 2 else -1) * height / 480)
            cv2.circle(image, (x, y), radius, dark, -1)
            cv2.circle(image, (x + radius // 4, y - radius // 4), radius // 2, light, -1)
            if t == 0:
                cv2.circle(first, (x, y), radius, i + 1, -1)
        jpegs.append(cv2.imencode(".jpg", image)[1].tobytes())
    return jpegs, first


def back_and_forth(jpegs: list[bytes], count: int) -> Iterator[bytes]:
    period = max(1, 2 * len(jpegs) - 2)
    for t in range(count):
        yield jpegs[min(t % period, period - t % period)]


def decode(jpeg: bytes) -> npt.NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def yardstick(repeats: int = 5) -> float:
    """Seconds of processor time of one Y, the least of ``repeats``."""
    x = torch.randn(1, 512, 120, 216).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(512, 512, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds: dict[str, list[float]] = {}
    with torch.inference_mode():
        for _ in range(repeats):
            timed(seconds, "Y", convolution, x)
    return min(seconds["Y"])


def resident() -> float:
    """MB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    """MB of this process in memory at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
