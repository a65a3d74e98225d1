"""Label maps at source size, made object by object and in row blocks: memory never holds a full-size map per object.

Borders come from the tracker (at stride 4 of the encoded image) and are interpolated bilinearly. Guided filters, grey
and colour, at several radii, were measured instead: they gained J and lost more F.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from trackers.base import Labels

BLOCK_PIXELS = 2**20  # of one float map at a time

Maps = npt.NDArray[np.float32]


def label_map(shares: Maps, ids: Sequence[int], height: int, width: int) -> Labels:
    """(height, width) label map of the largest of ``shares`` (N + 1, h, w), background first, upsampled bilinearly
    (pixel centres aligned); a tie goes to the background, then to the first object."""
    labels = empty_labels(height, width, ids)
    extents = [_extent(share > 0, height, width) for share in shares[1:]]
    block = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, block):
        bottom = min(top + block, height)
        here = [(n, columns) for n, (rows, columns) in enumerate(extents) if rows.start < bottom and rows.stop > top]
        if not here:
            continue
        best = upsample_rows(shares[0], top, bottom, height, width)
        for n, columns in here:
            share = upsample_rows(shares[n + 1], top, bottom, height, width)[:, columns]
            better = share > best[:, columns]
            labels[top:bottom, columns][better] = ids[n]
            np.maximum(best[:, columns], share, out=best[:, columns])
    return labels


def upsample_rows(share: Maps, top: int, bottom: int, height: int, width: int) -> Maps:
    """Rows top..bottom of the bilinear upsampling of (h, w) to (height, width), pixel centres aligned."""
    h = share.shape[0]
    y = np.clip((np.arange(top, bottom, dtype=np.float32) + 0.5) * (h / height) - 0.5, 0, h - 1)
    above = y.astype(int)
    below = np.minimum(above + 1, h - 1)
    weight = (y - above)[:, None].astype(np.float32)
    rows = share[above] * (1 - weight) + share[below] * weight  # (rows, w)
    return np.asarray(cv2.resize(rows, (width, bottom - top), interpolation=cv2.INTER_LINEAR))


def _extent(there: npt.NDArray[np.bool_], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the source that cells marked in ``there`` can reach."""
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return _reach(rows, there.shape[0], height), _reach(columns, there.shape[1], width)


def _reach(cells: npt.NDArray[np.intp], count: int, size: int) -> slice:
    scale = size / count
    return slice(max(0, int((cells[0] - 1) * scale)), min(size, int((cells[-1] + 2) * scale) + 1))


def label_dtype(ids: Sequence[int]) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds every id."""
    return np.uint8 if max(ids, default=0) <= 255 else np.uint16


def empty_labels(height: int, width: int, ids: Sequence[int]) -> Labels:
    """A label map of background, wide enough for ``ids``."""
    return np.zeros((height, width), np.uint8) if max(ids, default=0) <= 255 else np.zeros((height, width), np.uint16)
