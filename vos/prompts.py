"""When a prompt applies: prompts paired with frames, and what must hold before the first frame is tracked.

Without a moment a prompt applies to the first frame that is tracked. Frame numbers are those of the source. Prompts of
one frame keep the order in which they were given; `Forget` comes before all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from seem_core.errors import MaskError, PromptError, VosError
from seem_core.prompts import (
    MAX_OBJECT_ID,
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
)
from trackers.base import Labels
from vos.frames import VideoInfo, VideoSource


@dataclass(frozen=True)
class Seconds:
    """A moment by its presentation time; it means the tracked frame that is on screen then."""

    seconds: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise PromptError(f"a moment is a number of seconds from 0 on, not {self.seconds}")


When: TypeAlias = int | Seconds | None  # a frame number of the source, a moment, or None: the first tracked frame


@dataclass(frozen=True)
class Forget:
    """From this moment on an object is not followed any more; a later prompt may begin it anew."""

    object_id: int

    def __post_init__(self) -> None:
        if not 1 <= self.object_id <= MAX_OBJECT_ID:
            raise PromptError(f"object id {self.object_id} is outside 1..{MAX_OBJECT_ID}")


@dataclass(frozen=True)
class Origin:
    """Where a prompt was written, and which picture a `ReferencePrompt` was read from.

    place    as messages name it: ``clips.json: objects[2].prompts[0]``
    picture  an image, or a video of which ``frame`` is shown; None where the picture has no file
    """

    place: str = ""
    picture: Path | None = None
    frame: int | None = None


@dataclass(frozen=True)
class TimedPrompt:
    """A prompt and when it applies, before the video is known. Its origin does not count in comparisons."""

    prompt: Prompt | Forget
    when: When = None
    origin: Origin = field(default=Origin(), compare=False)


@dataclass(frozen=True)
class FramePrompt:
    """A prompt and the frame of the source (from 0) that it applies to. Its origin does not count in comparisons."""

    frame: int
    prompt: Prompt | Forget
    origin: Origin = field(default=Origin(), compare=False)


AnyPrompt: TypeAlias = TimedPrompt | FramePrompt | Prompt | Forget


def frame_at(when: When, source: VideoSource, tracked: range) -> int:
    """The frame number that ``when`` means among the frames that are tracked.

    Raises PromptError when that frame is past the end, or left out by start, end or stride.
    """
    if isinstance(when, Seconds):
        times = _Times(source, tracked)
        if when.seconds < times[0] or when.seconds > times[len(tracked) - 1] + times.tail:
            part = f"{times[0]:.2f}s to {times[len(tracked) - 1]:.2f}s"
            raise PromptError(f"{when.seconds:g}s is outside the tracked part of the video, {part}")
        return tracked[bisect_right(times, when.seconds + 1e-6) - 1]
    frame = tracked[0] if when is None else when
    if not 0 <= frame < len(source):
        raise PromptError(f"frame {frame} of a prompt is past the end; the video has frames 0..{len(source) - 1}")
    if frame not in tracked:
        raise PromptError(
            f"frame {frame} of a prompt is not among the tracked frames {_words(tracked)}; change start, end or stride"
        )
    return frame


def place(
    prompts: Iterable[AnyPrompt], source: VideoSource, tracked: range, known: Collection[int] = ()
) -> tuple[FramePrompt, ...]:
    """Pair every prompt with a frame of ``tracked`` and check it against the video; ordered by frame, then as given.

    known: objects that a saved memory knows before the first frame. On one frame `Forget` comes first.

    Raises PromptError (or MaskError) with one sentence for: a place outside the image, a frame that is not tracked, an
    empty mask or one of another size, two masks for one object, an object without a positive mark, the end of an object
    that has not begun, and no prompt at all. The sentence begins with the prompt's place where that is known.
    """
    placed = []
    for item in prompts:
        timed = _timed(item)
        try:
            frame = frame_at(timed.when, source, tracked)
            placed.append(FramePrompt(frame, _checked(timed.prompt, source.info), timed.origin))
        except VosError as error:
            raise at_place(error, timed.origin.place) from error
    if not known and not placed:
        raise PromptError("nothing says what to follow; give a mask, a point or a box")
    placed.sort(key=lambda item: (item.frame, not isinstance(item.prompt, Forget)))  # stable
    _check_objects(placed, known)
    return tuple(placed)


def at_place(error: VosError, place: str) -> VosError:
    """The same error with the place in front of its sentence, unless a place in the same file stands there already."""
    file = place.rpartition(": ")[0]
    if not place or (file and str(error).startswith(f"{file}: ")):
        return error
    return type(error)(f"{place}: {error}")


def _timed(item: AnyPrompt) -> TimedPrompt:
    if isinstance(item, TimedPrompt):
        return item
    return TimedPrompt(item.prompt, item.frame, item.origin) if isinstance(item, FramePrompt) else TimedPrompt(item)


def mask_prompts(labels: Labels, when: When = None) -> tuple[TimedPrompt, ...]:
    """One mask prompt per object of an (H, W) label map, ascending ids. Raises MaskError where it holds no object."""
    ids = [int(i) for i in np.unique(labels) if i != 0]
    if not ids:
        raise MaskError("the mask is empty; mark at least one pixel of the object")
    return tuple(TimedPrompt(MaskPrompt(np.asarray(labels == i), i), when) for i in ids)


class _Times(Sequence[float]):
    """Presentation times of the tracked frames, looked up as needed (for bisection on long videos)."""

    def __init__(self, source: VideoSource, tracked: range) -> None:
        self._source, self._tracked = source, tracked
        self.tail = tracked.step / float(source.info.rate)  # how long the last tracked frame stands

    def __len__(self) -> int:
        return len(self._tracked)

    def __getitem__(self, i: int) -> float:  # type: ignore[override]
        return self._source.seconds(self._tracked[i])


def _words(tracked: range) -> str:
    step = f" in steps of {tracked.step}" if tracked.step != 1 else ""
    return f"{tracked[0]}..{tracked[-1]}{step}"


def _checked(prompt: Prompt | Forget, info: VideoInfo) -> Prompt | Forget:
    """The prompt, refused if it does not fit; a box may end at W or H, as ends of ranges do, and is clipped."""
    h, w = info.height, info.width
    if isinstance(prompt, PointPrompt):
        _check_point(prompt.x, prompt.y, "point", info)
    elif isinstance(prompt, (ScribblePrompt, PolygonPrompt)):
        for x, y in prompt.points:
            _check_point(x, y, "scribble" if isinstance(prompt, ScribblePrompt) else "polygon", info)
    elif isinstance(prompt, BoxPrompt):
        if prompt.x0 < -0.5 or prompt.y0 < -0.5 or prompt.x1 > w or prompt.y1 > h:
            box = f"{prompt.x0:g},{prompt.y0:g},{prompt.x1:g},{prompt.y1:g}"
            raise PromptError(f"box {box} reaches outside the image of {w}x{h}; give corners x0,y0,x1,y1 inside it")
        return replace(prompt, x1=min(prompt.x1, w - 0.5), y1=min(prompt.y1, h - 0.5))
    elif isinstance(prompt, MaskPrompt):
        if prompt.mask.shape != (h, w):
            mh, mw = prompt.mask.shape
            raise MaskError(
                f"the mask of object {prompt.object_id} is {mw}x{mh}, the video {w}x{h}; give one of its size"
            )
        if not prompt.mask.any():
            raise PromptError(f"the mask of object {prompt.object_id} is empty; mark at least one pixel")
    elif isinstance(prompt, ReferencePrompt) and not prompt.mask.any():
        what = f"the mask of object {prompt.object_id} on its reference picture"
        raise PromptError(f"{what} is empty; mark at least one pixel there")
    return prompt


def _check_point(x: float, y: float, what: str, info: VideoInfo) -> None:
    if not (-0.5 <= x < info.width - 0.5 + 1e-9 and -0.5 <= y < info.height - 0.5 + 1e-9):
        raise PromptError(
            f"{what} {x:g},{y:g} lies outside the image of {info.width}x{info.height}; "
            f"x goes from 0 to {info.width - 1} and y from 0 to {info.height - 1}"
        )


def _check_objects(placed: Sequence[FramePrompt], known: Collection[int]) -> None:
    """``placed`` in order of time: who begins, who is corrected, who ends."""
    shown = {(p.frame, p.prompt.object_id) for p in placed if _shows(p.prompt)}
    masks: set[tuple[int, int]] = set()
    alive = set(known)
    for item in placed:
        prompt, object_id, key = item.prompt, item.prompt.object_id, (item.frame, item.prompt.object_id)
        error = None
        if isinstance(prompt, Forget):
            if object_id not in alive:
                error = f"object {object_id} ends on frame {item.frame} without having begun; name an object before it"
            alive.discard(object_id)
        elif key in shown:
            alive.add(object_id)
        elif object_id not in alive:
            what = f"object {object_id} begins on frame {item.frame} with marks of what it is not"
            error = f"{what}; add a point on the object"
        if isinstance(prompt, MaskPrompt):
            if key in masks:
                what = f"object {object_id} has two masks on frame {item.frame}"
                error = f"{what}; give different objects different ids"
            masks.add(key)
        if error:
            raise at_place(PromptError(error), item.origin.place)


def _shows(prompt: Prompt | Forget) -> bool:
    """Whether the prompt says what the object is, not only what it is not."""
    return not isinstance(prompt, Forget) and getattr(prompt, "positive", True)
