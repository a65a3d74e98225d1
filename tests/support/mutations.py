"""Files made wrong on purpose, by number: the same number gives the same file on every machine.

`damaged` changes bytes. `damaged_json`, `damaged_png` and `damaged_safetensors` change what the format says and then
make lengths and checksums right again, so that the change gets past the first check and into the reader.
"""

from __future__ import annotations

import copy
import json
import struct
import zlib
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_INFINITE, _DEEP = "@@infinite@@", "@@deep@@"
HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**300, 1e308, -1e-320, _INFINITE, _DEEP, "", " ", ".", "..",
    "../../../../../../etc/passwd", "/dev/zero", "masks/../../x.png", "a\x00b", "\x1b[2J\x07", "\u202e", "\ud800",
    "x" * 70_000, "9" * 5_000, [], {}, [[]], [0], [1, 2], [0, 0, 0, 0], {"counts": [2**40], "size": [48, 64]}, "NaN",
)  # fmt: skip


def damaged(data: bytes, random: Random, *, edits: int = 6, header: int = 600) -> bytes:
    """Bytes set, flipped, removed, repeated or overwritten by telling numbers; two of three edits near either end."""
    content = bytearray(data)
    for _ in range(random.randint(1, edits)):
        if not content:
            break
        near = random.choice(("begin", "end", "anywhere"))
        size = len(content)
        low, high = {"begin": (0, min(header, size)), "end": (max(0, size - header), size), "anywhere": (0, size)}[near]
        at = random.randrange(low, high)
        length = random.choice((1, 2, 4, 8, 64, 1024))
        match random.randrange(7):
            case 0:
                content[at] ^= 1 << random.randrange(8)
            case 1:
                content[at] = random.randrange(256)
            case 2:
                content[at : at + 4] = struct.pack(random.choice("<>") + "I", random.choice(NUMBERS))
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length] * random.choice((1, 2, 50))
            case 5:
                content[at : at + length] = random.randbytes(length)
            case 6:
                del content[at if near != "begin" else size - at :]
    return bytes(content)


def damaged_json(value: Any, random: Random) -> str:
    """A document with a few of its values replaced, doubled, moved, wrapped or taken out, as text."""
    value = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    text = json.dumps(value)
    for mark, word in ((_INFINITE, "1e999"), (_DEEP, "[" * 3000 + "]" * 3000)):
        text = text.replace(json.dumps(mark), word)
    if random.random() < 0.05:
        text = text.replace("{", '{"id": 1, "id": 2, ', 1)
    return text


def damaged_png(data: bytes, random: Random) -> bytes:
    """A PNG with some chunk changed, doubled, moved or taken out, lengths and checksums right."""
    chunks = _chunks(data)
    for _ in range(random.randint(1, 3)):
        if not chunks:
            break
        place = random.randrange(len(chunks))
        kind, body = chunks[place]
        match random.randrange(6):
            case 0:
                chunks[place] = (kind, damaged(body, random, edits=2))
            case 1:
                chunks.insert(random.randrange(len(chunks) + 1), (kind, body))
            case 2:
                del chunks[place]
            case 3:
                chunks[place] = (random.choice((b"IDAT", b"PLTE", b"tRNS", b"IHDR", b"IEND", b"acTL", b"zTXt")), body)
            case 4:
                header = bytearray(chunks[0][1].ljust(13, b"\0"))
                at = random.choice((0, 4))
                header[at : at + 4] = struct.pack(">I", random.choice(NUMBERS))
                chunks[0] = (b"IHDR", bytes(header))
            case 5:
                bomb = zlib.compress(bytes(random.choice((1 << 16, 1 << 24))), 9)
                chunks.insert(place, (random.choice((b"IDAT", b"iCCP", b"zTXt")), b"a\0\0" + bomb))
    return data[:8] + b"".join(_chunk(kind, body) for kind, body in chunks)


def damaged_safetensors(data: bytes, random: Random) -> bytes:
    """Such a file with something in its header changed, also inside the JSON of its metadata, or in its tensors."""
    (length,) = struct.unpack_from("<Q", data)
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    match random.randrange(4):
        case 0:
            text = damaged_json(header, random)
        case 1:
            metadata = header["__metadata__"]
            key = random.choice(sorted(metadata))
            try:
                metadata[key] = damaged_json(json.loads(metadata[key]), random)
            except ValueError:  # a plain text
                metadata[key] = str(random.choice(HOSTILE))
            text = json.dumps(header)
        case 2:
            names = [name for name in sorted(header) if name != "__metadata__"]
            a, b = random.choice(names), random.choice(names)
            header[a], header[b] = header[b], header[a]
            text = json.dumps(header)
        case _:
            text, tensors = json.dumps(header), damaged(tensors, random) if random.random() < 0.5 else tensors
            if random.random() < 0.7:  # the same number of bytes, other values
                tensors = bytes(random.choice((0, 0x7F, 0xFF)) for _ in range(64)) + tensors[64:]
    raw = text.encode("utf-8", "replace")
    return struct.pack("<Q", random.choice((len(raw), len(raw), len(raw), 2**40))) + raw + tensors


def _changed(value: Any, random: Random) -> Any:
    """``value`` with one change at a place that is chosen by walking down from the top."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.15:
        return random.choice((copy.deepcopy(random.choice(HOSTILE)), [value], {"a": value}))
    key = random.choice(sorted(value)) if isinstance(value, dict) else random.randrange(len(value))
    match random.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[str(random.choice(HOSTILE))[:100]] = value[key]
        case 1 if isinstance(value, list):
            value.extend([value[key]] * random.choice((1, 300)))
        case 2 | 3:  # (the two above are all of case 1)
            value[key] = copy.deepcopy(random.choice(HOSTILE))
        case _:
            value[key] = _changed(value[key], random)
    return value


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
