"""One file that holds all training pictures and masks, small enough to travel: `pack` writes it, `Pack` reads it.

    8 bytes  magic "VOSPACK1"
    8 bytes  length of the index, little-endian
    index    UTF-8 JSON: the options, class names, and per clip its name, source, and per frame where picture and mask
             lie in the rest of the file, their size, and per object its area, box and class
    rest     WebP pictures and run-length coded, deflated label maps, in the order of the index

A still is a clip of one frame. What can be packed, and what never is: `data_sources`.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.disk import is_no_room
from seem_core.errors import DatasetError, DiskFullError, InputError, OutputError
from seem_core.training.data_sources import DataSpec, SourceClip, SourceFrame, find_clips

MAGIC = b"VOSPACK1"
IGNORED_VALUE = 255
NO_CLASS = -1

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Labels = npt.NDArray[np.uint8]  # (H, W) object ids, 0 = background


@dataclass(frozen=True)
class PackOptions:
    """What is kept.

    still_side, clip_side   pictures are reduced to this short side (pixels) if theirs is longer
    max_side                and to this long side
    still_quality, clip_quality   WebP quality, 1..100
    thinning                every n-th frame of densely annotated sequences (longer than 20 frames) is kept
    min_area                share of the picture below which an object is no training target
    exclude                 names of sequences that are left out; the default two are other people's footage, which
                            DAVIS's own licence does not cover
    """

    still_side: int = 240
    clip_side: int = 288
    max_side: int = 512
    still_quality: int = 45
    clip_quality: int = 50
    thinning: int = 2
    min_area: float = 0.004
    exclude: tuple[str, ...] = ("drift-turn", "motocross-bumps")

    def __post_init__(self) -> None:
        sides, qualities = (self.still_side, self.clip_side, self.max_side), (self.still_quality, self.clip_quality)
        if min(sides) < 16 or self.thinning < 1 or not all(1 <= q <= 100 for q in qualities):
            raise InputError(f"sides are at least 16 pixels, qualities 1..100, thinning at least 1: {self}")


@dataclass(frozen=True)
class ObjectBox:
    """An object on one frame: area in pixels, box in pixels (x0, y0 inside, x1, y1 one past), index of its class."""

    id: int
    area: int
    x0: int
    y0: int
    x1: int
    y1: int
    category: int = NO_CLASS


@dataclass(frozen=True)
class PackedFrame:
    """Where a frame lies in the file: (offset, length) in bytes of picture and mask; objects that are targets."""

    image: tuple[int, int]
    mask: tuple[int, int]
    height: int
    width: int
    objects: tuple[ObjectBox, ...]


@dataclass(frozen=True)
class PackedClip:
    name: str
    source: str
    frames: tuple[PackedFrame, ...]

    @property
    def is_still(self) -> bool:
        return len(self.frames) == 1


class Pack:
    """A pack file, read from where it lies on disk as it is needed. Raises DatasetError for a file that is none, is cut
    off, or without any object."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                empty = not os.fstat(file.fileno()).st_size
                data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DatasetError(f"training pack {self.path} cannot be read: {error.strerror}") from error
        if data[:8] != MAGIC or len(data) < 16:
            raise DatasetError(f"{self.path} is no training pack; make one with: vos train pack DATA {self.path.name}")
        (length,) = struct.unpack("<Q", data[8:16])
        self._data, self._start = data, 16 + length
        try:
            index = json.loads(data[16 : self._start])
            self.options = PackOptions(**(index["options"] | {"exclude": tuple(index["options"]["exclude"])}))
            self.classes = tuple(index.get("classes", ()))
            self.clips = tuple(_clip(item) for item in index["clips"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"the index of {self.path} cannot be read: {error}; pack the data again") from error
        self.fingerprint = f"{zlib.crc32(data):08x}"
        end = max((sum(f.mask) for clip in self.clips for f in clip.frames), default=0)
        if not self.clips or self._start + end > len(data):
            raise DatasetError(f"{self.path} is cut off or empty; pack the data again")
        if not any(f.objects for clip in self.clips for f in clip.frames):
            raise DatasetError(f"no mask in {self.path} holds an object that is large enough; pack other data")

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        return Pack, (self.path,)  # another process opens the file itself

    def __len__(self) -> int:
        return len(self.clips)

    def __repr__(self) -> str:
        frames = sum(len(clip.frames) for clip in self.clips)
        return f"Pack({len(self.clips)} clips, {frames} frames, {len(self._data) / 1e6:.1f} MB)"

    def decode(self, frame: PackedFrame) -> tuple[Image, Labels]:
        """((H, W, 3) RGB, (H, W) labels) of one frame."""
        image = _rgb(cv2.imdecode(np.frombuffer(self._blob(frame.image), np.uint8), cv2.IMREAD_COLOR))
        if image is None or image.shape[:2] != (frame.height, frame.width):
            raise DatasetError(f"a picture in {self.path} at byte {frame.image[0]} cannot be decoded; pack again")
        return image, decode_labels(self._blob(frame.mask), frame.height, frame.width)

    def decode_all(self, workers: int | None = None) -> Iterator[tuple[Image, Labels]]:
        """Every frame of every clip in order, decoded by a pool of threads."""
        frames = [frame for clip in self.clips for frame in clip.frames]
        with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
            yield from pool.map(self.decode, frames)

    def _blob(self, place: tuple[int, int]) -> bytes:
        return bytes(self._data[self._start + place[0] : self._start + sum(place)])


def pack(
    data: str | os.PathLike[str] | Sequence[DataSpec],
    out: str | os.PathLike[str],
    options: PackOptions | None = None,
) -> Pack:
    """Write all training data of a folder, or of several sources, into one file and read it back.

    Raises DatasetError (nothing found, all masks empty, unreadable picture, mask of another size), OutputError and
    DiskFullError.
    """
    specs = [DataSpec(Path(data))] if isinstance(data, str | os.PathLike) else list(data)
    out, options = Path(out), options or PackOptions()
    clips: list[PackedClip] = []
    classes: dict[str, int] = {}
    seen = 0
    try:
        with TemporaryFile(dir=_folder(out)) as rest:  # pictures of any number do not fit into memory
            for clip in chain.from_iterable(find_clips(s, options.thinning, options.exclude) for s in specs):
                seen += len(clip.frames)
                frames = _pack_frames(clip, rest, options, classes)
                if frames:
                    clips.append(PackedClip(clip.name, clip.source, frames))
            _check_found(specs, clips, seen)
            index = {"options": asdict(options), "classes": list(classes), "clips": [asdict(c) for c in clips]}
            _write(out, json.dumps(index, separators=(",", ":")).encode(), rest)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        kind = DiskFullError if is_no_room(error) else OutputError
        raise kind(f"training pack {out} cannot be written: {error.strerror}") from error
    return Pack(out)


def _pack_frames(
    clip: SourceClip, rest: IO[bytes], options: PackOptions, classes: dict[str, int]
) -> tuple[PackedFrame, ...]:
    """Append the pictures and masks of a clip; none of a still without objects."""
    still = len(clip.frames) == 1
    frames = []
    for source in clip.frames:
        image, labels = _read(source)
        frame, blobs = _encode(image, labels, rest.tell(), still, options, _indices(source.categories, classes))
        if still and not frame.objects:
            continue
        frames.append(frame)
        rest.writelines(blobs)
    return tuple(frames)


def _indices(categories: Mapping[int, str], classes: dict[str, int]) -> dict[int, int]:
    """Class index by object id; a class that is new is added to `classes`."""
    return {i: classes.setdefault(name, len(classes)) for i, name in categories.items()}


def _check_found(specs: Sequence[DataSpec], clips: Sequence[PackedClip], seen: int) -> None:
    where = ", ".join(str(s.path) for s in specs)
    if not seen:
        raise DatasetError(f"no training data under {where}: no picture with a mask beside it")
    if not any(f.objects for clip in clips for f in clip.frames):
        raise DatasetError(f"the masks of all {seen} pictures under {where} are empty, or their objects too small")


def _folder(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def encode_labels(labels: Labels) -> bytes:
    """Run lengths (uint16, longer runs split) and their values, deflated."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    starts = np.unique(np.r_[starts, np.arange(0, flat.size, 65535)])
    runs = np.diff(np.r_[starts, flat.size]).astype("<u2")
    return zlib.compress(struct.pack("<I", len(runs)) + runs.tobytes() + flat[starts].tobytes(), 9)


def decode_labels(blob: bytes, height: int, width: int) -> Labels:
    """Inverse of `encode_labels`. Raises DatasetError if the runs do not fill height x width."""
    try:
        raw = zlib.decompress(blob)
        (count,) = struct.unpack_from("<I", raw)
        runs = np.frombuffer(raw, "<u2", count, 4)
        values = np.frombuffer(raw, np.uint8, count, 4 + 2 * count)
        return np.repeat(values, runs).reshape(height, width)
    except (zlib.error, struct.error, ValueError) as error:
        raise DatasetError(f"a mask of {width} x {height} in the training pack is damaged: {error}") from error


def boxes(labels: Labels, min_area: float = 0.0, categories: Mapping[int, int] | None = None) -> tuple[ObjectBox, ...]:
    """Area, box and class of every object that covers at least ``min_area`` (share) of the picture."""
    found = []
    for object_id in np.unique(labels):
        if object_id in (0, IGNORED_VALUE):
            continue
        mask = labels == object_id
        area = int(mask.sum())
        if area >= min_area * mask.size:
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            place = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
            category = (categories or {}).get(int(object_id), NO_CLASS)
            found.append(ObjectBox(int(object_id), area, *place, category))
    return tuple(found)


def _encode(
    image: Image, labels: Labels, offset: int, still: bool, options: PackOptions, categories: Mapping[int, int]
) -> tuple[PackedFrame, list[bytes]]:
    height, width = labels.shape
    side = options.still_side if still else options.clip_side
    scale = min(1.0, side / min(height, width), options.max_side / max(height, width))
    if scale < 1.0:
        size = (round(width * scale), round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)
        height, width = labels.shape
    quality = options.still_quality if still else options.clip_quality
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    picture = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    mask = encode_labels(labels)
    start = offset + len(picture)
    objects = boxes(labels, options.min_area, categories)
    frame = PackedFrame((offset, len(picture)), (start, len(mask)), height, width, objects)
    return frame, [picture, mask]


def _read(frame: SourceFrame) -> tuple[Image, Labels]:
    try:
        data = np.frombuffer(frame.image.read_bytes(), np.uint8)
    except OSError as error:
        raise DatasetError(f"training picture {frame.image} is missing or cannot be read: {error.strerror}") from error
    image = _rgb(cv2.imdecode(data, cv2.IMREAD_COLOR)) if len(data) else None
    if image is None:
        raise DatasetError(
            f"training picture {frame.image} is no picture that can be decoded; replace it or take it out"
        )
    return image, frame.mask.labels(image.shape[0], image.shape[1])


def _rgb(bgr: npt.NDArray[Any] | None) -> Image | None:
    """What OpenCV read, as RGB; None where it could not."""
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _write(out: Path, index: bytes, rest: IO[bytes]) -> None:
    temporary = out.with_name(out.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(MAGIC + struct.pack("<Q", len(index)) + index)
            rest.seek(0)
            while chunk := rest.read(1 << 22):
                file.write(chunk)
        temporary.replace(out)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _clip(item: dict[str, object]) -> PackedClip:
    frames = tuple(
        PackedFrame(
            tuple(f["image"]), tuple(f["mask"]), f["height"], f["width"], tuple(ObjectBox(**o) for o in f["objects"])
        )
        for f in item["frames"]  # type: ignore[attr-defined]
    )
    return PackedClip(str(item["name"]), str(item["source"]), frames)
