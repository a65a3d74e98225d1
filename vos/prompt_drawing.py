"""Prompts drawn on a picture: what belongs to the object in green, what does not in blue (paper Fig. 4)."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt
from vos.drawing import Colour, Rgb, text_picture

POSITIVE: Colour = (40, 220, 60)
NEGATIVE: Colour = (50, 90, 255)
_DARK: Colour = (0, 0, 0)
_SHORT_SIDE_PER_LINE = 240  # a line is one pixel wide per so many pixels of the picture's short side


def draw_prompts(image: Rgb, prompts: Iterable[Prompt]) -> None:
    """Draw points, boxes, scribbles, polygons and the outlines of masks into the (H, W, 3) RGB image, in place.

    Words and references lie on no place of the picture and are left to `write_below`.
    """
    line = max(1, round(min(image.shape[:2]) / _SHORT_SIDE_PER_LINE))
    for prompt in prompts:
        ink = POSITIVE if getattr(prompt, "positive", True) else NEGATIVE
        if isinstance(prompt, PointPrompt):
            centre = (round(prompt.x), round(prompt.y))
            cv2.circle(image, centre, 3 * line + 2, _DARK, -1, cv2.LINE_AA)
            cv2.circle(image, centre, 3 * line, ink, -1, cv2.LINE_AA)
        elif isinstance(prompt, BoxPrompt):
            corners = ((round(prompt.x0), round(prompt.y0)), (round(prompt.x1), round(prompt.y1)))
            cv2.rectangle(image, *corners, ink, line + 1, cv2.LINE_AA)
        elif isinstance(prompt, (ScribblePrompt, PolygonPrompt)):
            points = np.round(np.asarray(prompt.points)).astype(np.int32)
            width = line + 1
            if isinstance(prompt, ScribblePrompt):
                width = min(max(round(prompt.width), line + 1), 255)
            drawn = points if len(points) > 1 else points.repeat(2, axis=0)
            cv2.polylines(image, [drawn], isinstance(prompt, PolygonPrompt), ink, width, cv2.LINE_AA)
        elif isinstance(prompt, MaskPrompt):
            outlines, _ = cv2.findContours(prompt.mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(image, outlines, -1, ink, line, cv2.LINE_AA)


def write_below(image: Rgb, lines: Iterable[str]) -> Rgb:
    """The picture with lines of text under it, as wide as it was; a line that is too long is cut."""
    height, width = image.shape[:2]
    size = max(12, round(min(height, width) / 24))
    strips = [image]
    for text in lines:
        written = text_picture(text, size, (255, 255, 255), _DARK)[:, :width]
        strip = np.zeros((written.shape[0], width, 3), np.uint8)
        strip[:, : written.shape[1]] = written
        strips.append(strip)
    return np.concatenate(strips)
