"""Masks as COCO writes them: polygons, `fill_polygon`, and run lengths, `encode_rle` and `decode_rle`.

Runs go down the columns and alternate between outside and inside, beginning with outside (maybe 0 pixels long). They
are a list of numbers, or text: each number from the fourth on as its difference to the number two before it, in groups
of five bits from the lowest, a sixth bit where more follow, the last group's highest bit the sign; plus 48 as ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError

Mask = npt.NDArray[np.bool_]  # (H, W)

_MOST_PIXELS = 1 << 28
_FIRST, _MORE, _SIGN, _FIVE_BITS = 48, 0x20, 0x10, 0x1F
_MOST_GROUPS = 7  # 35 bits hold any run of `_MOST_PIXELS`


def fill_polygon(corners: npt.NDArray[np.float64], height: int, width: int) -> Mask:
    """(H, W) bool: pixels whose centre lies inside (even-odd rule); corners (n, 2) x, y, pixel (0, 0) spans 0..1."""
    changes = np.zeros((height, width + 1), np.int32)
    following = np.roll(corners, -1, axis=0)
    for (x0, y0), (x1, y1) in zip(corners, following, strict=True):
        if y0 == y1:
            continue
        low, high = min(y0, y1), max(y0, y1)
        rows = np.arange(max(int(np.ceil(low - 0.5)), 0), min(int(np.ceil(high - 0.5)), height))
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
        changes[rows, columns] += 1  # rows of one edge are different, so that none is lost
    inside: Mask = np.cumsum(changes[:, :width], axis=1) % 2 == 1
    return inside


def encode_rle(mask: Mask) -> str:
    """The text of an (H, W) bool mask; with its size it is COCO's ``{"size": [H, W], "counts": text}``."""
    return "".join(_groups(_differences(_runs(mask))))


def decode_rle(size: Sequence[int], counts: str | Sequence[int]) -> Mask:
    """(H, W) bool of ``size`` (H, W) from text or a list of runs. Raises MaskError where they do not fit the size."""
    height, width = size
    if height < 1 or width < 1 or height * width > _MOST_PIXELS:
        raise MaskError(f"a mask cannot have {height} rows and {width} columns; its size is [height, width] in pixels")
    runs = _parse(counts) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise MaskError(f"the runs add up to {sum(runs)} pixels, the mask's size {height}x{width} to {height * width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T.copy()


def _runs(mask: Mask) -> list[int]:
    flat = mask.T.reshape(-1)  # (W * H,) down the columns
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _differences(runs: Sequence[int]) -> Iterable[int]:
    return (run - runs[i - 2] if i > 2 else run for i, run in enumerate(runs))


def _groups(numbers: Iterable[int]) -> Iterable[str]:
    for number in numbers:
        more = True
        while more:
            group, number = number & _FIVE_BITS, number >> 5
            more = number != (-1 if group & _SIGN else 0)
            yield chr(_FIRST + group + (_MORE if more else 0))


def _parse(text: str) -> list[int]:
    runs: list[int] = []
    number = shift = 0
    for character in text:
        group = ord(character) - _FIRST
        if not 0 <= group < 64 or shift >= 5 * _MOST_GROUPS:
            raise MaskError(f"{character!r} is not possible in a mask's run lengths; they are COCO's compressed text")
        number |= (group & _FIVE_BITS) << shift
        shift += 5
        if group & _MORE:
            continue
        if group & _SIGN:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise MaskError("a mask's run lengths are cut off; write the file again")
    return runs
