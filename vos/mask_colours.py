"""A coloured picture as a label map: one object per colour, unless the colours look smoothed or photographic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError
from vos.label_files import DAVIS_PALETTE

MAX_GUESSED_OBJECTS = 64  # more distinct values than this are shades, not objects
BINARY_HINT = "--mask-format binary takes everything brighter than half as one object"


def objects_by_colour(rgb: npt.NDArray[np.uint8], path: Path) -> tuple[npt.NDArray[np.uint8], dict[str, int]]:
    """(H, W) ids of the colours of (H, W, 3) RGB, black = 0, and which colour ("#ff0000") became which id.

    Ids are those of the DAVIS palette where all colours are of it, else 1, 2, ... in ascending (R, G, B) order.
    Raises MaskError where there are too many colours, or some that are blends along the border of others.
    """
    packed = _packed(rgb)  # (H, W), black = 0
    colours, inverse = np.unique(packed, return_inverse=True)
    inverse = inverse.reshape(packed.shape)
    objects = [int(c) for c in colours if c]
    if len(objects) > MAX_GUESSED_OBJECTS:
        raise _smoothed(path, f"{len(objects)} colours")
    if (blend := _a_blend(colours, inverse)) is not None:
        raise _smoothed(path, f"mixed colours such as #{blend:06x}")
    davis = _packed(DAVIS_PALETTE).tolist()
    ids = [davis.index(c) for c in objects] if set(objects) <= set(davis) else list(range(1, len(objects) + 1))
    table = np.zeros(len(colours), np.uint8)
    table[colours > 0] = ids
    return np.asarray(table[inverse]), {f"#{c:06x}": i for c, i in zip(objects, ids, strict=True)}


def _smoothed(path: Path, found: str) -> MaskError:
    return MaskError(
        f"mask {path} has {found}, as an anti-aliased or photographic picture has; paint each object in one colour "
        f"without smoothing, or, for one object, {BINARY_HINT}"
    )


def _packed(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """(..., 3) RGB -> (...) 0xRRGGBB."""
    wide = rgb.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _a_blend(colours: npt.NDArray[np.uint32], inverse: npt.NDArray[np.intp]) -> int | None:
    """A colour that lies between two others and nowhere fills a 3x3 square: the mark of a smoothed border.

    ``colours`` (K,) packed, ``inverse`` (H, W) index of each pixel's colour.
    """
    rgb = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(np.float64)  # (K, 3)
    solid = np.isin(np.arange(len(colours)), _fills_a_square(inverse))
    ends = rgb[solid]
    for k in np.flatnonzero(~solid & (colours > 0)):
        for start in ends:
            along = ends - start  # (S, 3) from one solid colour to every other
            t = (along @ (rgb[k] - start)) / np.maximum((along**2).sum(axis=1), 1)
            off = np.abs(start + t[:, None] * along - rgb[k]).max(axis=1)
            if ((t > 0) & (t < 1) & (off <= 3)).any():
                return int(colours[k])
    return None


def _fills_a_square(index: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The values that fill a 3x3 square somewhere in (H, W)."""
    middle = index[1:-1]  # (H-2, W)
    column = (middle == index[:-2]) & (middle == index[2:])  # same value above and below
    centre = middle[:, 1:-1]  # (H-2, W-2)
    row = (centre == middle[:, :-2]) & (centre == middle[:, 2:])
    return np.unique(centre[row & column[:, 1:-1] & column[:, :-2] & column[:, 2:]])
