"""A folder of images (a DAVIS sequence is one) as a `VideoSource`, in natural order of the file names."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from seem_core.errors import VideoError
from vos.frames import Frame, VideoInfo
from vos.picture_limit import open_picture

__all__ = ["IMAGE_SUFFIXES", "ImageSequence", "list_images", "natural_key", "read_image"]

Rgb = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


class ImageSequence:
    """Images as the frames of a video; frame i is shown at i / rate seconds. See `VideoSource` for the contract.

    The first image that can be read sets the size. An image that cannot be read, or has another size, is a gap; names
    stay in ``Frame.name``. A path to one image is a sequence of one frame.

    Raises VideoError for a folder without images, without a readable one, or with two images of one name.
    """

    def __init__(self, path: Path, rate: Fraction = Fraction(24)) -> None:
        if rate <= 0:
            raise VideoError(f"the rate must be above 0 frames per second, not {rate}")
        self._path = path
        self._files = tuple(list_images(path))
        self._gaps: dict[int, str] = {}
        self._rate = rate
        height, width = self._first_size()
        self._info = VideoInfo(path, height, width, rate, len(self._files), None, 0, False, "images")

    def __enter__(self) -> ImageSequence:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ImageSequence({str(self._path)!r}, {self._info.width}x{self._info.height}, {len(self)} frames)"

    @property
    def info(self) -> VideoInfo:
        return self._info

    @property
    def gaps(self) -> tuple[int, ...]:
        return tuple(sorted(self._gaps))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(text for _, text in sorted(self._gaps.items()))

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __getitem__(self, index: int) -> Frame:
        index = operator.index(index)
        frame = self._read(self._checked(index))
        if frame is None:
            raise VideoError(f"frame {index} cannot be used: {self._gaps[index]}")
        return frame

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        """See `VideoSource.frames`; only the images asked for are opened."""
        return (frame for index in range(len(self))[start:stop:step] if (frame := self._read(index)) is not None)

    def seconds(self, index: int) -> float:
        return float(self._checked(index) / self._rate)

    def close(self) -> None:
        """Nothing stays open between two images."""

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is outside 0..{len(self) - 1} of {self._path}")
        return index

    def _first_size(self) -> tuple[int, int]:
        for index in range(len(self)):
            image = self._load(index)
            if image is not None:
                return image.shape[0], image.shape[1]
        raise VideoError(f"cannot read {self._path}: none of its {len(self)} images can be decoded")

    def _load(self, index: int) -> Rgb | None:
        try:
            return read_image(self._files[index])
        except VideoError as error:
            self._gaps[index] = str(error)
            return None

    def _read(self, index: int) -> Frame | None:
        image = self._load(index)
        if image is None:
            return None
        file, (height, width) = self._files[index], image.shape[:2]
        if (height, width) != (self._info.height, self._info.width):
            self._gaps[index] = (
                f"{file.name} is {width}x{height}, the first image is {self._info.width}x{self._info.height}"
            )
            return None
        return Frame(index, self.seconds(index), image, file.stem)


def list_images(path: Path) -> list[Path]:
    """Images in a folder in natural order, hidden files left out; for a path to an image, that image."""
    try:
        if not path.exists():
            raise VideoError(f"cannot read {path}: there is no such file or folder")
        if not path.is_dir():
            return [path]
        entries = sorted(path.iterdir(), key=natural_key)
        files = [entry for entry in entries if _is_image(entry)]
        if not files:
            raise VideoError(f"cannot read {path}: {_why_no_images(entries)}")
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}; check the rights of the folder") from error
    stems: dict[str, Path] = {}
    for file in files:
        other = stems.setdefault(file.stem, file)
        if other is not file:
            raise VideoError(f"{other.name} and {file.name} in {path} would share the name of one mask; remove one")
    return files


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key: runs of digits by value, the rest without regard to case; the exact name decides between equals."""
    parts = [part for part in re.split(r"([0-9]+)", path.name) if part]
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts], path.name


def read_image(path: Path) -> Rgb:
    """(H, W, 3) uint8 RGB, upright: EXIF orientation applied, alpha dropped, 16-bit samples scaled, CMYK converted.

    Raises VideoError if the file is missing, damaged, cut short, too large, or of samples without a fixed range.
    """
    try:
        with open_picture(path, path.name, VideoError) as opened:
            image = ImageOps.exif_transpose(opened)
        return _to_rgb(image)
    except VideoError:
        raise
    except UnidentifiedImageError as error:
        raise VideoError(f"{path.name} is not an image that can be read") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise VideoError(f"{path.name} cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its samples have more than 16 bits")
        image = Image.fromarray((grey * 255 / 65535 + 0.5).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its samples are floating point, without a fixed range")
    return np.array(image.convert("RGB"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _why_no_images(entries: list[Path]) -> str:
    if not entries:
        return "the folder is empty"
    for entry in entries:
        if entry.is_dir() and any(map(_is_image, entry.iterdir())):
            return f"the folder holds no images; did you mean {entry}?"
    return "the folder holds no images"
