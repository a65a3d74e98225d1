"""Where a dataset keeps its masks, images and lists: a DAVIS root, or folders of annotations without one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from seem_core.errors import DatasetError
from vos.images import natural_key

DEFAULT_RESOLUTION = "480p"
YEARS = ("2017", "2016")


@contextmanager
def readable() -> Iterator[None]:
    """Turn what the operating system raises while folders are looked through into a DatasetError."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename} ({error.strerror}); check the path and its rights") from error


@dataclass(frozen=True)
class AnnotatedSequence:
    """One sequence: its ground-truth masks by frame name, in frame order, and its folder of images if there is one.

    The masks may be sparse: a frame without a file has no ground truth.
    """

    name: str
    masks: dict[str, Path]
    images: Path | None

    @property
    def frames(self) -> tuple[str, ...]:
        """Names (file stems) of the annotated frames."""
        return tuple(self.masks)

    @property
    def is_sparse(self) -> bool:
        """Whether the annotated frames are numbered with gaps, so that others lie between them."""
        if not all(frame.isdecimal() for frame in self.frames):
            return False
        numbers = [int(frame) for frame in self.frames]
        return numbers != list(range(numbers[0], numbers[0] + len(numbers)))


@dataclass(frozen=True)
class Layout:
    """A dataset on disk. ``annotations`` and ``images`` hold one folder for each sequence.

    ``root`` is None for a bare folder of annotation folders; there are no lists then. ``only`` is set where a single
    annotation folder was given: the one sequence of that name.
    """

    annotations: Path
    images: Path | None = None
    root: Path | None = None
    only: str | None = None
    resolution: str = DEFAULT_RESOLUTION

    def all_names(self) -> tuple[str, ...]:
        """Every sequence that has an annotation folder, in natural order."""
        return (self.only,) if self.only is not None else sequence_folders(self.annotations)

    @readable()
    def sequence(self, name: str) -> AnnotatedSequence:
        """Raises DatasetError for a sequence without masks."""
        folder = self.annotations / name
        masks = mask_files(folder)
        if not masks:
            raise DatasetError(f"sequence {name!r} has no ground-truth masks: there is no PNG in {folder}")
        images = self.images / name if self.images is not None and (self.images / name).is_dir() else None
        return AnnotatedSequence(name, masks, images)

    @readable()
    def set_names(self, wanted: str, year: str | None = None) -> tuple[str, ...]:
        """Sequences of a set: the name of a list below ``ImageSets``, or the path of a list file.

        A name is looked for in ``ImageSets/<year>``, ``ImageSets/<resolution>`` (DAVIS-2016) and ``ImageSets``; without
        a year, 2017 comes before 2016. Raises DatasetError where there is none.
        """
        candidates = [Path(wanted)] if wanted.endswith(".txt") or "/" in wanted else []
        if self.root is not None:
            folders = [*((year,) if year else YEARS), self.resolution, "."]
            candidates += [self.root / "ImageSets" / folder / f"{wanted}.txt" for folder in folders]
        for path in candidates:
            if path.is_file():
                return read_set(path)
        raise DatasetError(f"there is no set {wanted!r}{self._known_sets()}; give one of its lists, or a list file")

    def _known_sets(self) -> str:
        lists = (self.root or self.annotations) / "ImageSets"
        if not lists.is_dir():
            return f", as there is no folder {lists}"
        found = sorted(path.relative_to(lists).with_suffix("").as_posix() for path in lists.rglob("*.txt"))
        return f" in {lists}, which has {', '.join(found) or 'no list'}"


@readable()
def open_layout(path: Path, resolution: str | None = None) -> Layout:
    """Find out what kind of folder ``path`` is.

    A DAVIS root has ``Annotations/<resolution>/<sequence>/*.png`` (480p unless given) or, as other datasets do,
    ``Annotations/<sequence>/*.png``, with ``JPEGImages`` beside it. Otherwise it is a folder of annotation folders, or
    one annotation folder. Raises DatasetError where it is none of these.
    """
    if not path.is_dir():
        raise DatasetError(
            f"{path} is not a folder; give a DAVIS root, or a folder with a folder of masks per sequence"
        )
    annotations = path / "Annotations"
    if not annotations.is_dir():
        return _bare_layout(path)
    wanted = resolution or DEFAULT_RESOLUTION
    if (annotations / wanted).is_dir():
        return Layout(annotations / wanted, _folder(path / "JPEGImages" / wanted), path, resolution=wanted)
    if sequence_folders(annotations) and resolution is None:
        return Layout(annotations, _folder(path / "JPEGImages"), path)
    there = ", ".join(sorted(entry.name for entry in annotations.iterdir() if entry.is_dir())[:8])
    raise DatasetError(f"{annotations} has no resolution {wanted!r}; there is {there or 'nothing'}; use --resolution")


def _bare_layout(path: Path) -> Layout:
    if mask_files(path):
        resolved = Path(os.path.abspath(path))
        return Layout(resolved.parent, only=resolved.name)
    if sequence_folders(path):
        return Layout(path)
    hint = f"; did you mean {deeper}?" if (deeper := folder_of_sequences(path)) else ""
    raise DatasetError(f"{path} holds no masks: no Annotations folder, no folders of PNG files, no PNG files{hint}")


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


@readable()
def mask_files(folder: Path) -> dict[str, Path]:
    """PNG files of a folder by stem, in natural order; empty where there is no such folder."""
    if not folder.is_dir():
        return {}
    files = (p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
    return {path.stem: path for path in sorted(files, key=natural_key)}


@readable()
def sequence_folders(folder: Path) -> tuple[str, ...]:
    """Names of the sub-folders that hold PNG files, in natural order."""
    entries = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)
    return tuple(entry.name for entry in entries if any(p.suffix.lower() == ".png" for p in entry.iterdir()))


@readable()
def folder_of_sequences(root: Path, names: Collection[str] = ()) -> Path | None:
    """The first folder below ``root``, at most three levels down, with folders of PNG files (of these ``names``)."""
    level = [root]
    for _ in range(3):
        level = [p for above in level for p in sorted(above.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        for folder in level:
            found = sequence_folders(folder)
            if found and (not names or set(found) & set(names)):
                return folder
    return None


def read_set(path: Path) -> tuple[str, ...]:
    """Sequences of a list file, each once, in order.

    A line is a sequence's name, or, as in DAVIS-2016, ``/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/...``
    for each frame. Empty lines and lines that start with # are left out. Raises DatasetError for an unreadable or empty
    list.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"list {path} cannot be read ({error})") from error
    words = [line.split()[0] for line in lines if line.split() and not line.startswith("#")]
    names = tuple(dict.fromkeys(PurePosixPath(word).parent.name if "/" in word else word for word in words))
    if not names:
        raise DatasetError(f"list {path} names no sequence")
    return names
