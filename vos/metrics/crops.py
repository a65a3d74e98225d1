"""The part of two label maps that one object touches, cut out once so that its measures cost what the object costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trackers.base import Labels

LabelMap = Labels | npt.NDArray[np.bool_]  # (H, W); a bool map holds the one object 1


@dataclass(frozen=True, eq=False)
class ObjectCrop:
    """One object in prediction and truth, (h, w) bool each, cut to the box that holds both.

    The box goes one pixel beyond the masks on every side where the frame does, so that every boundary pixel of the
    full frame lies inside with the neighbours it is compared to; the crop's edge is the frame's, or empty.
    """

    prediction: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.bool_]


def check_maps(prediction: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
    """Raise ValueError unless both are (H, W) maps of integers or bools, of one shape, with at least one pixel."""
    if prediction.ndim != 2 or prediction.shape != truth.shape or prediction.size == 0:
        raise ValueError(f"prediction and truth are (H, W) of one shape, not {prediction.shape} and {truth.shape}")
    for array in (prediction, truth):
        if array.dtype.kind not in "bui":
            raise ValueError(f"a label map holds integers or bools, not {array.dtype}")


def object_crops(prediction: LabelMap, truth: LabelMap, ids: Sequence[int]) -> Iterator[ObjectCrop]:
    """One crop for each of ``ids`` in their order, of two (H, W) label maps; (1, 1) False for an object in neither."""
    H, W = truth.shape
    for object_id in ids:
        whole_prediction, whole_truth = prediction == object_id, truth == object_id
        x0, y0, x1, y1 = _joint_box(whole_prediction, whole_truth)
        rows, columns = slice(max(y0 - 1, 0), min(y1 + 1, H)), slice(max(x0 - 1, 0), min(x1 + 1, W))
        yield ObjectCrop(whole_prediction[rows, columns], whole_truth[rows, columns])


def _joint_box(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (ends excluded) of the True pixels of both; an empty box at the origin where there are none."""
    boxes = [cv2.boundingRect(mask.view(np.uint8)) for mask in (a, b)]
    boxes = [box for box in boxes if box[2] > 0] or [(0, 0, 0, 0)]
    return (
        min(x for x, _, _, _ in boxes),
        min(y for _, y, _, _ in boxes),
        max(x + w for x, _, w, _ in boxes),
        max(y + h for _, y, _, h in boxes),
    )
