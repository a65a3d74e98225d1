"""Region similarity J: how much two masks overlap (Perazzi et al., DAVIS, CVPR 2016, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vos.metrics.crops import LabelMap, check_maps, object_crops


def jaccard(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """J = |P and G| / |P or G| of (..., H, W) bool masks -> (...) float64 in 0..1; 1 where both are empty.

    Raises ValueError for other types, other shapes, or masks without pixels.
    """
    check_masks(prediction, truth)
    both = np.count_nonzero(prediction & truth, axis=(-2, -1))
    either = np.count_nonzero(prediction | truth, axis=(-2, -1))
    return np.asarray(np.where(either == 0, 1.0, both / np.maximum(either, 1)), np.float64)


def crop_jaccard(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """J of one object cut out as `ObjectCrop` describes, (h, w) bool."""
    either = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / either if either else 1.0


def jaccard_of_labels(prediction: LabelMap, truth: LabelMap, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """J of each object of two (H, W) label maps -> (len(ids),) float64. Raises ValueError for other shapes or types."""
    check_maps(prediction, truth)
    crops = object_crops(prediction, truth, ids)
    return np.array([crop_jaccard(crop.prediction, crop.truth) for crop in crops], np.float64)


def check_masks(prediction: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
    """Raise ValueError unless both are (..., H, W) bool of one shape with at least one pixel."""
    if prediction.shape != truth.shape or truth.ndim < 2 or 0 in truth.shape[-2:]:
        raise ValueError(f"prediction and truth are (..., H, W) of one shape, not {prediction.shape} and {truth.shape}")
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"prediction and truth are bool masks, not {prediction.dtype} and {truth.dtype}")
