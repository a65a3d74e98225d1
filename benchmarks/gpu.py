"""Speed of the dense reader on a GPU: training per stage, and tracking. Prints a short table.

python benchmarks/gpu.py PACK WEIGHTS [--steps 8]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seem_core.reader import Memory
from seem_core.reader_weights import load_reader
from seem_core.training.loop import Stage
from seem_core.training.pack import Pack
from seem_core.training.reader_task import LAYOUTS, ReaderTask
from seem_core.training.train_reader import GPU_STAGES, TUNED_ALGORITHMS, parse_stages


def training(task: ReaderTask, stage: Stage, steps: int, layout: str) -> str:
    """Frames per second, share of the time for clips, peak memory, of ``steps`` steps after three to warm up."""
    task.use_layout(layout)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    data, first = 0.0, time.perf_counter()
    for i in range(steps + 3):
        if i == 3:
            torch.cuda.synchronize()
            began, data = time.perf_counter(), 0.0
            first = began - first
        before = time.perf_counter()
        batch = task.batch(0, i, stage)
        torch.cuda.synchronize()
        data += time.perf_counter() - before
        loss, _ = task.loss(batch, 0, i, 0.5)
        torch.autograd.backward(loss)
        task.model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / steps
    speed, peak = stage.clips * stage.frames / seconds, torch.cuda.max_memory_allocated() / 2**30
    return (
        f"train {stage.size}px {stage.clips}x{stage.frames} {layout}: {speed:.0f} frames/s, {seconds:.3f} s/step,"
        f" clips {data / steps / seconds:.0%}, first 3 steps {first:.1f} s, peak {peak:.1f} GiB,"
        f" loss {float(loss.detach()):.3f}"
    )


def profile(task: ReaderTask, stage: Stage) -> str:
    """The operators that take most device time in one step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        loss, _ = task.loss(task.batch(0, 0, stage), 0, 0, 0.5)
        torch.autograd.backward(loss)
        torch.cuda.synchronize()
    return found.key_averages().table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=60)


def tracking(weights: Path, objects: int, frames: int = 60) -> str:
    """Frames per second of encode, read (6 frames) and write at 480 x 864."""
    model = load_reader(weights, "cuda").to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 480, 864, device="cuda") * 255
    masks = torch.rand(1, objects, 240, 432, device="cuda") / objects
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for i in range(frames + 10):
            if i == 10:
                torch.cuda.synchronize()
                began = time.perf_counter()
            features = model.encode(image)
            values = model.write(features, masks)
            model.read(features, Memory.of([values] * 6), values)
        torch.cuda.synchronize()
    return f"track 480x864, {objects} objects: {frames / (time.perf_counter() - began):.0f} frames/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--stage", action="append", help="UNTIL:SIZE:CLIPS:FRAMES; may be repeated")
    parser.add_argument("--tune", choices=("off", "on", "both"), default="both", help="cuDNN times its algorithms")
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--profile", action="store_true", help="list the costliest operators of the first stage")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    began = time.perf_counter()
    stages = parse_stages(options.stage) or GPU_STAGES
    tunes = {"off": (False,), "on": (True,), "both": (False, True)}[options.tune]
    torch.backends.cudnn.benchmark_limit = TUNED_ALGORITHMS
    device = torch.device("cuda")
    task = ReaderTask(load_reader(options.weights), Pack(options.pack), device, workers=8, precision=torch.bfloat16)
    print(f"{torch.cuda.get_device_name()}: pack decoded in {time.perf_counter() - began:.1f} s", flush=True)
    try:
        for stage, layout, tune in itertools.product(stages, options.layout or LAYOUTS, tunes):
            torch.backends.cudnn.benchmark = tune
            try:
                line = training(task, stage, options.steps, layout)
            except torch.OutOfMemoryError:
                line = f"train {stage}: out of memory"
            print(f"{line}{', tuned' if tune else ''}", flush=True)
        if options.profile:
            task.use_layout("channels_last")
            print(profile(task, stages[0]), flush=True)
    finally:
        task.close()
    for objects in (1, 5):
        print(tracking(options.weights, objects), flush=True)


if __name__ == "__main__":
    main()
