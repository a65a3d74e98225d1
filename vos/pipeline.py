"""A video and prompts in, masks out, frame by frame: `track`.

    reader thread -> bounded queue -> this thread (tracker, memory) -> the caller

Everything that can be checked is checked before the first frame is decoded; a fault in the reader is raised here. One
frame is held at a time (and a few in the queue), so memory does not grow with the length of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seem_core.errors import InputError, PromptError, VideoError
from seem_core.prompts import Prompt, ReferencePrompt, TextPrompt
from trackers import DecoderUse
from trackers.base import Tracker
from vos.device import pick_device, tune_process
from vos.directions import DirectedResults, Direction, check_direction
from vos.frames import Frame, FrameResult, VideoSource
from vos.masks import MaskFormat
from vos.picture_limit import set_max_pixels
from vos.prefetch import prefetch
from vos.prompt_gathering import AnyMask, GivenPrompt, gather
from vos.prompt_sources import MaskFile
from vos.prompt_writing import write_document
from vos.prompts import Forget, FramePrompt, at_place
from vos.run_record import Json
from vos.saved_memory import check_memory, keep_memory, known_objects
from vos.working_size import WorkingSize

ReaderName: TypeAlias = Literal["pyav", "decord"]

FRAMES_AHEAD = 4  # decoded frames that wait for the tracker
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackOptions:
    """How to track; the same names as the options of ``vos track``.

    tracker      one of `trackers.TRACKERS`: lite, propagate, fused, reference, prompt-memory, flow, copy
    model        a SEEM model, by its name or file, for trackers that need or can use one
    decoder      whether fused uses the model's decoder: auto (where it is trained), on, off
    published    reference as SEEM's demo published it: about 5 frames per second, encoded with a short side of 512
    device       auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps
    start, end   frames of the source, like a slice: ``end`` is the first one left out
    stride       track every stride-th frame
    max_side     longer side of the image that is worked on (pixels); masks come back at source size
    reader       pyav or decord
    threads      CPU threads of torch and OpenCV, for the whole process; None leaves them
    mask_format  how mask files are read, see `vos.masks.read_prompt_mask`
    direction    forward; backward, from the last prompt to the first frame; both, and the two are merged
    memory       file of what was remembered of objects in another video, which are then known from the first frame on
    save_memory  file that the memory is written to after the last frame
    fast         the tracker's fast setting: less exact, see `trackers.fast`
    max_pixels   of any picture, mask or frame (width x height), for the whole process; None leaves the limit as it is
    """

    tracker: str = "lite"
    device: str = "auto"
    start: int = 0
    end: int | None = None
    stride: int = 1
    max_side: int | None = None
    reader: ReaderName = "pyav"
    threads: int | None = None
    mask_format: MaskFormat = "auto"
    direction: Direction = "forward"
    memory: str | None = None
    save_memory: str | None = None
    model: str | None = None
    decoder: DecoderUse = "auto"
    published: bool = False
    fast: bool = False
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise InputError(
                f"start {self.start} with end {self.end} leaves no frame; give a start from 0 on and an end after it"
            )
        if self.stride < 1:
            raise InputError(f"stride {self.stride} is not possible; 1 tracks every frame, 2 every second one")
        if self.max_side is not None and self.max_side < 32:
            raise InputError(f"max_side {self.max_side} is too small to see anything; give at least 32 pixels")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads cannot compute; give at least 1")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise InputError(f"max_pixels {self.max_pixels} allows no picture; give at least 1")
        if self.published and self.tracker != "reference":
            raise InputError(f"published is a way of tracker reference, not of {self.tracker}; leave out one of them")
        if self.published and self.stride != 1:
            raise InputError(f"published takes 5 frames per second, stride {self.stride} others; leave out one of them")

    def stride_at(self, rate: Fraction) -> int:
        """Every how-many-th frame is tracked of a video with ``rate`` frames per second."""
        if not self.published:
            return self.stride
        from trackers.reference import PUBLISHED_RATE

        return max(1, round(float(rate) / PUBLISHED_RATE))


@dataclass(frozen=True)
class Job:
    """What is to be done, checked against the video: nothing but decoding and tracking is left.

    tracked   frame numbers of the source, in order
    prompts   frame number -> prompts in pixels of the source; `stream` takes each out when its frame has come, because
              masks are large
    forgets   frame number -> ids of objects that end there, before its prompts
    ids       every object that a prompt names, ascending
    warnings  one sentence for each thing that was assumed
    names     object id -> name, of objects that have one
    inputs    every file that prompts were read from, with its role
    document  all prompts in the format of prompt files, if that was asked for
    """

    source: VideoSource
    tracked: range
    prompts: dict[int, tuple[Prompt, ...]]
    ids: tuple[int, ...]
    size: WorkingSize
    warnings: tuple[str, ...] = ()
    forgets: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    inputs: tuple[tuple[str, Path], ...] = ()
    document: Mapping[str, Json] | None = None


def track(
    video: str | Path | VideoSource,
    prompts: Iterable[GivenPrompt] | GivenPrompt = (),
    *,
    mask: AnyMask | Sequence[str | Path | MaskFile] | None = None,
    tracker: str | Tracker = "lite",
    device: str = "auto",
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
    max_side: int | None = None,
    reader: ReaderName = "pyav",
    threads: int | None = None,
    mask_format: MaskFormat = "auto",
    direction: Direction = "forward",
    memory: str | Path | None = None,
    save_memory: str | Path | None = None,
    model: str | Path | None = None,
    decoder: DecoderUse = "auto",
    published: bool = False,
    fast: bool = False,
    max_pixels: int | None = None,
) -> Iterator[FrameResult]:
    """Follow objects through a video and yield each frame with its masks, in ascending order, as soon as it is done.

    video    a video file, a folder of images, or an open `VideoSource` (which stays open)
    prompts  `PointPrompt`, `BoxPrompt`, ... for the first tracked frame, or with a frame: `FramePrompt(40, prompt)`;
             ``FramePrompt(90, Forget(2))`` ends object 2 there. Also files of prompts, by their paths (docs/prompts.md)
    mask     a mask file (``PATH``, or several), or an (H, W) label map for the first tracked frame

    The other arguments are described in `TrackOptions`; ``tracker`` may also be a fresh `Tracker` object. Frame numbers
    are those of the source. A frame that cannot be decoded is left out (`VideoSource.gaps`); frames before the first
    prompt come with no objects. Masks are (H, W) at source size. In the directions backward and both, the first result
    comes when the passes are done; until then they lie in a temporary folder on disk (`vos.directions`).

    Raises at once: VideoError, MaskError, PromptError, InputError, CheckpointError, DeviceError, MissingExtraError.
    While frames are read: VideoError when the file cannot be read on.
    """
    name = tracker if isinstance(tracker, str) else tracker.name
    options = TrackOptions(
        name, device, start, end, stride, max_side, reader, threads, mask_format, direction,
        _text(memory), _text(save_memory), _text(model), decoder, published, fast, max_pixels,
    )  # fmt: skip
    if not isinstance(tracker, str) and (memory is not None or model is not None):
        raise InputError("a tracker that is there already has a memory and a model of its own; build it with these")
    source = open_source(video, options)
    try:
        job = prepare(source, prompts, mask, options)
        follower = make_tracker(settle(options)) if isinstance(tracker, str) else tracker
        check_kinds(job, follower)
        return _with_warnings(job, notes_of(follower), _results(job, follower, options, close=source is not video))
    except BaseException:
        if source is not video:
            source.close()
        raise


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def open_source(video: str | Path | VideoSource, options: TrackOptions) -> VideoSource:
    """The video itself if it is open already, else opened with the reader that was asked for. Raises VideoError.

    The limit of pictures is set here, before anything is read.
    """
    set_max_pixels(options.max_pixels)
    if not isinstance(video, (str, Path)):
        return video
    from vos.video import open_video

    return open_video(video, reader=options.reader)


def prepare(
    source: VideoSource,
    prompts: Iterable[GivenPrompt] | GivenPrompt,
    mask: AnyMask | Sequence[str | Path | MaskFile] | None,
    options: TrackOptions,
    *,
    document: bool = False,
) -> Job:
    """Check everything against the video. Raises PromptError, MaskError, VideoError, InputError, each one sentence.

    document: also write all prompts down, see `Job`.
    """
    frames = len(source)
    tracked = range(frames)[options.start : options.end : options.stride_at(source.info.rate)]
    if not tracked:
        raise InputError(f"start {options.start} is past the end; the video has frames 0..{frames - 1}")
    known = known_objects(options.memory)
    found = gather(prompts, mask, source, tracked, mask_format=options.mask_format, known=known)
    by_frame: dict[int, tuple[Prompt, ...]] = {}
    forgets: dict[int, tuple[int, ...]] = {}
    for item in found.placed:
        if isinstance(item.prompt, Forget):
            forgets[item.frame] = (*forgets.get(item.frame, ()), item.prompt.object_id)
        else:
            by_frame[item.frame] = (*by_frame.get(item.frame, ()), item.prompt)
    _check_decodable(source, found.placed)
    ids = tuple(sorted({*known, *(item.prompt.object_id for item in found.placed)}))
    size = WorkingSize.of((source.info.height, source.info.width), options.max_side)
    written = write_document(found.placed, names=found.names, video=source.info.path) if document else None
    inputs = found.inputs if options.memory is None else (*found.inputs, ("memory", Path(options.memory)))
    job = Job(source, tracked, by_frame, ids, size, found.warnings, forgets, found.names, inputs, written)
    check_direction(job, options.direction)
    return job


def settle(options: TrackOptions) -> TrackOptions:
    """The same options with the device that is really used.

    Raises DeviceError, InputError (no such tracker, or one without a memory to load or save), OutputError.
    """
    from trackers import TRACKERS

    if options.tracker not in TRACKERS:
        raise InputError(f"there is no tracker {options.tracker!r}; use one of {', '.join(TRACKERS)}")
    check_memory(options.tracker, options.direction, options.memory, options.save_memory)
    if not TRACKERS[options.tracker].computes and options.device in ("auto", "cpu"):  # leave torch unloaded
        return replace(options, device="cpu")
    return replace(options, device=pick_device(options.device))


def make_tracker(options: TrackOptions) -> Tracker:
    """A fresh tracker for settled options; sets the number of threads. Raises InputError, CheckpointError."""
    from trackers import build_tracker

    more: dict[str, Any] = {} if options.memory is None else {"memory": options.memory}
    if options.published:
        more["published"] = True
    tracker = build_tracker(
        options.tracker, device=options.device, model=options.model, decoder=options.decoder, fast=options.fast, **more
    )
    tune_process(options.threads)
    return tracker


def notes_of(tracker: Tracker) -> tuple[str, ...]:
    """What was decided when a tracker was built, a sentence each."""
    return tuple(getattr(tracker, "notes", ()))


def check_kinds(job: Job, tracker: Tracker) -> None:
    """Refuse prompts of a kind that the tracker cannot use, before the first frame. Raises PromptError."""
    able: frozenset[type[Prompt]] | None = getattr(tracker, "prompt_kinds", None)
    for prompt in (prompt for prompts in job.prompts.values() for prompt in prompts):
        if able is None or type(prompt) in able:
            continue
        if isinstance(prompt, TextPrompt):
            why = "which needs a model with a text encoder; give --model, or mark the object"
            raise PromptError(f"object {prompt.object_id} is given in words, {why}")
        how = "shown on another picture" if isinstance(prompt, ReferencePrompt) else f"given by {type(prompt).__name__}"
        what = f"object {prompt.object_id} is {how}, which tracker {tracker.name} cannot use"
        raise PromptError(f"{what}; mark it on a frame, or use tracker lite")


def stream(
    job: Job, tracker: Tracker, *, close: bool = False, rest: Iterator[Frame] | None = None, last: int | None = None
) -> Generator[FrameResult, None, None]:
    """Decode ahead on a thread, step the tracker here, yield results; ``close`` closes the source at the end.

    rest, last   to go on in the middle: the frames that are left, and the one that the tracker has seen last

    Raises VideoError where not a single frame can be decoded; any fault of the reader is raised here.
    """
    tracked, any_frame = job.tracked, last is not None
    forgets = sorted(((f, ids) for f, ids in job.forgets.items() if last is None or f > last), reverse=True)
    for frame_seen in [f for f in job.prompts if last is not None and f <= last]:
        del job.prompts[frame_seen]
    rest = job.source.frames(tracked.start, tracked.stop, tracked.step) if rest is None else rest
    try:
        with prefetch(rest, FRAMES_AHEAD) as frames:
            for frame in frames:
                any_frame = True
                while forgets and forgets[-1][0] <= frame.index:  # also where that frame cannot be decoded
                    for object_id in forgets.pop()[1]:
                        tracker.forget(object_id)
                now = [job.size.prompt(prompt) for prompt in job.prompts.pop(frame.index, ())]
                masks = tracker.step(job.size.image(frame.image), now)
                yield FrameResult(frame, job.size.back(masks))
        if not any_frame:
            raise VideoError(f"none of the frames {tracked[0]}..{tracked[-1]} of {job.source.info.path} can be decoded")
    finally:
        if close:
            job.source.close()


def _results(job: Job, tracker: Tracker, options: TrackOptions, *, close: bool) -> Iterator[FrameResult]:
    if options.direction == "forward":
        yield from stream(job, tracker, close=close)
        keep_memory(tracker, options.save_memory)
        return
    try:
        yield from DirectedResults(job, tracker, options.direction)
        keep_memory(tracker, options.save_memory)
    finally:
        if close:
            job.source.close()


def _with_warnings(job: Job, notes: Iterable[str], results: Iterator[FrameResult]) -> Iterator[FrameResult]:
    """The results, with warnings to the log: about prompts and tracker before the first, about the video after all."""
    for warning in (*job.warnings, *notes):
        logger.warning(warning)
    yield from results
    for warning in job.source.warnings:
        logger.warning(warning)


def _check_decodable(source: VideoSource, placed: Iterable[FramePrompt]) -> None:
    """Frames with prompts are looked at before the first one is tracked."""
    origins = {item.frame: item.origin for item in placed if not isinstance(item.prompt, Forget)}
    for frame, origin in origins.items():
        try:
            source[frame]
        except (VideoError, IndexError) as error:
            what = f"frame {frame} of a prompt cannot be decoded; put the prompt on another frame"
            raise at_place(PromptError(what), origin.place) from error
