"""A media file opened with PyAV: its video stream, that stream's packets, and one sentence when it cannot be used.

Every error of FFmpeg enters the project here and leaves as a ``VideoError``; nothing else translates them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seem_core.errors import VideoError
from vos.picture_limit import check_pixels, max_pixels

__all__ = ["Media", "decode", "open_media", "reading", "video_packets"]

log = logging.getLogger(__name__)

# FFmpeg turns any text into pictures of a terminal: no user means that by "video".
_NOT_VIDEO = {"tty", "txt", "bin", "xbin", "adf", "idf"}

_BLOCK = 128  # pixels; the largest block of any codec, AV1's

# A file is read alone. Playlists, descriptions of streams and devices would make FFmpeg open what they name: other
# files of the user's, or addresses. Everything else that this build of FFmpeg reads is allowed.
_NOT_ALONE = {"concat", "dash", "hds", "hls", "image2", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp", "smoothstreaming",
              "webm_dash_manifest", "alsa", "fbdev", "kmsgrab", "oss", "v4l2", "video4linux2", "x11grab", "xcbgrab",
              "avfoundation", "dshow", "gdigrab", "vfwcap", "jack", "pulse", "sndio", "iec61883", "libcdio",
              "openal", "decklink", "libdc1394", "vapoursynth", "avisynth"}  # fmt: skip
_ALONE = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(set(av.formats_available) - _NOT_ALONE)),
}

# Most specific first: the first class that fits gives the sentence.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (FileNotFoundError, "there is no such file"),
    (PermissionError, "permission denied; check the rights of the file and its folder"),
    (IsADirectoryError, "it is a folder where a file was expected"),
    (av.error.DecoderNotFoundError, "this build of FFmpeg has no decoder for it; convert it to H.264 first"),
    (av.error.DemuxerNotFoundError, "this build of FFmpeg does not know its container; convert it to MP4 first"),
    (av.error.PatchWelcomeError, "it uses a feature that FFmpeg does not decode; convert it to H.264 first"),
    (av.error.InvalidDataError, "it is not a video, or its header is damaged"),
    (av.error.ArgumentError, "its header makes no sense, or it is a playlist, which would have other files read"),
    (av.error.FFmpegError, "FFmpeg cannot read it"),
    (OSError, "the operating system cannot read it"),
)


class Media:
    """An open container and the one video stream that is used of it. Close it, or use it in a ``with``."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container = container
        self.stream = stream

    def __enter__(self) -> Media:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    @property
    def codec(self) -> str:
        """Name of the coding, such as "av1", whichever decoder is at work."""
        return self.stream.codec_context.codec.canonical_name


def open_media(path: Path, threads: int = 1) -> Media:
    """Open a file for reading; ``threads`` is the number of threads the codec may use.

    Cover art of audio files is no video. Raises VideoError with one sentence for everything that is not a readable
    file with a video stream, or whose frames are above the limit of pictures (`vos.picture_limit`).
    """
    _require_file(path)
    with reading(path):
        # absolute: a name such as "concat:x" is never taken for a protocol
        container = av.open(str(path.absolute()), options=dict(_ALONE), metadata_errors="replace")
    try:
        stream = _video_stream(container, path)
        context = stream.codec_context
        check_pixels(context.width, context.height, str(path), VideoError)
        context.options = {"max_pixels": str(_most_coded(context.width, context.height))}
        context.thread_count = threads
        context.thread_type = "SLICE" if threads == 1 else "FRAME"
    except BaseException:
        container.close()
        raise
    return Media(container, stream)


def video_packets(media: Media) -> Iterator[Packet[VideoStream]]:
    """The stream's packets that carry data, in decode order, up to the end or to where the file breaks off.

    Empty packets are left out: FFmpeg would take one for the end of the stream.
    """
    packets = media.container.demux(media.stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            log.warning("reading %s stopped early: %s", media.container.name, error)
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def decode(media: Media, packet: Packet[VideoStream] | None) -> tuple[list[VideoFrame], bool]:
    """Frames that come out when ``packet`` goes in (None: the frames still inside), and whether all went well."""
    try:
        frames = media.stream.codec_context.decode(packet)
    except EOFError:  # also FFmpeg's own, which derives from it: nothing is left inside
        return [], True
    except av.error.FFmpegError as error:
        log.debug("%s: a packet cannot be decoded: %s", media.container.name, error)
        return [], False
    return frames, not any(frame.is_corrupt for frame in frames)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate whatever FFmpeg or the operating system raise while ``path`` is read."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        if isinstance(error, VideoError):
            raise
        reason = next(text for kind, text in _REASONS if isinstance(error, kind))
        raise VideoError(f"cannot read {path}: {reason}") from error


def _require_file(path: Path) -> None:
    if re.match(r"\w{2,}:/", str(path)):  # a path has lost the second slash; a drive has one letter
        raise VideoError(f"cannot read {path}: it is an address, not a file; save the video to a file first")
    with reading(path):
        if not path.exists():
            raise VideoError(f"cannot read {path}: there is no such file")
        if path.is_dir():
            raise IsADirectoryError
        if not path.is_file():
            raise VideoError(f"cannot read {path}: it is not a regular file; save the stream to a file first")
        if path.stat().st_size == 0:
            raise VideoError(f"cannot read {path}: the file is empty")


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    if container.format.name in _NOT_VIDEO:
        raise VideoError(f"cannot read {path}: it is a text file, not a video")
    streams = [stream for stream in container.streams.video if not _is_picture(stream)]
    if streams and streams[0].codec_context is None:  # whatever its type says
        raise VideoError(f"cannot read {path}: FFmpeg does not know how its video stream is coded; convert it first")
    if streams:
        return streams[0]
    if container.streams.audio:
        raise VideoError(f"cannot read {path}: it holds audio only, no video stream")
    raise VideoError(f"cannot read {path}: it holds no video stream")


def _most_coded(width: int, height: int) -> int:
    """For frames that turn out larger than the header says: the limit, or the header's size in whole coding blocks."""
    return max(max_pixels(), -(-width // _BLOCK) * _BLOCK * -(-height // _BLOCK) * _BLOCK)


def _is_picture(stream: VideoStream) -> bool:
    """Whether the stream is cover art."""
    return bool(stream.disposition & Disposition.attached_pic)
