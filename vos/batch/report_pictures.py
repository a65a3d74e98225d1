"""Contact sheets of many videos as small JPEGs of bounded size, for a page that holds them all: `thumbnails`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from vos.render import CONTACT

BUDGET = 18 << 20  # bytes of all pictures of a page together; 24 MB as text
MOST_PICTURES = 4000  # beyond that each would be too small to see anything on
_MOST_BYTES = 160 << 10  # of one picture
_WIDTHS = (960, 720, 480, 360, 240, 160, 96)
_QUALITIES = (82, 65, 45)
_MOST_PIXELS = 1 << 24  # of a contact sheet: ours have less than 4 million


@dataclass(frozen=True)
class Thumbnail:
    """A picture: the JPEG file, and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def thumbnails(folders: Sequence[Path | None], budget: int = BUDGET) -> list[Thumbnail | None]:
    """A small picture of the contact sheet in each results folder, together at most ``budget`` bytes.

    The more there are, the smaller each is; of more than `MOST_PICTURES` the first ones get one. None where a folder
    has no contact sheet, or one that cannot be read (it is a picture like any other: links and giants are left alone).
    """
    sheets = [None if folder is None else _sheet_in(folder) for folder in folders]
    places = [i for i, sheet in enumerate(sheets) if sheet is not None][:MOST_PICTURES]
    found: list[Thumbnail | None] = [None] * len(sheets)
    left = budget
    for done, i in enumerate(places):
        share = min(_MOST_BYTES, left // (len(places) - done))  # what small ones leave over is for the others
        sheet = sheets[i]
        if sheet is not None and (picture := _shrunk(sheet, share)) is not None:
            found[i] = picture
            left -= len(picture.jpeg)
    return found


def _sheet_in(folder: Path) -> Path | None:
    path = folder / CONTACT
    return path if path.is_file() and not path.is_symlink() else None


def _shrunk(path: Path, most: int) -> Thumbnail | None:
    """The largest and then best version in at most ``most`` bytes; None where there is none, or no picture."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            sheet = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None
    for width in (width for width in _WIDTHS if _worth_trying(width, most)):
        small = _resized(sheet, width)
        for quality in _QUALITIES:
            buffer = BytesIO()
            small.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= most:
                return Thumbnail(buffer.getvalue(), small.width, small.height)
    return None


def _worth_trying(width: int, most: int) -> bool:
    """Whether a picture of ``width`` (3:2) has a tenth of a byte per pixel; with less, a smaller one shows more."""
    return width * width * 2 / 3 / 10 <= most


def _resized(image: Image.Image, width: int) -> Image.Image:
    if width >= image.width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.BOX)
