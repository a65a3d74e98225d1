"""Masks as people have them, turned into a first label map: `read_prompt_mask`.

Ground truth and our own results are label maps and are read by `read_labels`; a prompt may be anything a paint program,
an annotation tool or a network wrote, so its meaning is worked out here, and refused where it would be a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.errors import MaskError
from seem_core.plain_json import in_a_line
from trackers.base import Labels
from vos.label_files import (
    DAVIS_PALETTE,
    VOID,
    davis_palette,
    encode_labels,
    grey_values,
    is_lossy,
    open_mask_image,
    read_labels,
    write_labels,
    write_whole,
)
from vos.mask_colours import BINARY_HINT, MAX_GUESSED_OBJECTS, objects_by_colour
from vos.picture_limit import check_pixels
from vos.wording import some

__all__ = [
    "DAVIS_PALETTE",
    "VOID",
    "MaskFormat",
    "PromptMask",
    "davis_palette",
    "encode_labels",
    "read_labels",
    "read_prompt_mask",
    "write_labels",
    "write_whole",
]

MaskFormat = Literal["auto", "ids", "binary", "rgb"]


@dataclass(frozen=True, eq=False)
class PromptMask:
    """What a mask file means.

    labels    (H, W) uint8, or uint16 above id 255; 0 = background
    ids       object ids in ascending order, at least one
    warnings  one sentence for each thing that was changed or assumed
    """

    labels: Labels
    ids: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"PromptMask(labels={self.labels.shape}, ids={self.ids}, warnings={len(self.warnings)})"


def read_prompt_mask(
    path: Path | str, *, size: tuple[int, int] | None = None, mask_format: MaskFormat = "auto"
) -> PromptMask:
    """Read the objects to follow from ``path``: a PNG or another picture, or a ``.npy`` array.

    size         (H, W) of the video; a mask whose sides are the same whole multiple or fraction of it is resized
                 (nearest neighbour) with a warning, any other size is refused. None: any size
    mask_format  ``auto``: palette = ids; grey {0, x} = one object, id 1; up to 64 consecutive values = ids; colours =
                 one object each, black and transparent = background; what looks anti-aliased is refused.
                 ``ids``: values are ids as they are. ``binary``: one object, everything brighter than half of the
                 brightest value (the only way to use a JPEG). ``rgb``: one object per colour

    255 beside other 8-bit ids is void and becomes background, with a warning. Raises MaskError where the file cannot
    be read, has no object, the wrong size, or a meaning that would be a guess.
    """
    if mask_format not in get_args(MaskFormat):
        raise MaskError(f"mask format {mask_format!r} is unknown; use one of {', '.join(get_args(MaskFormat))}")
    path = Path(path)
    warnings: list[str] = []
    raw = _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path, as_colours=mask_format == "rgb")
    labels = _interpret(raw, mask_format, warnings)
    if size is not None and labels.shape != size:
        labels = _resize(labels, size, path, warnings)
    ids = tuple(int(i) for i in np.unique(labels) if i)
    if not ids:
        raise MaskError(f"mask {path} is empty: no pixel belongs to an object; mark the object and save again")
    fitting: Labels = labels.astype(np.uint8) if ids[-1] <= 255 else labels.astype(np.uint16)
    return PromptMask(fitting, ids, tuple(warnings))


@dataclass(frozen=True, eq=False)
class _Raw:
    """A decoded file: ``pixels`` (H, W) for kinds ids and grey, (H, W, 3) RGB for colour; ``alpha`` (H, W) uint8.

    ``doubt`` says why values cannot be ids or colours of objects as they are; only the binary reading is open then.
    """

    path: Path
    kind: Literal["ids", "grey", "colour"]
    pixels: npt.NDArray[Any]
    alpha: npt.NDArray[np.uint8] | None = None
    doubt: str | None = None


def _read_npy(path: Path) -> _Raw:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # a header's claim takes no memory
    except FileNotFoundError as error:
        raise MaskError(f"mask {path} does not exist") from error
    except Exception as error:  # of many kinds: numpy reads the header as an expression of Python, none of it is run
        raise MaskError(f"mask {path} is not a readable .npy array ({in_a_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise MaskError(f"mask {path} holds several arrays; save one (H, W) array with numpy.save")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    if array.dtype.kind not in "buif" or array.size == 0:
        raise MaskError(f"mask {path} is an array of {array.dtype} {array.shape}; save (H, W) bool or integer ids")
    if array.ndim >= 2:
        check_pixels(array.shape[1], array.shape[0], f"mask {path}", MaskError)
    array = np.array(array)  # off the file, which may change
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8:
        return _colour_or_grey(path, array, None, None)
    if array.ndim != 2:
        raise MaskError(f"mask {path} has shape {array.shape}; save one (H, W) array of ids")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 65535:
        raise MaskError(f"mask {path} has values outside 0..65535; save ids, 0 for background")
    doubt = None
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        array, doubt = array * (65535 / array.max()), "has fractional values"
    return _Raw(path, "grey", array.astype(np.uint8 if array.max() <= 255 else np.uint16), doubt=doubt)


def _read_picture(path: Path, *, as_colours: bool) -> _Raw:
    image = open_mask_image(path)
    doubt = f"is {image.format}, which changes values by compression" if is_lossy(image) else None
    if not as_colours:
        if image.mode == "P" and (kind := _palette_kind(image)) != "colour":
            return _Raw(path, kind, grey_values(image, path), doubt=doubt)
        if image.mode in ("1", "L") or image.mode.startswith("I"):
            return _Raw(path, "grey", grey_values(image, path), doubt=doubt)
    try:
        rgba = np.array(image.convert("RGBA"))  # (H, W, 4)
    except ValueError as error:
        raise MaskError(f"mask {path} is a {image.mode} picture; write it as a PNG of ids") from error
    alpha = np.ascontiguousarray(rgba[..., 3])
    if doubt is None and ((alpha > 0) & (alpha < 255)).any():
        doubt = "has half-transparent pixels (an anti-aliased border)"
    if as_colours:
        return _Raw(path, "colour", rgba[..., :3], alpha, doubt)
    return _colour_or_grey(path, rgba[..., :3], alpha, doubt)


def _palette_kind(image: Image.Image) -> Literal["ids", "grey", "colour"]:
    """Whether palette indices are ids, or the palette is only a way to store greys or colours.

    Grey: every index that occurs shows the grey of its own value (a 0/255 mask converted to palette mode). Colour:
    index 0, the background of a label map, does not show black (palettes that programs made up to save space).
    """
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    if used[-1] < len(palette) and (palette[used] == used[:, None]).all():
        return "grey"
    return "ids" if len(palette) == 0 or not palette[0].any() else "colour"


def _colour_or_grey(
    path: Path, rgb: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8] | None, doubt: str | None
) -> _Raw:
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return _Raw(path, "grey", rgb[..., 0], alpha, doubt)
    return _Raw(path, "colour", rgb, alpha, doubt)


def _interpret(raw: _Raw, mask_format: MaskFormat, warnings: list[str]) -> Labels:
    """(H, W) label map of what the file means; appends to ``warnings``."""
    if mask_format == "binary":
        return _binary(raw)
    if raw.doubt is not None:
        raise MaskError(f"mask {raw.path} {raw.doubt}, so its values are not ids; {BINARY_HINT}")
    pixels = raw.pixels
    if raw.alpha is not None:
        pixels = np.where((raw.alpha > 0) if pixels.ndim == 2 else (raw.alpha > 0)[..., None], pixels, 0)
    if raw.kind == "colour":
        if mask_format == "ids":
            raise MaskError(f"mask {raw.path} has colours, not ids; use --mask-format rgb for one object per colour")
        labels, meaning = objects_by_colour(pixels, raw.path)
        warnings.append(f"{raw.path.name}: colours became ids: " + ", ".join(f"{c} = {i}" for c, i in meaning.items()))
        return labels
    if mask_format == "ids":
        return _without_void(raw.path, pixels, warnings)
    return _guess_ids(raw, pixels, warnings)


def _binary(raw: _Raw) -> npt.NDArray[np.uint8]:
    """One object: brighter than half of the brightest value, transparency counted as darkness."""
    if raw.kind == "ids":
        marked = raw.pixels > 0
        valid = marked & (raw.pixels != VOID)
        return np.asarray(valid if valid.any() else marked).astype(np.uint8)
    bright = (raw.pixels if raw.kind == "grey" else raw.pixels.max(axis=2)).astype(np.float32)
    if raw.alpha is not None:
        bright *= raw.alpha / np.float32(255)
    return np.asarray(bright > bright.max() / 2).astype(np.uint8)


def _guess_ids(raw: _Raw, values: Labels, warnings: list[str]) -> Labels:
    """``auto`` for single-channel files: {0, x} is one object, palette indices or few consecutive values are ids."""
    present = [int(v) for v in np.unique(values) if v]
    if len(present) == 1 and (raw.kind == "grey" or present == [VOID]):
        if present[0] not in (1, 255, 65535):
            warnings.append(f"{raw.path.name}: its only value, {present[0]}, was taken as one object with id 1")
        return (values > 0).astype(np.uint8)
    objects = [v for v in present if v != VOID or values.dtype != np.uint8]
    if len(objects) > MAX_GUESSED_OBJECTS:
        raise MaskError(
            f"mask {raw.path} has {len(objects)} different values, more than objects are likely; if it is an "
            f"anti-aliased mask, {BINARY_HINT}; if these are ids, use --mask-format ids"
        )
    consecutive = objects == list(range(objects[0], objects[0] + len(objects))) if objects else True
    if raw.kind == "grey" and not (consecutive and (not objects or objects[-1] <= MAX_GUESSED_OBJECTS)):
        raise MaskError(
            f"mask {raw.path} has the grey values {some(objects)}, which may be shades of one object or ids; use "
            "--mask-format ids to keep them as ids, or --mask-format binary for one object"
        )
    return _without_void(raw.path, values, warnings)


def _without_void(path: Path, values: Labels, warnings: list[str]) -> Labels:
    if values.dtype != np.uint8 or not (void := values == VOID).any():
        return values
    warnings.append(f"{path.name}: {int(void.sum())} pixels of value 255 (void) were taken as background")
    return np.where(void, np.uint8(0), values)


def _resize(labels: Labels, size: tuple[int, int], path: Path, warnings: list[str]) -> Labels:
    """Nearest neighbour to ``size`` where one is the same whole multiple of the other in both directions."""
    (h, w), (H, W) = labels.shape, size
    if H % h == 0 and W % w == 0 and H // h == W // w:
        resized: Labels = labels.repeat(H // h, axis=0).repeat(W // w, axis=1)
    elif h % H == 0 and w % W == 0 and h // H == w // W:
        step = h // H
        resized = labels[step // 2 :: step, step // 2 :: step]  # (H, W)
    else:
        raise MaskError(f"mask {path} is {w}x{h}, the video is {W}x{H}; make the mask on a frame of the video's size")
    warnings.append(f"{path.name}: resized from {w}x{h} to the video's {W}x{H}")
    gone = sorted(set(np.unique(labels).tolist()) - set(np.unique(resized).tolist()) - {0})
    if gone:
        warnings.append(f"{path.name}: too small to survive the resize: objects {some(gone)}")
    return resized
