"""A page of predictions as a picture: per row the image, the prompt drawn on it, the truth and the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

SIDE = 176  # of a panel, pixels
HEADER = 22
OPACITY = 0.55
COLOURS = np.array(
    [(0, 0, 0), (230, 60, 60), (60, 170, 240), (250, 190, 40), (90, 200, 90), (190, 100, 220), (240, 130, 50),
     (80, 220, 210), (240, 140, 190), (150, 150, 60), (140, 120, 250)], np.uint8
)  # fmt: skip
TITLES = ("image", "prompt", "truth", "prediction")


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture, all arrays (H, W) but the image: (H, W, 3) uint8 RGB.

    prompt, truth, prediction: object ids, 0 for none. note: what is said of it, such as a mean IoU. prompted: the
    picture that the prompt lies on, where it is another one.
    """

    image: Picture
    prompt: Labels
    truth: Labels
    prediction: Labels
    note: str = ""
    prompted: Picture | None = None


def draw_sheet(samples: Sequence[Sample], side: int = SIDE) -> Picture:
    """(H, W, 3) uint8 RGB: four panels per sample, with titles above and notes beside."""
    rows = [_titles(side)]
    for sample in samples:
        panels = (
            sample.image,
            paint(sample.image if sample.prompted is None else sample.prompted, sample.prompt, opacity=0.8),
            paint(sample.image, sample.truth),
            paint(sample.image, sample.prediction),
        )
        row = np.concatenate([_fit(panel, side) for panel in panels], axis=1)
        _write(row, sample.note, (3 * side, side))
        rows.append(row)
    return np.concatenate(rows, axis=0)


def paint(image: Picture, labels: Labels, opacity: float = OPACITY) -> Picture:
    """The image with each object in its colour."""
    shown = image.copy()
    inside = labels > 0
    colour = COLOURS[1 + (labels[inside].astype(np.int64) - 1) % (len(COLOURS) - 1)]
    shown[inside] = (opacity * colour + (1 - opacity) * image[inside]).astype(np.uint8)
    return shown


def _fit(panel: Picture, side: int) -> Picture:
    shrinks = panel.shape[0] > side
    return cv2.resize(panel, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(
        np.uint8, copy=False
    )


def _titles(side: int) -> Picture:
    strip = np.full((HEADER, side * len(TITLES), 3), 255, np.uint8)
    for i, title in enumerate(TITLES):
        cv2.putText(strip, title, (i * side + 6, HEADER - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _write(picture: Picture, text: str, corner: tuple[int, int]) -> None:
    """Text on a dark strip whose lower left corner is at (x, y)."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    x, y = corner
    picture[max(y - height - 8, 0) : y, x : x + width + 10] //= 4
    cv2.putText(picture, text, (x + 5, y - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
