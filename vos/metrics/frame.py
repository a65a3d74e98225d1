"""J and F of every object of one frame together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vos.metrics.contour import BOUND, crop_accuracy, tolerance
from vos.metrics.crops import LabelMap, check_maps, object_crops
from vos.metrics.region import crop_jaccard


def measure_labels(
    prediction: LabelMap, truth: LabelMap, ids: Sequence[int], *, bound: float = BOUND
) -> npt.NDArray[np.float64]:
    """(len(ids), 2) float64, J and F of each object of two (H, W) label maps; 1 and 1 for an object in neither.

    The same values as `jaccard_of_labels` and `contour_accuracy_of_labels`, with each object cut out once. Raises
    ValueError for other shapes or types.
    """
    check_maps(prediction, truth)
    radius = tolerance(truth.shape[0], truth.shape[1], bound)
    rows = [
        (crop_jaccard(crop.prediction, crop.truth), crop_accuracy(crop.prediction, crop.truth, radius))
        for crop in object_crops(prediction, truth, ids)
    ]
    return np.array(rows, np.float64).reshape(-1, 2)
