"""Time one SEEM on one image, station by station, in seconds of CPU time and in Y.

    python benchmarks/seem.py --model seem-focal-t-v0 --objects 1
    python benchmarks/seem.py --table                                    every row of docs/performance.md
    python benchmarks/seem.py --table --model seem-focal-t-v0 ...        its rows of these models alone

Y is the time of one 3x3 convolution from 512 to 512 channels on 120x216 cells (122 GFLOP) in the same process and
precision, channels_last: a yardstick that makes figures from different machines comparable. The prompt is a mask of
40,000 pixels on the image itself, so that the sampler's cap of 512 points is reached; weights are random, which changes
no time.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch
import torch.nn.functional as F

from seem_core.config import PRESETS
from seem_core.convert import expected_shapes
from seem_core.decoder import DecoderPrompts
from seem_core.image_features import ImageFeatures, MaskFeatures
from seem_core.model import Seem
from seem_core.routing import RoutingName
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


@dataclass(frozen=True)
class Case:
    """One row: what is timed. size: (height, width) of the image, which SAM's encoder pads to its own."""

    model: str
    objects: int = 1
    dtype: str = "float32"
    routing: RoutingName | None = None
    size: tuple[int, int] = (480, 864)
    repeats: int = 5
    threads: int = 1


@dataclass(frozen=True)
class Measured:
    """Medians over the passes: seconds and Y per station (and in all); peak memory in GB; parameters in millions."""

    case: Case
    parameters: float
    yardstick: float
    seconds: dict[str, float]
    ys: dict[str, float]
    memory: float


TABLE = (
    *(Case(f"seem-focal-t-{routing}", objects) for routing in ("v0", "v1") for objects in (1, 5)),
    *(Case(f"seem-focal-t-{routing}", dtype="bfloat16") for routing in ("v0", "v1")),
    *(Case(f"seem-focal-l-{routing}", repeats=3) for routing in ("v0", "v1")),
    *(Case(f"seem-sam-{size}-v1", repeats=2) for size in ("b", "l")),
    *(Case(f"seem-davit-{depth}-v1", repeats=3) for depth in ("d3", "d5")),
    *(Case("lite", objects) for objects in (1, 5)),
    Case("lite", dtype="bfloat16"),
)


def measure(case: Case) -> Measured:
    """Time one case; ratios are of each pass to the Y taken just before it."""
    torch.set_num_threads(case.threads)
    config = PRESETS[case.model]
    parameters = sum(math.prod(shape) for shape in expected_shapes(config).values()) / 1e6
    config = replace(config, routing=case.routing or config.routing, text=None)
    dtype, (height, width) = getattr(torch, case.dtype), case.size
    watch, ys = Stopwatch(), []
    with torch.inference_mode():
        model = config.build().eval().to(memory_format=torch.channels_last).set_precision(dtype)
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        marks = torch.zeros(case.objects, height, width, dtype=torch.bool)
        for n in range(case.objects):
            marks[n, 20 * n : 20 * n + 200, 30 * n : 30 * n + 200] = True
        take_y = yardstick(dtype)
        for _ in range(case.repeats + 1):  # the first pass warms up
            ys.append(take_y())
            one_pass(model, image, marks, watch)
    passes = [{**p, "total": sum(p.values())} for p in watch.passes[1:]]
    stations = (*STATIONS, "total")
    return Measured(
        case,
        parameters,
        statistics.median(ys[1:]),
        {name: statistics.median(p[name] for p in passes) for name in stations},
        {name: statistics.median(p[name] / y for p, y in zip(passes, ys[1:], strict=True)) for name in stations},
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def table(cases: Sequence[Case]) -> None:
    """One line of Markdown per case as it is done; each in a process of its own, so that memory is its own."""
    heads = ("model", "parameters", "Y", "backbone", "pixel decoder", "sampler, decoder, mask", "total", "in Y", "peak")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads), flush=True)
    for case in cases:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            done = pool.submit(measure, case).result()
        seconds = done.seconds
        name = f"`{case.model}`" + (f", {case.objects} objects" if case.objects > 1 else "")
        name += ", bf16" if case.dtype == "bfloat16" else ""
        decoding = seconds["sampler"] + seconds["decoder"] + seconds["masks"]
        cells = [f"{s:.2f} s" for s in (seconds["backbone"], seconds["pixel decoder"], decoding, seconds["total"])]
        y = f"{done.yardstick:.3f} s"
        row = (name, f"{done.parameters:.1f} M", y, *cells, f"**{done.ys['total']:.2f}**", f"{done.memory:.2f} GB")
        print("| " + " | ".join(row) + " |", flush=True)


def report(done: Measured) -> None:
    """One case, station by station."""
    case = done.case
    print(f"{case.model} {case.dtype} {case.size[0]}x{case.size[1]}, {case.objects} object(s),")
    print(f"{case.threads} thread(s), torch {torch.__version__}, median of {case.repeats}")
    print(f"  Y              {done.yardstick:7.3f} s")
    for name, seconds in done.seconds.items():
        print(f"  {name:14} {seconds:7.3f} s {done.ys[name]:6.2f} Y")
    print(f"  peak memory    {done.memory:7.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(PRESETS), nargs="+", help="by default seem-focal-t-v0, or all")
    parser.add_argument("--table", action="store_true", help="print a table over the models, precisions and objects")
    parser.add_argument("--routing", choices=("demo", "v0", "v1"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(480, 864))
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if asked.table:
        rows = [case for case in TABLE if case.model in (asked.model or PRESETS)]
        table([replace(case, size=tuple(asked.size), threads=asked.threads) for case in rows])
        return
    for name in asked.model or ("seem-focal-t-v0",):
        report(
            measure(
                Case(name, asked.objects, asked.dtype, asked.routing, tuple(asked.size), asked.repeats, asked.threads)
            )
        )


if __name__ == "__main__":
    main()
