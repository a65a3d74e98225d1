"""Pictures and objects of COCO's instance files, and masks of LVIS in place of COCO's coarser ones.

A file is JSON with `images`, `annotations` and `categories` (Lin et al., arXiv:1405.0312). A mask is a list of
polygons, or run lengths down the columns, as numbers or in COCO's compressed text. LVIS (arXiv:1908.03195) annotated
many of the same pictures again, more exactly; a COCO object that overlaps an LVIS object by more than 0.7 takes its
mask (arXiv:2304.06718 supplement C.1, by masks; the published code compares boxes: SPEC §9).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seem_core.coco_masks import decode_rle, fill_polygon
from seem_core.errors import DatasetError

Mask = npt.NDArray[np.bool_]
Overlap = Literal["mask", "box"]
MOST_OBJECTS = 254
"""Of one picture; the smallest ones beyond are left out."""
IGNORED = 255
LVIS_IOU = 0.7


@dataclass(frozen=True, eq=False)
class CocoPicture:
    """One picture: its file name, its objects as the file has them, and LVIS's objects of the same picture.

    categories: class name of every id in the label map. overlap: what decides that an LVIS object is the same one.
    """

    file_name: str
    annotations: tuple[Mapping[str, Any], ...]
    lvis: tuple[Mapping[str, Any], ...]
    categories: Mapping[int, str]
    overlap: Overlap = "mask"
    where: str = ""

    def labels(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """(H, W): id i + 1 for annotation i, IGNORED in crowds, small objects over large ones.

        Raises DatasetError for a segmentation of another size or form.
        """
        try:
            masks = [decode_segmentation(a["segmentation"], height, width) for a in self.annotations]
            if self.lvis:
                finer = [decode_segmentation(a["segmentation"], height, width) for a in self.lvis]
                masks = refine_masks(masks, finer, self.overlap)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DatasetError(f"a mask of {self.file_name} in {self.where} cannot be read: {error}") from error
        labels = np.zeros((height, width), np.uint8)
        crowds = [bool(a.get("iscrowd")) for a in self.annotations]
        for i in sorted(range(len(masks)), key=lambda i: (not crowds[i], -int(masks[i].sum()))):
            labels[masks[i]] = IGNORED if crowds[i] else i + 1
        return labels


def read_coco(path: Path, lvis: Path | None = None, overlap: Overlap = "mask") -> list[CocoPicture]:
    """All pictures of an instance file that have objects, in the order of their file names.

    Raises DatasetError for a file that is none.
    """
    content = _load(path)
    try:
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {i["id"]: str(i["file_name"]) for i in content["images"]}
        own = _by_picture(content["annotations"])
        finer = {} if lvis is None else _by_picture(_load(lvis)["annotations"])
        pictures = []
        for picture in sorted(own, key=lambda i: files[i]):
            kept = _largest(own[picture])
            categories = {i + 1: names[a["category_id"]] for i, a in enumerate(kept)}
            pictures.append(
                CocoPicture(files[picture], kept, finer.get(picture, ()), categories, overlap, where=str(path))
            )
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no COCO instance file: {error!r} is missing or misplaced in it") from error
    return pictures


def refine_masks(masks: Sequence[Mask], finer: Sequence[Mask], overlap: Overlap, least: float = LVIS_IOU) -> list[Mask]:
    """Each of `masks`, (H, W) bool, or the one of `finer` that overlaps it most, if by more than `least` (IoU)."""
    chosen = []
    for mask in masks:
        measured = [(_mask_iou if overlap == "mask" else _box_iou)(mask, other) for other in finer]
        best = int(np.argmax(measured)) if measured else -1
        chosen.append(finer[best] if measured and measured[best] > least else mask)
    return chosen


def decode_segmentation(segmentation: Any, height: int, width: int) -> Mask:
    """(H, W) bool of polygons [[x, y, ...], ...] or run lengths {"size", "counts"}. Raises ValueError."""
    if isinstance(segmentation, Mapping):
        if tuple(segmentation["size"]) != (height, width):
            raise ValueError(f"run lengths are for {segmentation['size']}, the picture is {[height, width]}")
        counts = segmentation["counts"]
        return decode_rle((height, width), counts.decode("ascii") if isinstance(counts, bytes) else counts)
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        mask |= fill_polygon(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
    return mask


def _largest(annotations: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """At most MOST_OBJECTS, in the order of the file."""
    if len(annotations) <= MOST_OBJECTS:
        return tuple(annotations)
    order = sorted(range(len(annotations)), key=lambda i: -float(annotations[i].get("area", 0)))
    return tuple(annotations[i] for i in sorted(order[:MOST_OBJECTS]))


def _by_picture(annotations: Iterable[Mapping[str, Any]]) -> dict[Any, tuple[Mapping[str, Any], ...]]:
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        found.setdefault(annotation["image_id"], []).append(annotation)
    return {picture: tuple(items) for picture, items in found.items()}


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"annotations {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"annotations {path} are no JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise DatasetError(f"{path} is no COCO instance file: it holds no object with images and annotations")
    return content


def _mask_iou(a: Mask, b: Mask) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def _box_iou(a: Mask, b: Mask) -> float:
    """IoU of the boxes around two masks; 0 where one is empty."""
    boxes = []
    for mask in (a, b):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(xs):
            return 0.0
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes
    both = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    return float(both / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both))
