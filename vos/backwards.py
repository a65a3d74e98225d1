"""A video from its end to its start: `backwards` reads stretches forward and hands each out reversed.

Codecs decode forward only, from a key frame on. A stretch therefore begins at a key frame wherever one lies within the
memory bound; where key frames are farther apart than that, the frames before a stretch are decoded again and dropped.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, runtime_checkable

from seem_core.errors import VideoError
from vos.frames import Frame, VideoInfo, VideoSource

MEGABYTE = 2**20
MAX_BYTES = 256 * MEGABYTE  # decoded frames held at a time


@runtime_checkable
class _HasKeyFrames(Protocol):
    """A source that says from which frame on it must decode to show a frame (`vos.video.PyavVideo` does)."""

    def restart(self, index: int) -> int: ...


def check_seekable(source: VideoSource, why: str) -> None:
    """Raise VideoError where ``source`` says (``seekable = False``) that it can be read once, from start to end.

    ``why`` begins the sentence: what needs to read from elsewhere.
    """
    if not getattr(source, "seekable", True):
        raise VideoError(
            f"{why} reads frames again, and {source.info.path} can be read only once; save it as a file first"
        )


def backwards(source: VideoSource, frames: range, *, max_bytes: int = MAX_BYTES) -> Generator[Frame, None, None]:
    """The decodable frames of ``frames`` (ascending numbers of the source), the last one first.

    Holds at most ``max_bytes`` of decoded pictures, but at least one picture. Every frame is decoded once where key
    frames are no farther apart than fits; otherwise about half of what lies between two of them is decoded again for
    every stretch. What cannot be decoded is left out, as reading forward leaves it out (`VideoSource.gaps`).

    Raises ValueError for a range that descends, VideoError where the source cannot seek or be read on.
    """
    if frames.step < 1:
        raise ValueError(f"frames must ascend, not {frames}")
    check_seekable(source, "tracking backward")
    room = frames_within(source.info, max_bytes)
    end = len(frames)  # places in ``frames`` from here on are done
    while end > 0:
        begin = _begin_of_stretch(source, frames, end, room)
        stretch = frames[begin:end]
        held = list(source.frames(stretch.start, stretch.stop, stretch.step))
        while held:
            yield held.pop()  # nothing here keeps a picture that was handed out
        end = begin


def frames_within(info: VideoInfo, max_bytes: int) -> int:
    """How many decoded RGB pictures of a video fit into ``max_bytes``; at least one."""
    return max(1, max_bytes // (3 * info.height * info.width))


def _begin_of_stretch(source: VideoSource, frames: range, end: int, room: int) -> int:
    """Where the stretch of at most ``room`` frames that ends before place ``end`` begins.

    At the earliest key frame within reach, so that as few stretches as possible are needed; else as early as fits.
    """
    earliest = max(0, end - room)
    if earliest == 0 or not isinstance(source, _HasKeyFrames):
        return earliest
    begin, place = None, end - 1
    while place >= earliest:
        key = source.restart(frames[place])
        at = -(-(key - frames.start) // frames.step)  # the first place at or after the key frame
        if at < earliest or at > place:
            break
        begin, place = at, at - 1
    return earliest if begin is None else begin
