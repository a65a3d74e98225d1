"""How likely each pixel belongs to a seeded object, from colour, distance and borders between: a small logistic model.

Three kinds of evidence, each once towards the object's seeds and once towards the background's: the geodesic distance
(how many colour edges lie between; Bai and Sapiro, ICCV 2007), the colour distance to the seeds' main colours, and how
common the colour is among them. A fourth one is the place itself. `benchmarks/seed_prior.py` fits the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (h, w, 3) RGB
Mask = npt.NDArray[np.bool_]  # (h, w)
Soft = npt.NDArray[np.float32]  # (h, w)

_STEP = 0.02  # cost of one pixel of way without any edge; colours are in 0..1
_FAR = np.float32(1e3)
_BANDWIDTH = 0.06  # of the colour densities
_COLOURS = (3, 12)  # main colours of object and background
_SAMPLES = 2000  # pixels that main colours are learnt from
_SEED = 0x5EE3


@dataclass(frozen=True)
class SeedModel:
    """Weights of the logistic model: ``bias``, and one weight per feature of `features`."""

    bias: float
    weights: tuple[float, ...]

    def __call__(self, image: Image, inside: Mask, outside: Mask, place: Soft) -> Soft:
        """(h, w) probability, 0..1. ``inside`` and ``outside`` are seeds, ``place`` as in `features`."""
        score = features(image, inside, outside, place) @ np.asarray(self.weights, np.float32) + np.float32(self.bias)
        return np.asarray(1 / (1 + np.exp(-np.clip(score, -30, 30))), dtype=np.float32)


def features(image: Image, inside: Mask, outside: Mask, place: Soft) -> npt.NDArray[np.float32]:
    """(h, w, 16) features of each pixel.

    inside, outside  seed pixels of object and background, each with at least one
    place            how far out a pixel lies: 0 at the seeds, about 1 where the object is unlikely to reach
    """
    smooth = smooth_colours(image)
    way_in, way_out = geodesic(smooth, inside), geodesic(smooth, outside)
    near_in, rare_in = _colour_evidence(smooth, smooth[inside], _COLOURS[0])
    near_out, rare_out = _colour_evidence(smooth, smooth[outside], _COLOURS[1])
    share = way_in / (way_in + way_out + np.float32(1e-3))
    columns = (
        np.sqrt(place),
        place,
        place**2,
        np.sqrt(way_in),
        way_in,
        np.sqrt(way_out),
        share,
        share**2,
        near_in,
        np.sqrt(near_in),
        np.sqrt(near_out),
        rare_in,
        rare_out,
        rare_in * place,
        np.sqrt(way_in * place),
        np.sqrt(near_in * place),
    )
    return np.stack(columns, axis=-1).astype(np.float32)


def smooth_colours(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(h, w, 3) CIE Lab in about 0..1, noise taken out, edges kept; lightness, which shadows change, counts less."""
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.float32)
    lab *= np.asarray((0.7 / 255, 1 / 255, 1 / 255), np.float32)
    return np.asarray(cv2.bilateralFilter(lab, 5, 0.1, 3), dtype=np.float32)


def geodesic(colours: npt.NDArray[np.float32], seeds: Mask, passes: int = 2) -> Soft:
    """(h, w) length of the cheapest way to a seed, where a step costs the change of colour plus a little.

    Raster sweeps down, up, right and left (Toivanen 1996), a row at a time; ``passes`` of them are exact but for ways
    that wind back and forth more often.
    """
    distance = np.where(seeds, np.float32(0), _FAR)
    turned = np.ascontiguousarray(colours.transpose(1, 0, 2))
    steps, turned_steps = _row_steps(colours), _row_steps(turned)
    for _ in range(passes):
        _sweep(distance, steps)
        flipped = np.ascontiguousarray(distance.T)
        _sweep(flipped, turned_steps)
        distance = np.ascontiguousarray(flipped.T)
    return distance


def _row_steps(colours: npt.NDArray[np.float32]) -> tuple[Soft, Soft, Soft]:
    """Costs between each row and the next: straight (h-1, w), to the right below and to the left below (h-1, w-1)."""

    def cost(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], length: float) -> Soft:
        return np.asarray(np.sqrt(((a - b) ** 2).sum(axis=-1)) + _STEP * length, dtype=np.float32)

    above, below = colours[:-1], colours[1:]
    return cost(above, below, 1), cost(above[:, :-1], below[:, 1:], 1.4), cost(above[:, 1:], below[:, :-1], 1.4)


def _sweep(distance: Soft, steps: tuple[Soft, Soft, Soft]) -> None:
    """Relax every row from the one above, then every row from the one below, in place."""
    straight, right, left = steps
    last = len(distance) - 1
    for y in range(last):
        a, b = distance[y], distance[y + 1]
        np.minimum(b, a + straight[y], out=b)
        np.minimum(b[1:], a[:-1] + right[y], out=b[1:])
        np.minimum(b[:-1], a[1:] + left[y], out=b[:-1])
    for y in range(last - 1, -1, -1):
        a, b = distance[y + 1], distance[y]
        np.minimum(b, a + straight[y], out=b)
        np.minimum(b[:-1], a[1:] + right[y], out=b[:-1])
        np.minimum(b[1:], a[:-1] + left[y], out=b[1:])


def _colour_evidence(
    colours: npt.NDArray[np.float32], samples: npt.NDArray[np.float32], count: int
) -> tuple[Soft, Soft]:
    """Per pixel: distance to the nearest main colour of the samples, and -log of how common its colour is there."""
    centres, shares = _main_colours(samples, count)
    squared = np.stack([((colours - centre) ** 2).sum(axis=-1) for centre in centres])  # (K, h, w)
    density = np.tensordot(shares, np.exp(squared / np.float32(-2 * _BANDWIDTH**2)), axes=1)
    return np.sqrt(squared.min(axis=0)), np.asarray(-np.log(density + 1e-4), dtype=np.float32)


def _main_colours(
    samples: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(K, 3) colours and (K,) shares by k-means."""
    if len(samples) > _SAMPLES:
        samples = samples[np.linspace(0, len(samples) - 1, _SAMPLES).astype(np.intp)]
    if len(samples) <= count:
        return samples, np.full(len(samples), 1 / len(samples), np.float32)
    cv2.setRNGSeed(_SEED)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 8, 0.01)
    no_labels = np.zeros((len(samples), 1), np.int32)
    _, labels, centres = cv2.kmeans(np.ascontiguousarray(samples), count, no_labels, criteria, 1, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(np.asarray(labels)[:, 0], minlength=count) / len(samples)
    return np.asarray(centres, dtype=np.float32), shares.astype(np.float32)


# Fitted on stills that no test uses, by benchmarks/seed_prior.py fit (scribbles: --count 400).
FROM_CLICK = SeedModel(2.663, (
    0.959, 2.674, -1.146, -5.587, 0.449, 1.329, -3.897, 3.139,
    3.072, -5.526, 5.009, 0.056, 0.114, -0.073, -0.444, 1.387,
))  # fmt: skip
FROM_SCRIBBLE = SeedModel(0.737, (
    -3.220, 2.001, -0.392, -3.140, -0.085, 1.862, -0.956, 1.304,
    8.801, -7.977, 4.359, -0.185, 0.105, 0.102, 0.286, 4.169,
))  # fmt: skip
FROM_BOX = SeedModel(2.133, (
    -7.632, 10.769, -3.024, -2.209, 0.503, 0.083, 0.920, -5.009,
    13.091, -5.499, 6.543, -0.287, 0.346, 0.181, 1.116, -4.006,
))  # fmt: skip
