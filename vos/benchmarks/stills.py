"""Pictures with masks of their objects, from a folder or a list file, as the interactive measures take them.

A folder has ``images/<name>.jpg`` (or another kind of picture) and ``masks/<name>.png``, a label map: every id is an
object. A list file names one object a line, ``<folder>/<name> <id>``, the folder being such a one beside the file.
255 in 8-bit masks is void, except where it is the only value above 0: then it is the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seem_core.errors import DatasetError, MaskError
from trackers.base import Labels
from vos.benchmarks.measure import present_ids
from vos.images import IMAGE_SUFFIXES, natural_key, read_image
from vos.label_files import VOID, read_labels

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StillObject:
    """One object of one picture. name: of the picture, as the list or the folder has it."""

    name: str
    image: Path
    masks: Path
    object_id: int

    @property
    def label(self) -> str:
        """Name and id, as a line of a list file."""
        return f"{self.name} {self.object_id}"


@dataclass(frozen=True, eq=False)
class Still:
    """One picture, read. image: (H, W, 3) uint8 RGB. labels: (H, W) ids. void: (H, W) bool, pixels of nobody."""

    image: npt.NDArray[np.uint8]
    labels: Labels
    void: Mask


def list_objects(path: Path, limit: int | None = None) -> tuple[StillObject, ...]:
    """The first `limit` objects below a folder, or of a list file, in its order. Pictures themselves are not read.

    Raises DatasetError where there is no such folder or file, nothing in it, or a line that is none; MaskError for a
    mask that cannot be read.
    """
    found = _of_folder(path) if path.is_dir() else _of_list(path)
    objects: list[StillObject] = []
    for item in found:
        if limit is not None and len(objects) >= limit:
            break
        objects.append(item)
    if not objects:
        raise DatasetError(f"{path} names no object; give a folder with images and masks, or a list of objects")
    return tuple(objects)


def read_still(item: StillObject) -> Still:
    """The picture of an object, and the masks on it.

    Raises VideoError for a picture that cannot be read, MaskError for masks that cannot, or that have another size.
    """
    image, labels = read_image(item.image), read_labels(item.masks)
    if image.shape[:2] != labels.shape:
        (H, W), (h, w) = image.shape[:2], labels.shape
        raise MaskError(f"{item.masks} is {w}x{h}, its picture {item.image} {W}x{H}; give a mask of the picture's size")
    void = labels == VOID if has_void(labels) else np.zeros(labels.shape, bool)
    return Still(image, labels, void)


def has_void(labels: Labels) -> bool:
    """Whether 255 means void in this label map: it is of 8 bits, and 255 is not its only object."""
    return labels.dtype == np.uint8 and present_ids(labels) != [VOID]


def _of_folder(root: Path) -> Iterator[StillObject]:
    masks, images = root / "masks", _images(root)
    for name in sorted(images, key=lambda n: natural_key(Path(n))):
        file = masks / f"{name}.png"
        if not file.is_file():
            continue  # not every picture needs to have been annotated
        labels = read_labels(file)
        for object_id in present_ids(labels):
            if object_id != VOID or not has_void(labels):
                yield StillObject(name, images[name], file, object_id)


def _of_list(path: Path) -> Iterator[StillObject]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"there is no folder or list file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path} as a list of objects ({error})") from error
    images: dict[str, dict[str, Path]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        full, _, object_id = line.strip().rpartition(" ")
        folder, _, name = full.strip().rpartition("/")
        if not (folder and name and object_id.isdecimal() and int(object_id)):
            raise DatasetError(f"line {number} of {path} is {line.strip()!r}, not FOLDER/NAME ID")
        if folder not in images:
            images[folder] = _images(path.parent / folder)
        if name not in images[folder]:
            raise DatasetError(
                f"line {number} of {path}: there is no picture {name!r} in {path.parent / folder}/images"
            )
        masks = path.parent / folder / "masks" / f"{name}.png"
        yield StillObject(full.strip(), images[folder][name], masks, int(object_id))


def _images(root: Path) -> dict[str, Path]:
    """Pictures of a folder by name without suffix."""
    folder = root / "images"
    if not folder.is_dir() or not (root / "masks").is_dir():
        raise DatasetError(f"{root} lacks a folder images or masks; expected images/NAME.jpg and masks/NAME.png in it")
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES}
