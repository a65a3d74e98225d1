"""When a prompt applies: prompts paired with frames, and what must hold before the first frame is tracked.

Without a moment a prompt applies to the first frame that is tracked. Frame numbers are those of the source. Prompts of
one frame keep the order in which they were given.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, Prompt, ScribblePrompt
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
class TimedPrompt:
    """A prompt and when it applies, before the video is known."""

    prompt: Prompt
    when: When = None


@dataclass(frozen=True)
class FramePrompt:
    """A prompt and the frame of the source (from 0) that it applies to."""

    frame: int
    prompt: Prompt


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
    prompts: Iterable[TimedPrompt | FramePrompt | Prompt], source: VideoSource, tracked: range
) -> tuple[FramePrompt, ...]:
    """Pair every prompt with a frame of ``tracked`` and check it against the video; ordered by frame, then as given.

    Raises PromptError (or MaskError) with one sentence for: a place outside the image, a frame that is not tracked or
    cannot be decoded, an empty mask or one of another size, two masks for one object, an object without a positive
    mark, and no prompt at all.
    """
    placed = []
    for item in prompts:
        if isinstance(item, FramePrompt):
            item = TimedPrompt(item.prompt, item.frame)
        timed = item if isinstance(item, TimedPrompt) else TimedPrompt(item)
        placed.append(FramePrompt(frame_at(timed.when, source, tracked), _checked(timed.prompt, source.info)))
    if not placed:
        raise PromptError("nothing says what to follow; give a mask, a point or a box")
    placed.sort(key=lambda item: item.frame)  # stable
    _check_objects(placed)
    return tuple(placed)


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


def _checked(prompt: Prompt, info: VideoInfo) -> Prompt:
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
    return prompt


def _check_point(x: float, y: float, what: str, info: VideoInfo) -> None:
    if not (-0.5 <= x < info.width - 0.5 + 1e-9 and -0.5 <= y < info.height - 0.5 + 1e-9):
        raise PromptError(
            f"{what} {x:g},{y:g} lies outside the image of {info.width}x{info.height}; "
            f"x goes from 0 to {info.width - 1} and y from 0 to {info.height - 1}"
        )


def _check_objects(placed: Sequence[FramePrompt]) -> None:
    masks: set[tuple[int, int]] = set()
    begun: dict[int, int] = {}  # object -> first frame with a positive mark
    for item in placed:
        prompt, key = item.prompt, (item.frame, item.prompt.object_id)
        if isinstance(prompt, MaskPrompt):
            if key in masks:
                what = f"object {prompt.object_id} has two masks on frame {item.frame}"
                raise PromptError(f"{what}; give different objects different ids")
            masks.add(key)
        if getattr(prompt, "positive", True):
            begun.setdefault(prompt.object_id, item.frame)
    for item in placed:
        object_id = item.prompt.object_id
        if begun.get(object_id, math.inf) > item.frame:
            what = f"object {object_id} begins on frame {item.frame} with marks of what it is not"
            raise PromptError(f"{what}; add a point on the object")
