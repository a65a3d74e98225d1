"""Sound of a source put under a finished video, packet by packet where MP4 can hold it, else encoded again as AAC."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from seem_core.disk import is_no_room
from seem_core.errors import VosError
from vos.writing import write_error

_COPIED = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "alac"})  # what players expect in MP4
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_REORDERED = 64  # packets among which the first picture shown is looked for

_TimedPacket: TypeAlias = "tuple[float, int, Packet[AudioStream] | Packet[VideoStream]]"


def add_audio(video: Path, source: Path, out: Path, *, start: float, end: float) -> str | None:
    """Write ``out``: the pictures of ``video`` and the sound of ``source`` between ``start`` and ``end``.

    Times are seconds from the first picture of the source; ``video`` begins at ``start``. Memory does not grow with the
    length. Returns None, or the sentence that says why the sound could not be kept; ``out`` is then useless.

    Raises DiskFullError where no room is left.
    """
    try:
        origin = _first_picture_time(source)
        with (
            av.open(str(video.absolute()), metadata_errors="replace") as pictures,
            av.open(str(source.absolute()), metadata_errors="replace") as sounds,
            av.open(str(out.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as target,
        ):
            _mux(pictures, sounds, target, origin + start, origin + end)
    except (av.error.FFmpegError, OSError, ValueError, TypeError) as error:
        if isinstance(error, VosError):
            raise
        if is_no_room(error):
            raise write_error(out, error) from error
        return f"the sound of {source.name} could not be kept ({getattr(error, 'strerror', None) or error})"
    return None


def _mux(pictures: InputContainer, sounds: InputContainer, target: OutputContainer, first: float, last: float) -> None:
    """``first`` and ``last`` are in the source's own clock."""
    audio = sounds.streams.audio[0]
    video_out = target.add_stream_from_template(pictures.streams.video[0])
    if audio.codec_context.name in _COPIED:
        audio_packets = _copied(sounds, audio, target.add_stream_from_template(audio), first, last)
    else:
        audio_packets = _encoded(sounds, audio, _aac_stream(target, audio), first, last)
    for _, _, packet in heapq.merge(_video_packets(pictures, video_out), audio_packets, key=lambda item: item[:2]):
        target.mux(packet)


def _first_picture_time(source: Path) -> float:
    """Time of the first picture shown, in the file's own clock: sound is placed relative to it."""
    with av.open(str(source.absolute()), metadata_errors="replace") as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.time_base is None:
            return 0.0
        stamps = (p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard)
        return float(min(islice(stamps, _REORDERED), default=0) * stream.time_base)


def _video_packets(container: InputContainer, out: VideoStream) -> Iterator[_TimedPacket]:
    for packet in container.demux(container.streams.video[0]):
        if packet.dts is not None:
            at = float(packet.dts * packet.time_base)
            packet.stream = out
            yield at, 0, packet


def _copied(
    container: InputContainer, stream: AudioStream, out: AudioStream, first: float, last: float
) -> Iterator[_TimedPacket]:
    """Packets that sound between first and last, and the one before: a decoder needs it to start cleanly."""
    base = float(stream.time_base or 1)
    shift = round(first / base)
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None:
            continue
        length = packet.duration or 0
        if packet.pts + 2 * length < first / base or packet.pts >= last / base:
            continue
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = out
        yield packet.dts * base, 1, packet


def _encoded(
    container: InputContainer, stream: AudioStream, out: AudioStream, first: float, last: float
) -> Iterator[_TimedPacket]:
    def timed(packets: list[Packet[AudioStream]]) -> Iterator[_TimedPacket]:
        for packet in packets:
            if packet.dts is not None:
                yield float(packet.dts * packet.time_base), 1, packet

    for packet in container.demux(stream):
        for frame in packet.decode():
            if frame.pts is None or frame.time_base is None:
                continue
            begins = float(frame.pts * frame.time_base)
            if begins + frame.samples / frame.sample_rate <= first or begins >= last:
                continue
            frame.pts -= round(first / frame.time_base)  # below 0 for what began before the first picture
            yield from timed(out.encode(frame))
    yield from timed(out.encode(None))


def _aac_stream(target: OutputContainer, audio: AudioStream) -> AudioStream:
    rate = min(_AAC_RATES, key=lambda known: abs(known - audio.codec_context.sample_rate))
    stream = target.add_stream("aac", rate=rate)
    assert isinstance(stream, AudioStream)  # the type checker's: the name of an audio encoder was given
    stream.layout = "mono" if audio.codec_context.layout.nb_channels == 1 else "stereo"
    return stream
