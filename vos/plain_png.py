"""The quick way to the pixels of a plain PNG: 8 bits, palette or grey, rows stored without filter.

Label maps are nearly always written so, and scoring spends most of its time on reading them; this takes two thirds of
what a general decoder takes. Anything else is left to that decoder.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vos.picture_limit import max_pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types


def read_plain_png(path: Path) -> npt.NDArray[np.uint8] | None:
    """(H, W) uint8 values of a plain PNG; None for any other file, also one that is missing, damaged or too large."""
    try:
        data = path.read_bytes()
        size, compressed = _header_and_pixels(data)
        if size is None:
            return None
        height, width = size
        if height * width > max_pixels():
            return None
        stored = height * (width + 1)
        inflater = zlib.decompressobj()
        rows = inflater.decompress(compressed, stored)
        if len(rows) != stored or not inflater.eof:
            return None
    except (OSError, struct.error, zlib.error):
        return None
    table = np.frombuffer(rows, np.uint8).reshape(height, width + 1)  # a filter byte, then a row
    return None if table[:, 0].any() else table[:, 1:].copy()


def _header_and_pixels(data: bytes) -> tuple[tuple[int, int] | None, bytes]:
    """((H, W), compressed rows), or (None, b"") where the file is not plain. Raises struct.error where it is cut short.

    PNG specification (ISO/IEC 15948) section 5.3: length, type, data and CRC of each chunk.
    """
    nothing = (None, b"")
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        return nothing
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if depth != 8 or colour not in (_GREY, _PALETTE) or interlace or not width or not height:
        return nothing
    parts: list[bytes] = []
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack_from(">I", data, position + 8 + length)
        if kind == b"IEND":
            return (height, width), b"".join(parts)
        if kind == b"IDAT":
            if zlib.crc32(body, zlib.crc32(kind)) != crc:
                return nothing
            parts.append(body)
        position += 12 + length
