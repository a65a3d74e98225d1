"""How large a picture from outside may be: `max_pixels`, `set_max_pixels`, `check_pixels`, and `open_picture`.

A few bytes can claim a picture of gigabytes. So every image, mask, base64 picture, array and video frame is compared
with one limit by what its header says, before room is made for its pixels. The limit holds for the process.
"""

from __future__ import annotations

import functools
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from seem_core.errors import InputError

DEFAULT_MAX_PIXELS = 1 << 26  # 8192 x 8192: twice a frame of 8K video, and below what Pillow itself begins to doubt

# What a picture may be, whatever its name says. Not among them are formats for which Pillow starts another program
# (EPS: Ghostscript) or that hold other files.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_lock = threading.Lock()
_limit = DEFAULT_MAX_PIXELS


def max_pixels() -> int:
    """The most pixels (width x height) that a picture may have in this process."""
    return _limit


def set_max_pixels(limit: int | None) -> None:
    """Set the limit of this process; None leaves it. Pillow's own guard is raised with it, and no longer warns.

    Raises InputError for less than one pixel.
    """
    global _limit
    if limit is None:
        return
    if limit < 1:
        raise InputError(f"max_pixels {limit} allows no picture; give at least 1, by default {DEFAULT_MAX_PIXELS}")
    with _lock:
        _limit = limit
        if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = limit
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def check_pixels(width: int, height: int, what: str, error: type[InputError] = InputError) -> None:
    """Raise ``error``, a sentence that begins with ``what``, for a picture above the limit."""
    if width * height > _limit:
        raise error(f"{what} is {width}x{height}, more than {_limit} pixels; raise --max-pixels if it is meant")


def open_picture(file: Path | BinaryIO, what: str, error: type[InputError]) -> Image.Image:
    """``PIL.Image.open`` within the limit, for pictures of the usual formats; its pixels are not decoded yet.

    what: how messages name it. Raises ``error`` above the limit, and what Pillow raises for a file that it cannot read.
    """
    try:
        image = Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise error(f"{what} has more than {_limit} pixels; raise --max-pixels if it is meant") from bomb
    try:
        check_pixels(image.width, image.height, what, error)
    except InputError:
        image.close()
        raise
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
