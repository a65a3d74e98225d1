"""The index of a video: which packet shows which frame and when, learnt by demuxing the file once.

Letters: n packets in decode order (an *ordinal* is a place there), m <= n frames in presentation order (a *position*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from seem_core.errors import VideoError
from vos.container import Media, decode, open_media, video_packets

__all__ = ["UNKNOWN", "VideoIndex", "build_index"]

Ints = npt.NDArray[np.int64]

UNKNOWN = np.iinfo(np.int64).min  # a time stamp or byte offset that the container does not give


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What demuxing tells of a video; a few dozen bytes per frame.

    position      (n,) frame that a packet shows, -1 for a packet that is decoded but never shown
    ordinal       (m,) packet that shows a frame: ``position[ordinal[i]] == i``
    seconds       (m,) presentation time from the first frame
    begin         (m,) ordinal of the packet from which decoding has to begin so that the frame comes out whole
    pts, offset   (n,) time stamp in the stream's time base and byte offset as demuxed; recognise a packet after a seek
    dts           (n,) decode time stamp, where to seek to
    rate          mean frames per second
    """

    position: Ints
    ordinal: Ints
    seconds: npt.NDArray[np.float64]
    begin: Ints
    pts: Ints
    dts: Ints
    offset: Ints
    rate: Fraction

    def __len__(self) -> int:
        return len(self.ordinal)

    def __repr__(self) -> str:
        return f"VideoIndex({len(self)} frames in {len(self.position)} packets, {float(self.rate):.3f} fps)"

    def find(self, pts: int | None, offset: int | None) -> int | None:
        """Ordinal of the packet with this time stamp and byte offset, None unless there is exactly one."""
        found = np.flatnonzero((self.pts == _known(pts)) & (self.offset == _known(offset)))
        return int(found[0]) if len(found) == 1 else None


def build_index(path: Path) -> VideoIndex:
    """Demux a file once. Cost: reading it from end to end; nothing is decoded where packets carry time stamps.

    Frames are ordered by presentation time stamp, equal stamps by decode order. Left out of the order are packets that
    an edit list discards and the hidden reference frames of VP8 and VP9. Where a container gives no such stamps (AVI
    with B-frames, raw streams), one decoding pass learns the order, and times are the sorted decode times or, failing
    these, multiples of the mean frame duration. Raises VideoError if there is no packet to show.
    """
    with open_media(path) as media:
        rows = [
            (_known(packet.pts), _known(packet.dts), _known(packet.pos), packet.is_keyframe, _is_shown(media, packet))
            for packet in video_packets(media)
        ]
        declared, base, invented = _declared_rate(media), media.stream.time_base, _invents_pts(media)
    table = np.array(rows, np.int64).reshape(-1, 5)
    pts, dts, offset = (np.ascontiguousarray(table[:, column]) for column in range(3))
    key, shown = table[:, 3].astype(bool), table[:, 4].astype(bool)
    if not shown.any():
        raise VideoError(f"cannot read {path}: its video stream holds no frame")

    stamped = not invented and bool((pts[shown] != UNKNOWN).all())
    ordinal = np.flatnonzero(shown)
    if stamped:
        ordinal = ordinal[np.argsort(pts[ordinal], kind="stable")]
        ticks: Ints | None = pts[ordinal]
    else:
        ordinal = _order_by_decoding(path, shown)
        ticks = _increasing(np.sort(dts[ordinal]))
    if ticks is None or base is None:
        seconds = np.arange(len(ordinal)) / float(declared)
    else:
        seconds = (ticks - ticks[0]) * float(base)
    position = np.full(len(table), -1, np.int64)
    position[ordinal] = np.arange(len(ordinal))
    begin = _where_to_begin(key, pts)[ordinal] if stamped else np.zeros_like(ordinal)
    return VideoIndex(position, ordinal, seconds, begin, pts, dts, offset, _mean_rate(seconds, declared))


def _known(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _invents_pts(media: Media) -> bool:
    """AVI has no presentation time stamps; FFmpeg fills in decode times, which is wrong where frames are reordered."""
    return media.container.format.name == "avi" and media.stream.codec_context.has_b_frames


def _is_shown(media: Media, packet: Packet[VideoStream]) -> bool:
    """Whether decoding the packet gives a frame to look at."""
    if packet.is_discard:
        return False
    if media.codec == "vp8":
        return _vp8_is_shown(memoryview(packet))
    if media.codec == "vp9":
        return _vp9_is_shown(memoryview(packet))
    return True


def _vp8_is_shown(data: memoryview) -> bool:
    """``show_frame`` of RFC 6386, section 9.1."""
    return bool(data[0] & 0x10)


def _vp9_is_shown(data: memoryview) -> bool:
    """``show_frame`` or ``show_existing_frame`` of the VP9 bitstream specification, section 7.2; bits from the left.

    A superframe (Annex B: marker 110 in its last byte) always ends with a frame that is shown.
    """
    if data[-1] >> 5 == 0b110:
        return True
    bits = f"{int.from_bytes(data[:2].tobytes().ljust(2, b'0'), 'big'):016b}"
    at = 5 if bits[2:4] == "11" else 4  # frame marker (2), profile (2), a reserved bit for profile 3
    return bits[at] == "1" or bits[at + 2] == "1"


def _where_to_begin(key: npt.NDArray[np.bool_], pts: Ints) -> Ints:
    """(n,) For each packet the last key packet before it that is also shown before it.

    A frame shown before the key packet that precedes it in the file (open group of pictures) needs the group before.
    """
    begin = np.zeros(len(key), np.int64)
    keys = [0]
    for ordinal in range(1, len(key)):
        if key[ordinal] and pts[ordinal] != UNKNOWN:
            keys.append(ordinal)
        at = len(keys) - 1
        while at > 0 and pts[keys[at]] > pts[ordinal]:
            at -= 1
        begin[ordinal] = keys[at]
    return begin


def _order_by_decoding(path: Path, shown: npt.NDArray[np.bool_]) -> Ints:
    """(m,) Ordinals in the order in which the decoder gives their frames.

    A packet that gives none takes the place behind the packet that precedes it in the file.
    """
    place: dict[int, int] = {}
    with open_media(path) as media:
        for ordinal, packet in enumerate(video_packets(media)):
            packet.pts = packet.dts = ordinal
            _append_places(place, [frame.pts for frame in decode(media, packet)[0]])
        _append_places(place, [frame.pts for frame in decode(media, None)[0]])
    ranks: list[tuple[int, int]] = []
    last = -1
    for ordinal in np.flatnonzero(shown).tolist():
        last = place.get(ordinal, last)
        ranks.append((last, ordinal))
    return np.array([ordinal for _, ordinal in sorted(ranks)], np.int64)


def _append_places(place: dict[int, int], ordinals: Sequence[int | None]) -> None:
    for ordinal in ordinals:
        if ordinal is not None:
            place.setdefault(ordinal, len(place))


def _increasing(ticks: Ints) -> Ints | None:
    """The ticks if each is known and later than the one before, else None."""
    return ticks if ticks[0] != UNKNOWN and bool((np.diff(ticks) > 0).all()) else None


def _declared_rate(media: Media) -> Fraction:
    for rate in (media.stream.average_rate, media.stream.guessed_rate, media.stream.base_rate):
        if rate and rate > 0:
            return Fraction(rate)
    return Fraction(25)


def _mean_rate(seconds: npt.NDArray[np.float64], declared: Fraction) -> Fraction:
    """The header's rate where it agrees with the index within 1 %, else the mean of the index.

    Time stamps of Matroska are rounded to milliseconds, headers of GIF and of variable-rate files are often wrong.
    """
    span = float(seconds[-1])
    if len(seconds) < 2 or span <= 0:
        return declared
    measured = (len(seconds) - 1) / span
    if abs(measured - float(declared)) <= 0.01 * measured:
        return declared
    return Fraction(measured).limit_denominator(1001)
