"""One file that holds all training pictures and masks, small enough to travel: `pack` writes it, `Pack` reads it.

    8 bytes  magic "VOSPACK1"
    8 bytes  length of the index, little-endian
    index    UTF-8 JSON: the options, and per clip its name, source, and per frame where picture and mask lie in the
             rest of the file, their size, and per object its area and box
    rest     WebP pictures and run-length coded, deflated label maps, in the order of the index

A still is a clip of one frame. Sources are the folders of the data root's README; sequences and stills that measures
are taken on are left out here, where data enters, and nowhere else.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from seem_core.errors import DatasetError, OutputError

MAGIC = b"VOSPACK1"
HELD_BACK_SEQUENCES = ("dev.txt", "dev-multi.txt")  # of any ImageSets folder
HELD_BACK_STILLS = "heldback.txt"
MERGED_SOURCES = ("ccp",)  # ids are parts of one object
IGNORED_VALUE = 255

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


@dataclass(frozen=True)
class ObjectBox:
    """An object on one frame: area in pixels, box in pixels (x0, y0 inside, x1, y1 one past)."""

    id: int
    area: int
    x0: int
    y0: int
    x1: int
    y1: int


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
    """A pack file, read once into memory. Raises DatasetError for a file that is none or is cut off."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DatasetError(f"training pack {self.path} cannot be read: {error.strerror}") from error
        if data[:8] != MAGIC or len(data) < 16:
            raise DatasetError(f"{self.path} is no training pack; make one with the pack command")
        (length,) = struct.unpack("<Q", data[8:16])
        self._data, self._start = data, 16 + length
        try:
            index = json.loads(data[16 : self._start])
            self.options = PackOptions(**(index["options"] | {"exclude": tuple(index["options"]["exclude"])}))
            self.clips = tuple(_clip(item) for item in index["clips"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"the index of {self.path} cannot be read: {error}; pack the data again") from error
        self.fingerprint = f"{zlib.crc32(data):08x}"
        end = max((sum(f.mask) for clip in self.clips for f in clip.frames), default=0)
        if not self.clips or self._start + end > len(data):
            raise DatasetError(f"{self.path} is cut off or empty; pack the data again")

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
        return self._data[self._start + place[0] : self._start + sum(place)]


def pack(data_root: str | os.PathLike[str], out: str | os.PathLike[str], options: PackOptions | None = None) -> Pack:
    """Write all training data under ``data_root`` into one file and read it back.

    Raises DatasetError (nothing found, unreadable picture, mask of another size) and OutputError.
    """
    root, out, options = Path(data_root), Path(out), options or PackOptions()
    clips: list[PackedClip] = []
    blobs: list[bytes] = []
    offset = 0
    for name, source, paths in training_clips(root, options.thinning, options.exclude):
        frames = []
        for image_path, mask_path in paths:
            image, labels = _read(image_path, mask_path, source)
            still = len(paths) == 1
            frame, encoded = _encode(image, labels, offset, still, options)
            if still and not frame.objects:
                continue
            frames.append(frame)
            blobs += encoded
            offset += sum(len(blob) for blob in encoded)
        if frames:
            clips.append(PackedClip(name, source, tuple(frames)))
    if not clips:
        raise DatasetError(f"no training data under {root}; it has the folders davis, clips, ytvos_sample or still")
    index = json.dumps(
        {"options": asdict(options), "clips": [asdict(c) for c in clips]}, separators=(",", ":")
    ).encode()
    _write(out, [MAGIC, struct.pack("<Q", len(index)), index, *blobs])
    return Pack(out)


def training_clips(
    root: Path, thinning: int = 1, exclude: Sequence[str] = ()
) -> Iterator[tuple[str, str, list[tuple[Path, Path]]]]:
    """(name, source, [(image, mask), ...]) of everything that may be trained on."""
    for source in ("davis", "clips", "ytvos_sample"):
        folder = root / source
        banned = set(_lines(folder / "ImageSets" / name for name in HELD_BACK_SEQUENCES)) | set(exclude)
        allowed = list(_lines([folder / "ImageSets" / "train.txt"]))
        for sequence in sorted(folder.glob("Annotations/**/*/")):
            listed = sequence.name in allowed if allowed else True
            if sequence.name in banned or not listed or not any(sequence.glob("*.png")):
                continue
            images = root / source / "JPEGImages" / sequence.relative_to(folder / "Annotations")
            pairs = [(images / f"{m.stem}.jpg", m) for m in sorted(sequence.glob("*.png"))]
            yield f"{source}/{sequence.name}", source, pairs[:: thinning if len(pairs) > 20 else 1]
    held_back = {line.split()[0] for line in _lines([root / "still" / HELD_BACK_STILLS])}
    for mask in sorted((root / "still").glob("*/masks/*.png")):
        source = mask.parts[-3]
        if f"{source}/{mask.stem}" not in held_back:
            yield f"{source}/{mask.stem}", source, [(mask.parent.parent / "images" / f"{mask.stem}.jpg", mask)]


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


def boxes(labels: Labels, min_area: float = 0.0) -> tuple[ObjectBox, ...]:
    """Area and box of every object that covers at least ``min_area`` (share) of the picture."""
    found = []
    for object_id in np.unique(labels):
        if object_id in (0, IGNORED_VALUE):
            continue
        mask = labels == object_id
        area = int(mask.sum())
        if area >= min_area * mask.size:
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found.append(ObjectBox(int(object_id), area, int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1))
    return tuple(found)


def _encode(
    image: Image, labels: Labels, offset: int, still: bool, options: PackOptions
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
    objects = boxes(labels, options.min_area)
    frame = PackedFrame((offset, len(picture)), (start, len(mask)), height, width, objects)
    return frame, [picture, mask]


def _read(image_path: Path, mask_path: Path, source: str) -> tuple[Image, Labels]:
    from PIL import Image as Pillow  # palette files: OpenCV would give colours instead of ids

    image = _rgb(cv2.imread(str(image_path), cv2.IMREAD_COLOR))
    if image is None:
        raise DatasetError(f"training picture {image_path} is missing or cannot be read")
    try:
        with Pillow.open(mask_path) as file:
            labels = np.array(file)
    except OSError as error:
        raise DatasetError(f"training mask {mask_path} cannot be read: {error}") from error
    if labels.shape != image.shape[:2]:
        raise DatasetError(f"mask {mask_path} is {labels.shape}, its picture {image.shape[:2]}")
    labels = labels.astype(np.uint8)
    if source in MERGED_SOURCES:
        labels = ((labels > 0) & (labels != IGNORED_VALUE)).astype(np.uint8)
    return image, labels


def _rgb(bgr: npt.NDArray[Any] | None) -> Image | None:
    """What OpenCV read, as RGB; None where it could not."""
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _write(out: Path, parts: list[bytes]) -> None:
    temporary = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.writelines(parts)
        temporary.replace(out)
    except OSError as error:
        raise OutputError(f"training pack {out} cannot be written: {error.strerror}") from error


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        if path.is_file():
            yield from (line.strip() for line in path.read_text().splitlines() if line.strip())


def _clip(item: dict[str, object]) -> PackedClip:
    frames = tuple(
        PackedFrame(
            tuple(f["image"]), tuple(f["mask"]), f["height"], f["width"], tuple(ObjectBox(**o) for o in f["objects"])
        )
        for f in item["frames"]  # type: ignore[attr-defined]
    )
    return PackedClip(str(item["name"]), str(item["source"]), frames)
