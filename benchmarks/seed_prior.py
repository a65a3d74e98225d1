"""Fit the weights of `seem_core.seed_prior` on stills, and measure masks from one prompt on held-back ones.

    python benchmarks/seed_prior.py fit ../shared/data/still --held-back heldback.txt
    python benchmarks/seed_prior.py measure ../shared/data/still --held-back heldback.txt

STILLS holds folders with ``images/<name>.jpg`` and ``masks/<name>.png`` (pixel = object id); the list of held-back
stills has ``folder/name id`` per line. The click is the point farthest from the object's border; scribbles are those of
the simulated user of ``vos bench interactive``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.grabcut import Seeds, masks_from_prompts, seeds_from_box, seeds_from_strokes
from seem_core.prompt_window import Stroke
from seem_core.prompts import BoxPrompt, PointPrompt, Prompt, ScribblePrompt
from seem_core.seed_prior import features
from seem_core.training.strokes import SMALLEST, MarkKind
from vos.benchmarks.first_marks import first_mark

Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Example = tuple[str, Rgb, Mask]

_LEAST_SHARE = 0.01  # of the picture: smaller objects are not fitted to
_PIXELS = 700  # per still
_RIDGE = 30.0


def held_back(stills: Path, listing: str) -> Iterator[Example]:
    """The stills of the list, each with the object that it names."""
    for line in (stills / listing).read_text().splitlines():
        name, object_id = line.rsplit(" ", 1)
        image, ids = _read(stills, name)
        yield name, image, ids == int(object_id)


def training(stills: Path, listing: str, count: int, left_out: Sequence[str]) -> Iterator[Example]:
    """``count`` stills that are not on the list, one object of each; folders take turns."""
    kept = {line.rsplit(" ", 1)[0] for line in (stills / listing).read_text().splitlines()}
    chance = random.Random(3)
    folders = [sorted(p.glob("*.png")) for p in sorted(stills.glob("*/masks")) if p.parent.name not in left_out]
    while count:
        for masks in folders:
            path = chance.choice(masks)
            name = f"{path.parents[1].name}/{path.stem}"
            if name in kept or not count:
                continue
            image, ids = _read(stills, name)
            large = [i for i in np.unique(ids) if i and (ids == i).mean() > max(_LEAST_SHARE, SMALLEST / ids.size)]
            if large and ids.shape == image.shape[:2]:
                count -= 1
                yield name, image, ids == chance.choice(large)


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return float(x), float(y), float(x + max(1, w - 1)), float(y + max(1, h - 1))


def click_on(mask: Mask) -> tuple[float, float]:
    """The pixel farthest from the border; the picture's rim counts as one."""
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance)), mask.shape)
    return float(x), float(y)


def scribble_on(mask: Mask) -> list[ScribblePrompt]:
    """What the simulated user draws; it depends on the mask alone."""
    drawn, _ = first_mark(mask, MarkKind.SCRIBBLE, np.random.default_rng(zlib.crc32(mask.tobytes())))
    return [stroke for stroke in drawn if isinstance(stroke, ScribblePrompt)]


def fit(examples: list[Example], kind: str) -> tuple[float, npt.NDArray[np.float64]]:
    """Bias and weights by penalised logistic regression (Newton's method) on standardised features."""
    chance = np.random.default_rng(0)
    rows, truths, weights = [], [], []
    for _, image, mask in examples:
        seeds, allowed = _seeds(mask, kind)
        found = features(seeds.window.shrink(image), seeds.inside, seeds.outside, seeds.place)
        truth = seeds.window.shrink(mask.astype(np.float32)).reshape(-1)
        chosen = chance.choice(allowed, min(_PIXELS, len(allowed)), replace=False)
        rows.append(found.reshape(len(truth), -1)[chosen])
        truths.append(truth[chosen])
        share = max(float(mask.mean()), 0.02)
        weights.append(np.full(len(chosen), 1.0 if kind == "box" else share**-0.5))
    X, y, weight = (np.concatenate(part).astype(np.float64) for part in (rows, truths, weights))
    return _logistic(X, y, weight / weight.mean())


def _logistic(
    X: npt.NDArray[np.float64], y: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> tuple[float, npt.NDArray[np.float64]]:
    mean, spread = X.mean(axis=0), X.std(axis=0) + 1e-6
    Z = np.column_stack([(X - mean) / spread, np.ones(len(X))])
    w = np.zeros(Z.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-Z @ w))
        slope = Z.T @ (weight * (p - y)) + _RIDGE * w
        curvature = (Z * (weight * p * (1 - p))[:, None]).T @ Z + _RIDGE * np.eye(len(w))
        w -= np.linalg.solve(curvature, slope)
    scaled = w[:-1] / spread
    return float(w[-1] - mean @ scaled), scaled


def measure(examples: Iterator[Example]) -> None:
    """Print mean IoU and CPU time per prompt, over all stills and per folder."""
    found: dict[str, dict[str, list[float]]] = {"box": {}, "click": {}, "scribble": {}}
    spent = dict.fromkeys(found, 0.0)
    for name, image, mask in examples:
        given: dict[str, Sequence[Prompt]] = {
            "box": [BoxPrompt(*box_of(mask))],
            "click": [PointPrompt(*click_on(mask))],
            "scribble": scribble_on(mask),
        }
        for kind, prompts in given.items():
            begin = time.process_time()
            got = masks_from_prompts(image, prompts)[1]
            spent[kind] += time.process_time() - begin
            iou = float((got & mask).sum() / (got | mask).sum())
            found[kind].setdefault(name.split("/")[0], []).append(iou)
    for kind, folders in found.items():
        every = [iou for values in folders.values() for iou in values]
        mean, median = statistics.mean(every), statistics.median(every)
        print(f"{kind}: mean IoU {mean:.3f}, median {median:.3f}, {len(every)} stills")
        print("   ", ", ".join(f"{folder} {statistics.mean(ious):.3f}" for folder, ious in sorted(folders.items())))
        print(f"   {spent[kind] / len(every):.2f} s CPU per prompt")


def _seeds(mask: Mask, kind: str) -> tuple[Seeds, npt.NDArray[np.intp]]:
    """Seeds as a user's prompt gives them, and the pixels whose probability is asked for."""
    shape = (mask.shape[0], mask.shape[1])
    if kind == "box":
        seeds = seeds_from_box(box_of(mask), shape)
        return seeds, np.flatnonzero(seeds.window.in_box(box_of(mask)))
    if kind == "click":
        strokes = [Stroke(np.array([click_on(mask)]), 1.0, True, is_click=True)]
    else:
        strokes = [Stroke(np.array(s.points, np.float64), s.width, True) for s in scribble_on(mask)]
    seeds = seeds_from_strokes(strokes, shape)
    return seeds, np.arange(seeds.inside.size)


def _read(stills: Path, name: str) -> tuple[Rgb, npt.NDArray[np.uint8]]:
    folder, stem = name.split("/")
    image = np.asarray(Image.open(stills / folder / "images" / f"{stem}.jpg").convert("RGB"))
    return image, np.asarray(Image.open(stills / folder / "masks" / f"{stem}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "measure"])
    parser.add_argument("stills", type=Path)
    parser.add_argument("--held-back", default="heldback.txt", help="list of held-back stills, relative to STILLS")
    parser.add_argument("--count", type=int, default=600, help="stills to fit on")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th held-back still")
    parser.add_argument("--leave-out", nargs="*", default=["ccp"], help="folders not fitted to (ccp: ids are parts)")
    options = parser.parse_args()
    if options.what == "measure":
        measure(e for i, e in enumerate(held_back(options.stills, options.held_back)) if i % options.every == 0)
        return
    examples = list(training(options.stills, options.held_back, options.count, options.leave_out))
    for kind in ("click", "scribble", "box"):
        bias, weights = fit(examples, kind)
        print(f"FROM_{kind.upper()} = SeedModel({bias:.3f}, ({', '.join(f'{w:.3f}' for w in weights)}))")


if __name__ == "__main__":
    main()
