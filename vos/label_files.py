"""Label maps on disk: the DAVIS palette, `read_labels`, and `write_labels` that leaves a whole file or none."""

from __future__ import annotations

import os
import struct
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.errors import MaskError
from trackers.base import Labels
from vos.picture_limit import open_picture
from vos.plain_png import read_plain_png
from vos.writing import writing

VOID = 255  # 8-bit value of pixels that belong to nobody in particular (DAVIS, YouTube-VOS, PASCAL VOC)
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")


def davis_palette() -> npt.NDArray[np.uint8]:
    """(256, 3) uint8 RGB colour of every 8-bit id, the one of DAVIS and PASCAL VOC.

    Bits 0, 1, 2 of an id are the highest bits of red, green and blue, bits 3, 4, 5 the next ones, and so on.
    """
    ids = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    for shift, bit in ((0, 7), (3, 6), (6, 5)):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (shift + channel)) & 1) << bit
    return palette


DAVIS_PALETTE = davis_palette()
_PALETTE_BYTES = DAVIS_PALETTE.tobytes()


def open_mask_image(path: Path) -> Image.Image:
    """The picture in ``path``, decoded. Raises MaskError where there is none, it is damaged or too large."""
    try:
        with open_picture(path, f"mask {path}", MaskError) as image:
            image.load()
            return image
    except MaskError:
        raise
    except FileNotFoundError as error:
        raise MaskError(f"mask {path} does not exist") from error
    except IsADirectoryError as error:
        raise MaskError(f"mask {path} is a folder; name the file of one frame in it") from error
    except PermissionError as error:
        raise MaskError(f"mask {path} cannot be read: permission denied; check its rights") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise MaskError(f"mask {path} cannot be read as a picture ({reason}); write it again as PNG") from error


def is_lossy(image: Image.Image) -> bool:
    """Whether the file's format changes values by compression, so that they cannot be ids."""
    return image.format in _LOSSY


def grey_values(image: Image.Image, path: Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """(H, W) values as the file holds them, of a picture of mode P, 1, L or 16-bit grey.

    One-bit pictures give 0 and 1; grey PNGs of 2 or 4 bits give their own small values, not values stretched to 255.
    Raises MaskError for any other mode and for values outside 0..65535.
    """
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("P", "L"):
        values = np.array(image, dtype=np.uint8)
        return values // _stretch(path) if image.mode == "L" and image.format == "PNG" else values
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise MaskError(f"mask {path} has values outside 0..65535; ids must fit into 16 bits")
        return wide.astype(np.uint16)
    raise MaskError(f"mask {path} is a {image.mode} picture; a label map is a palette PNG or a grey PNG of ids")


def _stretch(path: Path) -> int:
    """Factor by which the decoder multiplies the values of a grey PNG of fewer than 8 bits."""
    with path.open("rb") as file:
        header = file.read(25)
    depth = header[24] if len(header) == 25 else 8
    return {2: 85, 4: 17}.get(depth, 1)


def read_labels(path: Path | str) -> Labels:
    """The (H, W) uint8 or uint16 ids of a palette or grey PNG, as the file holds them (255 is not special here).

    Raises MaskError where the file is missing or damaged, has colours instead of ids (RGB, RGBA), or was compressed
    with loss.
    """
    path = Path(path)
    if (values := read_plain_png(path)) is not None:
        return values
    image = open_mask_image(path)
    if image.mode not in ("P", "1", "L") and not image.mode.startswith("I"):
        raise MaskError(
            f"mask {path} is {image.mode}, colours instead of ids; write it as a palette PNG or a grey PNG of ids"
        )
    if is_lossy(image):
        raise MaskError(f"mask {path} is {image.format}, which changes ids by compression; write it as PNG")
    return grey_values(image, path)


def encode_labels(labels: Labels, *, level: int = 1) -> bytes:
    """PNG of an (H, W) label map: uint8 with the DAVIS palette, uint16 as 16-bit grey. ``level``: zlib's, 0..9."""
    if labels.ndim != 2 or 0 in labels.shape or labels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"labels is (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}")
    if labels.dtype == np.uint16:
        image = Image.fromarray(np.ascontiguousarray(labels))
    else:
        image = Image.fromarray(np.ascontiguousarray(labels)).convert("L")
        image.putpalette(_PALETTE_BYTES)  # turns a grey picture into a palette one, values unchanged
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def write_labels(path: Path | str, labels: Labels, *, level: int = 1) -> None:
    """Write an (H, W) label map as PNG: uint8 with the DAVIS palette, uint16 (ids above 255) as 16-bit grey.

    The file appears under its name only when whole. Raises ValueError for another shape or type, DiskFullError where
    no room is left, OutputError where the place cannot be written.
    """
    write_whole(Path(path), encode_labels(labels, level=level))


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` into ``path``, under a temporary name first, so that no reader ever sees a part of it.

    Raises DiskFullError where no room is left (or a quota or file-size limit is met), OutputError otherwise.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with writing(path):
        try:
            _write_new(part, data)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _write_new(path: Path, data: bytes) -> None:
    """In the place of what a killed process of the same number left, and never through a link."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
