"""Time one SEEM on one image, station by station, in seconds of CPU time and in Y.

    python benchmarks/seem.py --model seem-focal-t-v0 --objects 1

Y is the time of one 3x3 convolution from 512 to 512 channels on 120x216 cells (122 GFLOP) in the same process and
precision, channels_last: a yardstick that makes figures from different machines comparable. The prompt is a mask of
40,000 pixels on the image itself, so that the sampler's cap of 512 points is reached; weights are random, which changes
no time.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F

from seem_core.config import PRESETS
from seem_core.decoder import DecoderPrompts
from seem_core.image_features import ImageFeatures, MaskFeatures
from seem_core.model import Seem
from seem_core.selection import choose_by_marks

STATIONS = ("backbone", "pixel decoder", "sampler", "decoder", "masks")


class Stopwatch:
    """CPU seconds per station and pass."""

    def __init__(self) -> None:
        self.passes: list[dict[str, float]] = []

    @contextmanager
    def station(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.passes[-1][name] = time.process_time() - start


def one_pass(model: Seem, image: torch.Tensor, marks: torch.Tensor, watch: Stopwatch) -> torch.Tensor:
    """Encode, sample the marked objects, decode, and make one mask per object."""
    watch.passes.append({})
    normalised = F.pad(
        model.normalise(image), (0, -image.shape[3] % model.config.divisor, 0, -image.shape[2] % model.config.divisor)
    )
    with watch.station("backbone"):
        pyramid = model.backbone(normalised)
    with watch.station("pixel decoder"):
        pixels = model.pixel_decoder(pyramid)
    size = (normalised.shape[2], normalised.shape[3])
    late = MaskFeatures.before(model.pixel_decoder.mask_features, pixels.finest)
    features = ImageFeatures(pixels.levels, late, size, size)
    with watch.station("sampler"):
        tokens = model.sample(features, F.pad(marks, (0, size[1] - marks.shape[2], 0, size[0] - marks.shape[1])))
    with watch.station("decoder"):
        output = model.decode(features, DecoderPrompts(stroke=tokens), objects=False)
    with watch.station("masks"):
        v1 = model.decoder.routing.separate_objects
        queries = output.spatial or output.objects
        assert queries is not None
        choice = choose_by_marks(queries, tokens.positive, model.config.decoder.queries_per_object if v1 else None)
        return late.logits(choice.mask_embeddings)


def yardstick(dtype: torch.dtype) -> Callable[[], float]:
    """A function that takes one Y and returns its CPU seconds."""
    conv = torch.nn.Conv2d(512, 512, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)
    x = torch.randn(1, 512, 120, 216, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def measure() -> float:
        start = time.process_time()
        conv(x)
        return time.process_time() - start

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(PRESETS), default="seem-focal-t-v0")
    parser.add_argument("--routing", choices=("demo", "v0", "v1"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(480, 864))
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = PRESETS[arguments.model]
    config = replace(config, routing=arguments.routing or config.routing, text=None)
    dtype = getattr(torch, arguments.dtype)
    height, width = arguments.size
    with torch.inference_mode():
        model = config.build().eval().to(memory_format=torch.channels_last).set_precision(dtype)
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        marks = torch.zeros(arguments.objects, height, width, dtype=torch.bool)
        for n in range(arguments.objects):
            marks[n, 20 * n : 20 * n + 200, 30 * n : 30 * n + 200] = True
        measure, watch, ys = yardstick(dtype), Stopwatch(), []
        for repeat in range(arguments.repeats + 1):
            y = measure()
            one_pass(model, image, marks, watch)
            if repeat:  # the first pass warms up
                ys.append(y)
    report(arguments, watch.passes[1:], ys)


def report(arguments: argparse.Namespace, passes: list[dict[str, float]], ys: list[float]) -> None:
    """Medians over the passes; ratios are of each pass to the Y taken just before it."""
    print(
        f"{arguments.model} {arguments.dtype} {arguments.size[0]}x{arguments.size[1]}, {arguments.objects} object(s),"
    )
    print(f"{arguments.threads} thread(s), torch {torch.__version__}, median of {len(passes)}")
    print(f"  Y              {statistics.median(ys):7.3f} s")
    rows = [(name, [p[name] for p in passes]) for name in STATIONS]
    rows.append(("total", [sum(p.values()) for p in passes]))
    for name, seconds in rows:
        ratio = statistics.median(s / y for s, y in zip(seconds, ys, strict=True))
        print(f"  {name:14} {statistics.median(seconds):7.3f} s {ratio:6.2f} Y")
    print(f"  peak memory    {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GB")


if __name__ == "__main__":
    main()
