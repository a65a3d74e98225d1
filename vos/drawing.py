"""Objects drawn on a picture: colour, contour, and a tag with the id, in the colours of the DAVIS palette."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trackers.base import Labels
from vos.label_files import DAVIS_PALETTE

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

_SHORT_SIDE_PER_LINE = 300  # a contour is one pixel wide per so many pixels of the picture's short side
_SHORT_SIDE_PER_TAG = 26  # likewise the height of a tag's letters
_SMALLEST_TEXT, _LARGEST_TEXT = 10, 64  # pixels


def colour_of(object_id: int) -> Colour:
    """RGB of an object: the palette's, repeated above id 255 (never the background's black)."""
    r, g, b = DAVIS_PALETTE[object_id if object_id <= 255 else 1 + (object_id - 1) % 255].tolist()
    return r, g, b


def bright_colour_of(object_id: int) -> Colour:
    """The object's colour at full brightness, for lines and tags."""
    r, g, b = (round(value * 255 / max(colour_of(object_id))) for value in colour_of(object_id))
    return r, g, b


def draw_objects(image: Rgb, labels: Labels, *, alpha: float = 0.5, tags: bool = True) -> None:
    """Draw every object of an (H, W) label map into the (H, W, 3) RGB image, in place.

    alpha  how much of the colour covers the object, 0 (contour alone) to 1
    tags   write each object's id at its upper edge
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels are {labels.shape}, the image {image.shape[:2]}")
    x, y, w, h = cv2.boundingRect((labels > 0).view(np.uint8))
    if not w:
        return
    part, region = image[y : y + h, x : x + w], labels[y : y + h, x : x + w]
    _blend(part, region, alpha)
    ids = np.flatnonzero(np.bincount(region.reshape(-1)))
    tops = [(int(i), *_draw_contour(image, region, int(i), (x, y))) for i in ids if i > 0]
    if tags:
        for object_id, centre, top in tops:  # after all contours, so that none crosses a tag
            _paste_tag(image, object_id, centre, top)


def text_picture(text: str, size: int, ink: Colour, paper: Colour) -> Rgb:
    """(h, w, 3) RGB picture of one line of text, ``size`` pixels high letters, with a narrow margin."""
    return _text_picture(text, max(_SMALLEST_TEXT, min(_LARGEST_TEXT, size)), ink, paper)


def text_on(paper: Colour) -> Colour:
    """Black or white, whichever reads better on ``paper``."""
    r, g, b = paper
    return (0, 0, 0) if 0.299 * r + 0.587 * g + 0.114 * b > 120 else (255, 255, 255)


def paste(image: Rgb, patch: Rgb, left: int, top: int) -> None:
    """Put a patch into the image, moved inside where it would stick out and cut where it is larger."""
    H, W = image.shape[:2]
    h, w = min(patch.shape[0], H), min(patch.shape[1], W)
    left, top = max(0, min(left, W - w)), max(0, min(top, H - h))
    image[top : top + h, left : left + w] = patch[:h, :w]


def _blend(part: Rgb, region: Labels, alpha: float) -> None:
    if region.dtype == np.uint8:
        colours = cv2.LUT(cv2.merge([region, region, region]), _palette()[None, :256])  # (h, w, 3)
    else:
        colours = _palette()[region]
    mixed = cv2.addWeighted(part, 1 - alpha, colours, alpha, 0)
    part[...] = np.where((region > 0)[..., None], mixed, part)


@lru_cache(maxsize=1)
def _palette() -> Rgb:
    """(65536, 3) colour of every id."""
    ids = np.arange(65536)
    table: Rgb = DAVIS_PALETTE[np.where(ids <= 255, ids, 1 + (ids - 1) % 255)]
    return table


def _draw_contour(image: Rgb, region: Labels, object_id: int, at: tuple[int, int]) -> tuple[int, int]:
    """Outline one object; returns (x, y) of the top of its largest piece, where a tag points to it best."""
    mask = (region == object_id).view(np.uint8)
    x, y, w, h = cv2.boundingRect(mask)
    contours, _ = cv2.findContours(
        mask[y : y + h, x : x + w], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(at[0] + x, at[1] + y)
    )
    width = max(1, round(min(image.shape[:2]) / _SHORT_SIDE_PER_LINE))
    cv2.drawContours(image, contours, -1, bright_colour_of(object_id), width, cv2.LINE_AA)
    outline = max(contours, key=lambda contour: cv2.boundingRect(contour)[2] * cv2.boundingRect(contour)[3])[:, 0]
    top = int(outline[:, 1].min())
    near = outline[outline[:, 1] <= top + h // 20, 0]  # K points of (x, y)
    return int(near.min() + near.max()) // 2, top


def _paste_tag(image: Rgb, object_id: int, centre: int, top: int) -> None:
    size = round(min(image.shape[:2]) / _SHORT_SIDE_PER_TAG)
    paper = bright_colour_of(object_id)
    tag = text_picture(str(object_id), size, text_on(paper), paper)
    paste(image, tag, centre - tag.shape[1] // 2, top - tag.shape[0] - 1)


@lru_cache(maxsize=512)
def _text_picture(text: str, size: int, ink: Colour, paper: Colour) -> Rgb:
    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    pad = max(1, size // 4)
    picture = Image.new("RGB", (round(right - left) + 2 * pad, round(size * 1.15) + pad), paper)
    ImageDraw.Draw(picture).text((pad - left, pad // 2), text, font=font, fill=ink)
    array = np.asarray(picture)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
