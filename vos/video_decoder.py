"""Decoded frames of a video by their position: seek, feed packets, collect frames, recover from damage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seem_core.errors import VideoError
from vos.container import decode, open_media, reading, video_packets
from vos.video_index import UNKNOWN, VideoIndex

__all__ = ["VideoDecoder"]

log = logging.getLogger(__name__)

# Frames leave a decoder in presentation order, except where one finds out late how far a stream reorders. A frame is
# given up once this many later ones have come.
_REORDERED = 4


class VideoDecoder:
    """One way through a file. ``read`` gives the frame at a position, as decoding from the first packet would.

    Each packet gets its ordinal for a time stamp before it is decoded and each frame brings that stamp back, so frame
    and packet belong together whatever stamps the file carries. Reading forward decodes on; reading backward, or past
    a key packet that lies ahead, seeks. A seek is not trusted: where the packet it lands on is not recognised, where
    the frame does not come out or a packet on the way to it is damaged, the file is decoded from its start instead.

    Not safe for use by several threads at once.
    """

    def __init__(self, path: Path, index: VideoIndex, threads: int = 1) -> None:
        self._path = path
        self._index = index
        self._threads = threads
        self._media = open_media(path, threads)
        self._ready: dict[int, VideoFrame] = {}
        self._damaged = False
        self._rewound(0)

    @property
    def damaged(self) -> bool:
        """Whether a packet was damaged since decoding began where it did."""
        return self._damaged

    def close(self) -> None:
        self._ready.clear()
        self._media.close()

    def read(self, position: int) -> VideoFrame | None:
        """The frame at ``position``, None if it cannot be decoded."""
        ahead = int(self._index.begin[position])
        if position < self._floor or ahead > self._next:
            self._seek(ahead)
        frame = self._advance(position)
        if self._begun > 0 and (frame is None or self._damaged):
            log.debug("%s: frame %d is decoded from the start of the file", self._path, position)
            self._restart()
            frame = self._advance(position)
        return frame

    def _advance(self, position: int) -> VideoFrame | None:
        """Feed packets until the frame at ``position`` has come, or will not come any more."""
        while position not in self._ready and len(self._ready) < _REORDERED and not self._ended:
            for frame in self._feed():
                place = self._place(frame)
                if place >= position:
                    self._ready[place] = frame
        found = self._ready.get(position)
        self._ready = {place: kept for place, kept in self._ready.items() if place > position}
        self._floor = position + 1
        return found

    def _place(self, frame: VideoFrame) -> int:
        ordinal = frame.pts
        if ordinal is None or not 0 <= ordinal < len(self._index.position):
            return -1
        return int(self._index.position[ordinal])

    def _feed(self) -> list[VideoFrame]:
        """Frames that come out for the next packet, or for the end of the file."""
        packet = next(self._packets, None)
        if packet is None or self._next >= len(self._index.position):
            self._ended = True
            packet = None
        else:
            self._stamp(packet)
        frames, good = decode(self._media, packet)
        self._damaged |= not good
        return frames

    def _stamp(self, packet: Packet[VideoStream]) -> None:
        if self._begun == 0 and packet.pts is not None and packet.pts != self._index.pts[self._next]:
            raise VideoError(f"{self._path} changed while it was read; run again when it is complete")
        packet.pts = packet.dts = self._next
        self._next += 1

    def _seek(self, ordinal: int) -> None:
        """Go to a key packet, or to the start of the file where that is not possible."""
        if ordinal == 0 or not self._land(ordinal):
            self._restart()

    def _land(self, ordinal: int) -> bool:
        """Whether a seek got to the packet at ``ordinal``, or before it so that skipping packets gets there."""
        stamps = [int(stamp[ordinal]) for stamp in (self._index.dts, self._index.pts) if stamp[ordinal] != UNKNOWN]
        try:
            self._media.container.seek(min(stamps), stream=self._media.stream, backward=True)
        except (av.error.FFmpegError, OSError) as error:
            log.debug("%s: seeking failed: %s", self._path, error)
            return False
        packets = video_packets(self._media)
        packet = next(packets, None)
        landed = None if packet is None else self._index.find(packet.pts, packet.pos)
        if packet is None or landed is None or landed > ordinal:
            return False
        for _ in range(ordinal - landed):
            packet = next(packets, None)
        if packet is None or packet.pts != self._index.pts[ordinal]:
            return False
        self._rewound(ordinal, chain([packet], packets))
        return True

    def _restart(self) -> None:
        self._media.close()
        with reading(self._path):
            self._media = open_media(self._path, self._threads)
        self._rewound(0)

    def _rewound(self, ordinal: int, packets: Iterator[Packet[VideoStream]] | None = None) -> None:
        """Start the books anew: the next packet is the one at ``ordinal``."""
        self._packets = packets or video_packets(self._media)
        self._begun = self._next = ordinal
        self._ready = {}
        self._floor = 0
        self._ended = False
        self._damaged = False
