"""Work on a smaller image and give masks back at the source's size: `WorkingSize`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt
from trackers.base import Image, Labels, ObjectMasks

Size: TypeAlias = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class WorkingSize:
    """The size of the source's frames and of the image that is worked on, both (height, width)."""

    source: Size
    working: Size

    @classmethod
    def of(cls, source: Size, max_side: int | None) -> WorkingSize:
        """Longer side at most ``max_side``, same shape, never enlarged; None works on the source's size."""
        longer = max(source)
        if max_side is None or longer <= max_side:
            return cls(source, source)
        h, w = (max(1, round(side * max_side / longer)) for side in source)
        return cls(source, (h, w))

    def image(self, image: Image) -> Image:
        """(H, W, 3) -> (h, w, 3), by area, so that nothing aliases."""
        if self.source == self.working:
            return image
        return np.asarray(cv2.resize(image, self.working[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt in pixels of the working image."""
        return scale_prompt(prompt, self.source, self.working)

    def back(self, masks: ObjectMasks) -> ObjectMasks:
        """The same objects with (h, w) labels brought to (H, W)."""
        if self.source == self.working:
            return masks
        return replace(masks, labels=resize_labels(masks.labels, masks.ids, self.source))


def resize_labels(labels: Labels, ids: tuple[int, ...], size: Size) -> Labels:
    """Enlarge a label map with smooth borders: background and objects are interpolated, the strongest takes the pixel.

    Objects are handled one at a time inside their own bounding boxes, so memory does not grow with their number.
    """
    out = np.zeros(size, labels.dtype)
    _, best = _enlarge((labels == 0).view(np.uint8), (0, 0, *labels.shape), size)
    for object_id in ids:
        mask = (labels == object_id).view(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0:
            continue
        here, soft = _enlarge(mask, (y, x, y + h, x + w), size)
        wins = soft > best[here]
        best[here][wins] = soft[wins]
        out[here][wins] = object_id
    return out


def _enlarge(
    mask: npt.NDArray[np.uint8], box: tuple[int, int, int, int], size: Size
) -> tuple[tuple[slice, slice], npt.NDArray[np.uint8]]:
    """Where the (y0, x0, y1, x1) box of a 0/1 mask comes to lie, with a margin, and its values 0..255 there."""
    (h, w), (height, width) = mask.shape, size
    sy, sx = height / h, width / w
    y0, x0 = (max(0, int((edge - 1) * scale)) for edge, scale in zip(box[:2], (sy, sx), strict=True))
    y1, x1 = (min(n, int((edge + 1) * s) + 1) for edge, s, n in zip(box[2:], (sy, sx), size, strict=True))
    to_small = np.array([[1 / sx, 0, (x0 + 0.5) / sx - 0.5], [0, 1 / sy, (y0 + 0.5) / sy - 0.5]])  # pixel centres
    soft = cv2.warpAffine(
        mask * np.uint8(255),
        to_small,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return (slice(y0, y1), slice(x0, x1)), np.asarray(soft, dtype=np.uint8)


def scale_prompt(prompt: Prompt, size: Size, new_size: Size) -> Prompt:
    """The same prompt on the image resized from ``size`` to ``new_size``; an object never shrinks to nothing."""
    if size == new_size:
        return prompt
    sy, sx = new_size[0] / size[0], new_size[1] / size[1]

    def point(x: float, y: float) -> tuple[float, float]:  # pixel centres: the corner of the image stays its corner
        return (x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5

    if isinstance(prompt, PointPrompt):
        x, y = point(prompt.x, prompt.y)
        return replace(prompt, x=x, y=y)
    if isinstance(prompt, BoxPrompt):
        (x0, y0), (x1, y1) = point(prompt.x0, prompt.y0), point(prompt.x1, prompt.y1)
        return replace(prompt, x0=x0, y0=y0, x1=x1, y1=y1)
    if isinstance(prompt, ScribblePrompt):
        return replace(prompt, points=tuple(point(*p) for p in prompt.points), width=max(1.0, prompt.width * sx))
    if isinstance(prompt, PolygonPrompt):
        return replace(prompt, points=tuple(point(*p) for p in prompt.points))
    if isinstance(prompt, MaskPrompt):
        share = cv2.resize(
            prompt.mask.astype(np.float32), new_size[::-1], interpolation=cv2.INTER_AREA
        )  # (h, w) in 0..1
        mask = share >= min(0.5, float(share.max()))
        return MaskPrompt(mask, prompt.object_id)
    return prompt  # a reference picture and words do not depend on the size of the video
