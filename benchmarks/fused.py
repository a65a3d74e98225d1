"""What `fused` gains and costs: against decoders of known quality, an object that returns, and processor time.

    python benchmarks/fused.py quality DAVIS [--set dev] [--decoder oracle --decoder noise ...] [--seeds 0]
    python benchmarks/fused.py return
    python benchmarks/fused.py speed [--model seem-focal-t-v0] [--objects 1]

quality  J&F on a DAVIS set, every object prompted by its first mask. The decoders are those of
         tests/support/oracle_segmenter.py: the truth, spoilt by a recipe, or noise.
return   an object leaves a drawn scene for 20 frames and comes back elsewhere: frames until it is found again
speed    processor time per frame of `propagate`, `reference` and `fused`, which take turns in one process on one
         thread, as ratios; the model has random weights, which changes no time
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from oracle_segmenter import NoiseSegmenter, OracleSegmenter, Recipe, Truth
from scenes import iou, scene

from seem_core.prompts import MaskPrompt
from seem_core.segmenter_types import ObjectTokens, Prediction, Segmenter, Trained
from trackers.base import Image, Tracker
from trackers.dense import Reading
from trackers.fused import FusedTracker
from trackers.memory_bank import MemoryBank
from trackers.merge import soft_aggregate
from trackers.propagate import PropagateTracker
from trackers.propagation import Keys, LabelPropagation, PropagationConfig
from vos.device import tune_process

Labels = npt.NDArray[Any]  # (H, W)
WARM_UP = 4  # frames that are not timed

RECIPES = {
    "oracle": Recipe(),
    "oracle, drops 40 %": Recipe(drop=0.4),
    "oracle, erodes": Recipe(grow=(-0.2, 0.0)),
    "oracle, constant scores": Recipe(scores=(0.7, 0.7, 0.7), spread=0.0),
    "oracle, swaps often and long": Recipe(swap=0.06, swap_frames=5.0),
}
NOISE = {"noise": False, "noise, always the same": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    quality = commands.add_parser("quality", help="J&F with oracles and noise")
    quality.add_argument("davis", type=Path, help="DAVIS root")
    quality.add_argument("--set", default="dev", help="list in ImageSets")
    quality.add_argument("--decoder", action="append", choices=[*RECIPES, *NOISE], help="default: all")
    quality.add_argument("--seeds", type=int, nargs="+", default=[0])
    quality.add_argument("--size", default="864x480", help="WxH of about which frames are encoded for propagation")
    commands.add_parser("return", help="an object that comes back")
    speed = commands.add_parser("speed", help="processor time per frame")
    speed.add_argument("--model", default="seem-focal-t-v0", help="configuration of the model")
    speed.add_argument("--objects", type=int, default=1)
    speed.add_argument("--frames", type=int, default=10, help="frames that are timed")
    arguments = parser.parse_args()
    tune_process(1)
    if arguments.command == "quality":
        width, height = map(int, arguments.size.split("x"))
        decoders = arguments.decoder or [*RECIPES, *NOISE]
        compare(arguments.davis, arguments.set, decoders, arguments.seeds, PropagationConfig(pixels=width * height))
    elif arguments.command == "return":
        come_back()
    else:
        ratios(arguments.model, arguments.objects, arguments.frames)


# --- quality ---


def compare(
    root: Path, set_name: str, decoders: Sequence[str], seeds: Sequence[int], config: PropagationConfig
) -> None:
    """A row per sequence: `propagate`, and `fused` with every decoder."""
    from vos.benchmarks.layouts import open_layout

    layout = open_layout(root)
    runs = [(decoder, seed) for decoder in decoders for seed in seeds]
    print("| sequence | propagate |", *(f" {decoder}{f', seed {seed}' * (len(seeds) > 1)} |" for decoder, seed in runs))
    print("|---" * (len(runs) + 2) + "|")
    rows = []
    for name in layout.set_names(set_name):
        images, labels = read_sequence(layout.sequence(name))
        trackers: list[Tracker] = [PropagateTracker(config=config)]
        trackers += [
            FusedTracker(decoder_of(decoder, images, labels, seed), reader=LabelPropagation(config))
            for decoder, seed in runs
        ]
        rows.append([j_and_f(tracker, images, labels) for tracker in trackers])
        print(f"| {name} |", *(f"{figure:.3f} |" for figure in rows[-1]), flush=True)
    means = np.mean(rows, 0)
    print("| mean |", *(f"**{figure:.3f}** |" for figure in means))
    print("| against propagate | |", *(f"{figure - means[0]:+.3f} |" for figure in means[1:]))


def read_sequence(sequence: Any) -> tuple[list[Image], list[Labels]]:
    """Frames and label maps; a mask of 0/255 is object 1, beside other ids 255 is void."""
    from vos.benchmarks.davis_prompts import sequence_images
    from vos.images import read_image
    from vos.label_files import VOID, read_labels

    images, labels = [read_image(path) for path in sequence_images(sequence)], []
    for path in sequence.masks.values():
        found = read_labels(path)
        single = set(np.unique(found).tolist()) <= {0, VOID}
        labels.append((found > 0).astype(np.uint8) if single else np.where(found == VOID, 0, found))
    return images, labels


def decoder_of(name: str, images: Sequence[Image], labels: Sequence[Labels], seed: int) -> Segmenter:
    if name in NOISE:
        return NoiseSegmenter(images, seed=seed, stuck=NOISE[name])
    truths = [{int(i): truth == i for i in np.unique(labels[0]) if i} for truth in labels]
    return OracleSegmenter(images, truths, RECIPES[name], seed=seed)


def j_and_f(tracker: Tracker, images: Sequence[Image], labels: Sequence[Labels]) -> float:
    """Mean of J and F over objects and frames, the first and the last left out as DAVIS does."""
    from vos.metrics import measure_labels

    ids = [int(i) for i in np.unique(labels[0]) if i]
    found = [
        tracker.step(image, [MaskPrompt(labels[0] == i, i) for i in ids] if n == 0 else ()).labels
        for n, image in enumerate(images)
    ]
    measured = [measure_labels(f, t, ids) for f, t in list(zip(found, labels, strict=True))[1:-1]]
    return float(np.mean(measured))


# --- return ---


class Blind(LabelPropagation):
    """Sees object 1 no more, once ``blind`` is set: whoever finds it again, it is not propagation."""

    blind = False

    def read(self, view: Keys, bank: MemoryBank) -> Reading:
        found = super().read(view, bank)
        if not self.blind:
            return found
        masks = found.masks * torch.tensor([float(i != 1) for i in found.ids])[:, None, None]
        return Reading(found.ids, soft_aggregate(masks), masks, found.scores)


def come_back(seeds: int = 10, away: int = 20) -> None:
    """Frames from the return of an object until its mask overlaps the true one by more than half."""
    here = [[(60 + 4 * t, 70), (200, 120)] for t in range(12)]
    back = [[(250 - 4 * t, 60), (200, 120)] for t in range(6)]
    drawn = scene([*here, *[[None, (200, 120)]] * away, *back])
    truths = [dict(enumerate(masks, 1)) for masks in drawn.masks]
    leaves, returns = len(here), len(here) + away
    config = PropagationConfig(pixels=180 * 320)
    for name, blind in (("propagation sees it again", False), ("propagation never does", True)):
        reports = []
        for seed in range(seeds):
            reader = Blind(config)
            tracker = FusedTracker(OracleSegmenter(drawn.images, truths, seed=seed), reader=reader)
            found = []
            for n, image in enumerate(drawn.images):
                reader.blind = blind and n >= leaves
                found.append(tracker.step(image, [MaskPrompt(m, i) for i, m in truths[0].items()] if n == 0 else ()))
            seen = [iou(f.mask(1), t[1]) > 0.5 for f, t in zip(found[returns:], truths[returns:], strict=True)]
            reports.append(
                (seen.index(True) + 1 if any(seen) else 0, sum(not f.lost[0] for f in found[leaves:returns]))
            )
        print(f"{name}: found on frame {[frame for frame, _ in reports]} after its return (0: not at all);", end=" ")
        print(f"a mask on {[false for _, false in reports]} of {away} frames without it")


# --- speed ---


class Timed:
    """A segmenter that adds up the processor time of its calls in ``seconds``."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.seconds = 0.0

    @property
    def name(self) -> str:
        return self._segmenter.name

    @property
    def trained(self) -> Trained:
        return self._segmenter.trained

    def encode(self, image: Tensor) -> Any:
        return self._timed(self._segmenter.encode, image)

    def segment(self, *arguments: Any, **options: Any) -> Prediction:
        found: Prediction = self._timed(self._segmenter.segment, *arguments, **options)
        return found

    def remember(self, *arguments: Any, **options: Any) -> list[ObjectTokens]:
        views: list[ObjectTokens] = self._timed(self._segmenter.remember, *arguments, **options)
        return views

    def recall(self, *arguments: Any, **options: Any) -> Prediction:
        found: Prediction = self._timed(self._segmenter.recall, *arguments, **options)
        return found

    def _timed(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        result = call(*arguments, **options)
        self.seconds += time.process_time() - start
        return result


def ratios(model: str, objects: int, frames: int) -> None:
    """`fused` beside `propagate`, its decoder not counted; then with a model, beside `propagate` and `reference`."""
    from seem_core.config import PRESETS
    from seem_core.segmenter import SeemSegmenter
    from trackers.reference import ReferenceTracker

    images, truths = moving(objects)
    oracle = Timed(OracleSegmenter(images, truths))
    propagate, fused = take_turns(
        [PropagateTracker(), FusedTracker(oracle, reader=LabelPropagation())], images, truths, oracle, 3 * frames
    )
    print(f"854x480, {objects} object(s), CPU seconds per frame, medians; ratios are medians over the frames")
    print(f"propagate {median(propagate):.3f}, fused without its decoder {median(fused):.3f}:", end=" ")
    print(f"ratio {median_ratio(fused, propagate):.3f} ({3 * frames} frames)")
    built = PRESETS[model].build().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seem = SeemSegmenter(built)
    trackers: list[Tracker] = [
        PropagateTracker(),
        ReferenceTracker(seem),
        FusedTracker(seem, decoder="on", reader=LabelPropagation()),
    ]
    propagate, reference, fused = take_turns(trackers, images, truths, None, frames)
    both = [p + r for p, r in zip(propagate, reference, strict=True)]
    print(
        f"{model}: propagate {median(propagate):.3f}, reference {median(reference):.3f}, fused {median(fused):.3f}:",
        end=" ",
    )
    print(f"fused / (reference + propagate) {median_ratio(fused, both):.3f} ({frames} frames)")


def take_turns(
    trackers: Sequence[Tracker], images: Sequence[Image], truths: Sequence[Truth], apart: Timed | None, frames: int
) -> list[list[float]]:
    """Seconds per frame of every tracker, without those that ``apart`` takes; the first frames fill caches."""
    seconds: list[list[float]] = [[] for _ in trackers]
    prompts = [MaskPrompt(mask, i) for i, mask in truths[0].items()]
    for n, image in enumerate(images[: frames + WARM_UP]):
        for tracker, spent in zip(trackers, seconds, strict=True):
            before, start = apart.seconds if apart else 0.0, time.process_time()
            tracker.step(image, prompts if n == 0 else ())
            spent.append(time.process_time() - start - (apart.seconds - before if apart else 0.0))
    return [spent[WARM_UP:] for spent in seconds]


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return median(x / y for x, y in zip(a, b, strict=True))


def moving(objects: int) -> tuple[list[Image], list[Truth]]:
    """Frames of discs that move over a textured ground, and their true masks."""
    places = [[(120 + 90 * (i % 8) + 3 * t, 100 + 120 * (i // 8)) for i in range(objects)] for t in range(48)]
    drawn = scene(places, 480, 854, radius=60 if objects == 1 else 40)
    return list(drawn.images), [dict(enumerate(masks, 1)) for masks in drawn.masks]


if __name__ == "__main__":
    main()
