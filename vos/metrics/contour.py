"""Contour accuracy F: how many boundary pixels lie close to the other boundary (Perazzi et al., DAVIS, CVPR 2016).

A boundary is kept as one integer, a bit for each pixel, row after row with a gap of ``radius`` zero bits between rows.
Dilation by a disk is then a few dozen shifts of that integer, and counting is `int.bit_count`: exact, and several times
faster than dilating byte masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, hypot, isqrt

import numpy as np
import numpy.typing as npt

from vos.metrics.crops import LabelMap, check_maps, object_crops
from vos.metrics.region import check_masks

BOUND = 0.008  # tolerance as a fraction of the frame's diagonal


def boundary_map(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(H, W) bool -> (H, W) bool: pixels that differ from their right, lower or lower-right neighbour.

    The last row is compared to the right only, the last column downwards only, the corner is never a boundary.
    """
    boundary = np.zeros_like(mask)
    boundary[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    boundary[:-1] |= mask[:-1] ^ mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary


def tolerance(height: int, width: int, bound: float = BOUND) -> int:
    """Radius in pixels within which boundary pixels match: ceil(bound * diagonal), at least 1."""
    if not 0 < bound < 1:
        raise ValueError(f"bound is a fraction of the diagonal between 0 and 1, not {bound}")
    return ceil(bound * hypot(height, width))


def contour_accuracy(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], *, bound: float = BOUND
) -> npt.NDArray[np.float64]:
    """F of (..., H, W) bool masks -> (...) float64 in 0..1, the harmonic mean of boundary precision and recall.

    1 where neither mask has a boundary, 0 where only one has. Raises ValueError for other types, other shapes, or
    masks without pixels.
    """
    check_masks(prediction, truth)
    shape = truth.shape
    flat = zip(prediction.reshape(-1, *shape[-2:]), truth.reshape(-1, *shape[-2:]), strict=True)
    values = [float(contour_accuracy_of_labels(p, t, (1,), bound=bound)[0]) for p, t in flat]
    return np.array(values, np.float64).reshape(shape[:-2])


def contour_accuracy_of_labels(
    prediction: LabelMap,
    truth: LabelMap,
    ids: Sequence[int],
    *,
    bound: float = BOUND,
) -> npt.NDArray[np.float64]:
    """F of each object of two (H, W) label maps -> (len(ids),) float64. Raises ValueError for other shapes or types."""
    check_maps(prediction, truth)
    radius = tolerance(truth.shape[0], truth.shape[1], bound)
    crops = object_crops(prediction, truth, ids)
    return np.array([crop_accuracy(crop.prediction, crop.truth, radius) for crop in crops], np.float64)


def crop_accuracy(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], radius: int) -> float:
    """F of one object cut out as `ObjectCrop` describes, (h, w) bool; ``radius`` is the full frame's `tolerance`."""
    pitch = truth.shape[1] + radius  # bits from one row to the next
    predicted, true = (_as_bits(boundary_map(mask), pitch) for mask in (prediction, truth))
    n_predicted, n_true = predicted.bit_count(), true.bit_count()
    if n_predicted == 0 or n_true == 0:
        return float(n_predicted == n_true)
    if predicted == true:
        return 1.0
    precision = (predicted & _dilate(true, pitch, radius)).bit_count() / n_predicted
    recall = (true & _dilate(predicted, pitch, radius)).bit_count() / n_true
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _as_bits(mask: npt.NDArray[np.bool_], pitch: int) -> int:
    """(h, w) bool as an integer: pixel (x, y) is bit y * pitch + x."""
    h, w = mask.shape
    spaced = np.zeros((h, pitch), np.bool_)
    spaced[:, :w] = mask
    return int.from_bytes(np.packbits(spaced, bitorder="little").tobytes(), "little")


@lru_cache(maxsize=64)
def _disk_half_widths(radius: int) -> tuple[int, ...]:
    """Half width of a disk's row at distance 0, 1, ..., radius from its centre: pixels with x^2 + y^2 <= radius^2."""
    return tuple(isqrt(radius * radius - dy * dy) for dy in range(radius + 1))


def _dilate(bits: int, pitch: int, radius: int) -> int:
    """Dilation by a disk. What leaves the picture lands in the gaps or beyond the end, where no boundary is."""
    widened = [bits]  # by 0, 1, ..., radius pixels to both sides
    for width in range(1, radius + 1):
        widened.append(widened[-1] | bits << width | bits >> width)
    up = down = 0
    for half_width in reversed(_disk_half_widths(radius)):  # from the disk's last row to its centre
        up = up >> pitch | widened[half_width]
        down = down << pitch | widened[half_width]
    return up | down
