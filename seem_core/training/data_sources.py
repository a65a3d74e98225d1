"""Where training pictures come from: every layout on disk becomes clips of (picture, mask) pairs.

    folder        images/NAME.jpg + masks/NAME.png, stills; names of subfolders are options
    davis         JPEGImages/<resolution>/<sequence>/*.jpg + Annotations/..., lists in ImageSets
    youtube-vos   the same without resolutions, classes in meta.json; [train/] in front of it or not
    coco          an instance file and its pictures, optionally with LVIS's masks in place of COCO's
    collection    a folder that holds davis, clips, ytvos_sample (layouts as above) and still/<folder>
    pack          a file that `pack` wrote

Pictures that measures are taken on never come out of here: sequences in ImageSets/dev*.txt, stills in heldback.txt
(`FOLDER/NAME ...` per line, in the folder or in the one above).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from seem_core.errors import DatasetError, InputError
from seem_core.training.coco_instances import IGNORED, Overlap, read_coco

log = logging.getLogger(__name__)

Kind = Literal["auto", "pack", "collection", "folder", "davis", "youtube-vos", "coco"]
Labels = npt.NDArray[np.uint8]
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")
HELD_BACK_SEQUENCES = ("dev.txt", "dev-multi.txt")  # of any ImageSets folder
HELD_BACK_STILLS = "heldback.txt"
SEQUENCE_FOLDERS = ("davis", "clips", "ytvos_sample")
MERGED_FOLDERS = ("ccp",)  # of a collection: ids are parts of one object
DENSE = 20  # sequences longer than this are thinned
ALLOWED: Mapping[str, frozenset[str]] = {
    "auto": frozenset(),
    "pack": frozenset(),
    "collection": frozenset({"exclude", "thinning"}),
    "folder": frozenset({"images", "masks", "classes", "class_name", "merge"}),
    "davis": frozenset({"split", "exclude", "thinning", "merge", "class_name"}),
    "youtube-vos": frozenset({"split", "exclude", "thinning"}),
    "coco": frozenset({"images", "lvis", "lvis_overlap"}),
}


@dataclass(frozen=True)
class DataSpec:
    """One source of training data, as a configuration names it. Fields beyond kind and path belong to some kinds only.

    path           of the folder; of the instance file (coco); of the pack
    images, masks  subfolders (folder), folder of the pictures (coco; by default beside the file)
    classes        JSON file: class names per picture, by object id: {"NAME": ["background", "dog", ...]} (folder)
    class_name     what every object is
    merge          all ids are parts of one object
    split          name of a list in ImageSets, such as train (davis: by default train where there is such a list)
    exclude        sequences left out
    thinning       every n-th frame of densely annotated sequences
    lvis, lvis_overlap   LVIS's instance file; whether its objects are recognised by "mask" or by "box"
    """

    path: Path
    kind: Kind = "auto"
    images: str | None = None
    masks: str | None = None
    classes: str | None = None
    class_name: str | None = None
    merge: bool = False
    split: str | None = None
    exclude: tuple[str, ...] = ()
    thinning: int | None = None
    lvis: Path | None = None
    lvis_overlap: Overlap = "mask"

    def __post_init__(self) -> None:
        odd = [n for n in _OPTIONS if getattr(self, n) != _OPTIONS[n] and n not in ALLOWED[self.kind]]
        if odd and self.kind != "auto":
            fitting = ", ".join(sorted(ALLOWED[self.kind])) or "none"
            raise InputError(f"data of kind {self.kind!r} has no option {odd[0]!r} (its options: {fitting})")
        if odd:
            raise InputError(f"option {odd[0]!r} needs the kind of data: one of {', '.join(list(ALLOWED)[1:])}")
        if self.thinning is not None and self.thinning < 1:
            raise InputError(f"thinning takes every n-th frame, n >= 1, not {self.thinning}")


_OPTIONS: Mapping[str, Any] = {
    "images": None, "masks": None, "classes": None, "class_name": None, "merge": False, "split": None, "exclude": (),
    "thinning": None, "lvis": None, "lvis_overlap": "mask",
}  # fmt: skip


class MaskSource(Protocol):
    """Something that knows the label map of a picture."""

    def labels(self, height: int, width: int) -> Labels:
        """(H, W) uint8 object ids, 0 background, 255 ignored. Raises DatasetError, also for another size."""
        ...


@dataclass(frozen=True)
class MaskFile:
    """A label map in a picture file: palette or grey values are ids. merge: all ids are one object."""

    path: Path
    merge: bool = False

    def labels(self, height: int, width: int) -> Labels:
        """See `MaskSource`. Only 0 and 255 in a grey file means a binary mask."""
        from PIL import Image as Pillow  # palette files: OpenCV would give colours instead of ids

        try:
            with Pillow.open(self.path) as file:
                palette, ids = file.mode == "P", np.array(file)
        except (OSError, SyntaxError) as error:
            raise DatasetError(f"training mask {self.path} cannot be read: {error}") from error
        if ids.ndim != 2:
            raise DatasetError(f"training mask {self.path} has {ids.shape[2]} channels; save object ids in one")
        if ids.shape != (height, width):
            raise DatasetError(f"mask {self.path} is {ids.shape}, its picture {(height, width)}")
        values = np.unique(ids)
        if values[-1] > IGNORED or values[0] < 0:
            raise DatasetError(f"mask {self.path} holds the id {int(values[-1])}; ids are 1..254")
        if not palette and len(values) <= 2 and set(values.tolist()) <= {0, IGNORED}:
            ids = np.asarray(ids != 0)
        elif self.merge:
            ids = (ids > 0) & (ids != IGNORED)
        labels: Labels = ids.astype(np.uint8)
        return labels


@dataclass(frozen=True)
class SourceFrame:
    """A picture file, its mask, and class names by object id where they are known."""

    image: Path
    mask: MaskSource
    categories: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceClip:
    """Frames that follow each other; a still is a clip of one. source: names the data set, for sampling by it."""

    name: str
    source: str
    frames: tuple[SourceFrame, ...]


def find_clips(spec: DataSpec, thinning: int = 1, exclude: Sequence[str] = ()) -> Iterator[SourceClip]:
    """All clips of one source; thinning and exclude hold where the source does not say.

    Raises DatasetError for a layout that is not there, and InputError where `auto` cannot tell.
    """
    kind = recognise(spec.path) if spec.kind == "auto" else spec.kind
    thinning = spec.thinning or thinning
    left_out = {*exclude, *spec.exclude}
    if not spec.path.exists():
        raise DatasetError(f"training data {spec.path} is not there; give the path of a folder or file")
    if kind == "collection":
        yield from _collection(spec.path, thinning, left_out)
    elif kind == "folder":
        yield from _stills(spec)
    elif kind == "coco":
        yield from _coco(spec)
    elif kind in ("davis", "youtube-vos"):
        root = spec.path
        if kind == "youtube-vos" and not (root / "Annotations").is_dir():
            root = root / (spec.split or "train")
        split = spec.split if kind == "davis" else None
        yield from _sequences(root, root.name, thinning, left_out, split, spec.merge, spec.class_name)
    else:
        raise InputError(f"{spec.path} is a pack; it can be trained from, and not be packed again")


def recognise(path: Path) -> Kind:
    """The layout at a path. Raises DatasetError where there is nothing, or none of those known."""
    if not path.exists():
        raise DatasetError(f"training data {path} is not there; give the path of a folder or file")
    if path.is_file():
        return "coco" if path.suffix == ".json" else "pack"
    if (path / "still").is_dir() or any((path / name / "Annotations").is_dir() for name in SEQUENCE_FOLDERS):
        return "collection"
    if (path / "Annotations").is_dir():
        return "youtube-vos" if (path / "meta.json").is_file() else "davis"
    if (path / "train" / "Annotations").is_dir():
        return "youtube-vos"
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return "folder"
    raise DatasetError(
        f"no training data under {path}: it holds neither images/ and masks/, nor JPEGImages/ and Annotations/, "
        "nor davis, clips, ytvos_sample or still"
    )


def _collection(root: Path, thinning: int, exclude: set[str]) -> Iterator[SourceClip]:
    for name in SEQUENCE_FOLDERS:
        if (root / name / "Annotations").is_dir():
            yield from _sequences(root / name, name, thinning, exclude)
    for masks in sorted((root / "still").glob("*/masks")):
        yield from _stills(DataSpec(masks.parent, "folder", merge=masks.parent.name in MERGED_FOLDERS))


def _sequences(
    root: Path,
    source: str,
    thinning: int,
    exclude: set[str],
    split: str | None = None,
    merge: bool = False,
    class_name: str | None = None,
) -> Iterator[SourceClip]:
    annotations, pictures = root / "Annotations", root / "JPEGImages"
    if not annotations.is_dir() or not pictures.is_dir():
        raise DatasetError(f"{root} lacks JPEGImages or Annotations; give the folder that holds both")
    banned = set(_listed((root / "ImageSets").glob(f"**/{n}") for n in HELD_BACK_SEQUENCES)) | exclude
    lists = sorted((root / "ImageSets").glob(f"**/{split or 'train'}.txt"))
    if split is not None and not lists:
        raise DatasetError(f"{root / 'ImageSets'} has no list {split}.txt")
    allowed = set(_listed([lists]))
    classes = _video_classes(root / "meta.json")
    for folder in sorted(annotations.glob("**/*/")):
        masks = sorted(folder.glob("*.png"))
        if folder.name in banned or not masks or (allowed and folder.name not in allowed):
            continue
        images = pictures / folder.relative_to(annotations)
        named = classes.get(folder.name, {})
        if class_name is not None:
            named = dict.fromkeys(range(1, IGNORED), class_name)
        kept = masks[:: thinning if len(masks) > DENSE else 1]
        frames = tuple(SourceFrame(images / f"{m.stem}.jpg", MaskFile(m, merge), named) for m in kept)
        yield SourceClip(f"{source}/{folder.name}", source, frames)


def _stills(spec: DataSpec) -> Iterator[SourceClip]:
    root = spec.path
    images, masks = root / (spec.images or "images"), root / (spec.masks or "masks")
    if not images.is_dir() or not masks.is_dir():
        raise DatasetError(f"{root} lacks the folders {images.name} and {masks.name}; name them by images and masks")
    names = sorted(root.glob("*.json"))
    classes = _still_classes(root / spec.classes) if spec.classes else _guess_classes(names)
    held_back = {line.split()[0] for line in _lines([[root / HELD_BACK_STILLS, root.parent / HELD_BACK_STILLS]])}
    for mask in sorted(masks.glob("*.png")):
        if f"{root.name}/{mask.stem}" in held_back:
            continue
        found = [images / f"{mask.stem}{end}" for end in PICTURES if (images / f"{mask.stem}{end}").is_file()]
        picture = found[0] if found else images / f"{mask.stem}.jpg"  # missing: named when it is read
        named = classes.get(mask.stem, {})
        if spec.class_name is not None:
            named = dict.fromkeys(range(1, IGNORED), spec.class_name)
        frame = SourceFrame(picture, MaskFile(mask, spec.merge), named)
        yield SourceClip(f"{root.name}/{mask.stem}", root.name, (frame,))


def _coco(spec: DataSpec) -> Iterator[SourceClip]:
    folder = Path(spec.images) if spec.images else spec.path.parent
    folder = folder if folder.is_absolute() else spec.path.parent / folder
    for picture in read_coco(spec.path, spec.lvis, spec.lvis_overlap):
        frame = SourceFrame(folder / picture.file_name, picture, picture.categories)
        yield SourceClip(f"{spec.path.stem}/{Path(picture.file_name).stem}", spec.path.stem, (frame,))


def _video_classes(path: Path) -> dict[str, dict[int, str]]:
    """Class names by video and object id of YouTube-VOS's meta.json."""
    if not path.is_file():
        return {}
    try:
        videos = json.loads(path.read_text())["videos"]
        return {
            name: {int(i): str(o["category"]) for i, o in video["objects"].items() if "category" in o}
            for name, video in videos.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no meta.json of YouTube-VOS: {error!r}") from error


def _still_classes(path: Path) -> dict[str, dict[int, str]]:
    try:
        content = json.loads(path.read_text())
        return {name: {i: str(c) for i, c in enumerate(ids) if i} for name, ids in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f'{path} does not hold class names as {{"NAME": ["background", ...]}}: {error}') from error


def _guess_classes(files: Sequence[Path]) -> dict[str, dict[int, str]]:
    """Of a folder's `names.json`, if it has one."""
    return next((_still_classes(path) for path in files if path.name == "names.json"), {})


def _listed(groups: Iterable[Iterable[Path]]) -> Iterator[str]:
    """Sequences of ImageSets lists: a name per line, or (DAVIS-2016) the path of a frame."""
    for line in _lines(groups):
        first = line.split()[0]
        yield Path(first).parent.name if "/" in first else first


def _lines(groups: Iterable[Iterable[Path]]) -> Iterator[str]:
    for group in groups:
        for path in group:
            if path.is_file():
                yield from (line.strip() for line in path.read_text().splitlines() if line.strip())
