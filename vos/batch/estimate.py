"""What a plan will take: `estimate_plan` gives frames, objects, seconds, memory and disk of every video, all `about`.

Little is decoded: masks, and one frame of a video for its size. The number of frames is what the header says (counted
in the file where it says nothing), objects are those that the prompts name. Seconds come from `vos.batch.rates`, times
what the finished videos in the same folder of results took compared with them.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

from seem_core.errors import InputError, VosError
from trackers import TRACKERS
from vos.batch.job import VideoJob
from vos.batch.plan import Plan
from vos.batch.prompted import DeclaredVideo, PromptedObjects
from vos.batch.rates import (
    CONTACT_BYTES,
    LINE_BYTES,
    MASK_BYTES,
    MEASURED_ON,
    OVERLAY_BYTES,
    OVERLAY_SECONDS,
    READ_AND_WRITE,
    TrackerRate,
    rate_of,
)
from vos.batch.urls import url_of
from vos.container import Media, decode, open_media, video_packets
from vos.device import pick_device
from vos.images import IMAGE_SUFFIXES, list_images
from vos.output import read_run
from vos.picture_limit import open_picture, set_max_pixels
from vos.pipeline import TrackOptions
from vos.run_record import RUN_FILE, RunRecord
from vos.video import shown_size
from vos.working_size import WorkingSize

FramesFrom: TypeAlias = Literal["header", "length x rate", "images", "counted"]
Heard: TypeAlias = Callable[[int, int], None]  # videos looked at, videos in all

_PACKETS = 64  # that are decoded for a first frame
_LOOKED_AT = 200  # finished videos from which the speed of this machine is taken
_LONG_ENOUGH = 10  # frames of a run whose seconds say something


@dataclass(frozen=True)
class VideoEstimate:
    """One video of a plan. What is not known is None.

    frames       that will be tracked; frames_from says how the length of the video is known
    size         (H, W), upright
    objects      that its prompts name
    seconds      until everything of it is written, with one thread
    memory       bytes resident in its worker at the most
    disk         bytes of its results
    done         its results are there already, nothing is left to do
    problem      the sentence with which it will fail, where that is known
    """

    name: str
    video: Path
    frames: int | None = None
    frames_from: FramesFrom | None = None
    size: tuple[int, int] | None = None
    objects: int | None = None
    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None
    done: bool = False
    problem: str = ""


@dataclass(frozen=True)
class PlanEstimate:
    """All videos of a plan, in its order.

    seconds      with ``workers`` of one thread at once, as far as known: no less than the longest video takes
    memory       of the ``workers`` largest videos together, in bytes
    disk         bytes of all results; disk_free: bytes there are, None where that cannot be found out
    failing      names of videos that will fail; they are in none of the sums
    unknown      names of others of which too little is known to be in all sums
    basis        where the figures come from, one sentence each
    """

    videos: tuple[VideoEstimate, ...]
    workers: int
    frames: int
    seconds: float
    memory: int
    disk: int
    disk_free: int | None
    failing: tuple[str, ...]
    unknown: tuple[str, ...]
    basis: tuple[str, ...]


def estimate_plan(plan: Plan, *, workers: int = 1, on_video: Heard | None = None) -> PlanEstimate:
    """Look at every video of a plan. Whatever is wrong with one is in its estimate; nothing is raised for it."""
    known = {problem.name: problem.message for problem in reversed(plan.problems)}
    objects = PromptedObjects()
    pace = _Pace.of(plan.videos)
    found = []
    for number, job in enumerate(plan.videos, 1):
        found.append(_estimate(job, known.get(job.name, ""), objects, pace))
        if on_video is not None:
            on_video(number, len(plan.videos))
    return _sum(found, workers, _free(plan.videos), (pace.basis, *_basis(found)))


@dataclass(frozen=True)
class Length:
    """What a video's header says. rate: frames per second, on the average."""

    frames: int
    frames_from: FramesFrom
    size: tuple[int, int]
    rate: Fraction

    def declared(self, video: Path) -> DeclaredVideo:
        """Prompts are checked against this; a reckoned number of frames is taken generously."""
        frames = self.frames + (self.frames // 10 + 10 if self.frames_from == "length x rate" else 0)
        return DeclaredVideo(video, self.size, frames, self.rate, images=self.frames_from == "images")


def look(video: Path) -> Length:
    """Frames, size and rate of a video file or a folder of images; one frame is decoded. Raises VideoError."""
    if video.is_dir() or video.suffix.lower() in IMAGE_SUFFIXES:
        images = list_images(video)
        return Length(len(images), "images", _image_size(images), Fraction(24))
    with open_media(video) as media:
        stream = media.stream
        size = _first_size(media) or (stream.codec_context.height, stream.codec_context.width)
        rate = stream.average_rate or Fraction(24)
        if stream.frames:
            return Length(stream.frames, "header", size, rate)
        if media.container.duration and stream.average_rate:
            seconds = Fraction(media.container.duration, 1_000_000)  # FFmpeg's AV_TIME_BASE
            return Length(max(1, round(seconds * rate)), "length x rate", size, rate)
    with open_media(video) as media:
        return Length(sum(1 for _ in video_packets(media)), "counted", size, rate)


def _first_size(media: Media) -> tuple[int, int] | None:
    """(H, W) of the first frame that can be decoded, upright; None where that does not come soon."""
    for packet in islice(video_packets(media), _PACKETS):
        if frames := decode(media, packet)[0]:
            return shown_size(frames[0])
    return next((shown_size(frame) for frame in decode(media, None)[0]), None)


def _image_size(images: Sequence[Path]) -> tuple[int, int]:
    for path in images:
        try:
            with open_picture(path, path.name, InputError) as image:
                return image.height, image.width
        except (InputError, OSError, ValueError, SyntaxError):
            continue
    raise InputError(f"none of the {len(images)} images in {images[0].parent} can be read")


def _estimate(job: VideoJob, problem: str, objects: PromptedObjects, pace: _Pace) -> VideoEstimate:
    if not job.overwrite and (run := _finished(job.out)) is not None:
        size = (run.video.height, run.video.width)
        return VideoEstimate(
            job.name, job.video, run.frames_done, "counted", size, len(run.ids), 0.0, 0, 0, done=True
        )  # fmt: skip
    set_max_pixels(job.options.max_pixels)
    if url_of(job.video) is not None:  # looking at it would mean to download it
        return VideoEstimate(job.name, job.video, problem=problem)
    try:
        length = look(job.video)
    except VosError as error:
        return VideoEstimate(job.name, job.video, problem=problem or str(error))
    options = job.options
    tracked = len(range(length.frames)[options.start : options.end : options.stride_at(length.rate)])
    if not length.frames:
        problem = problem or f"cannot read {job.video}: its video stream holds no frame"
    elif not tracked:
        problem = problem or f"start {options.start} is past the end; the video has {length.frames} frames"
    ids: frozenset[int] | None = None
    try:
        ids = objects.of(job, length.declared(job.video)) if tracked else None
    except VosError as error:
        problem = problem or str(error)
    seen = VideoEstimate(job.name, job.video, tracked, length.frames_from, length.size, problem=problem)
    return seen if ids is None else _with_costs(seen, job, tracked, length.size, len(ids), pace)


def _with_costs(
    seen: VideoEstimate, job: VideoJob, frames: int, size: tuple[int, int], objects: int, pace: _Pace
) -> VideoEstimate:
    megapixels = size[0] * size[1] / 1e6
    seconds = memory = None
    if (rate := rate_of(job.options.tracker, job.options.model, fast=job.options.fast)) is not None:
        if (factor := pace.factor(job.options)) is not None:
            per_frame = _per_frame(job.options, rate, size, objects)
            per_frame += OVERLAY_SECONDS.at(megapixels, objects) if "overlay" in job.save else 0.0
            seconds = factor * (rate.start + frames * per_frame)
        memory = round(rate.memory.at(megapixels, objects))
    left = MASK_BYTES.at(megapixels, objects) + LINE_BYTES.at(megapixels, objects)
    left += OVERLAY_BYTES.at(megapixels, objects) if "overlay" in job.save else 0
    disk = round(frames * left + (CONTACT_BYTES.at(megapixels, objects) if "contact" in job.save else 0))
    return VideoEstimate(
        seen.name, seen.video, frames, seen.frames_from, size, objects, seconds, memory, disk, problem=seen.problem
    )


def _per_frame(options: TrackOptions, rate: TrackerRate, size: tuple[int, int], objects: int) -> float:
    """Seconds of one frame as `vos.batch.rates` has them; both ways every frame is tracked twice."""
    working = WorkingSize.of(size, options.max_side).working
    tracking = rate.seconds.at(working[0] * working[1] / 1e6, objects)
    passes = 2 if options.direction == "both" else 1
    return passes * tracking + READ_AND_WRITE.at(size[0] * size[1] / 1e6, objects)


@dataclass(frozen=True)
class _Pace:
    """How much longer than in `vos.batch.rates` this machine takes: (tracker, device) -> factors of finished videos."""

    factors: dict[tuple[str, str], list[float]]

    @classmethod
    def of(cls, jobs: Sequence[VideoJob]) -> _Pace:
        factors: dict[tuple[str, str], list[float]] = {}
        for run in _finished_runs({job.out.parent for job in jobs if url_of(job.out) is None}):
            options = _options(run)
            rate = None if options is None else rate_of(options.tracker, options.model, fast=options.fast)
            if options is None or rate is None or run.frames_done < _LONG_ENOUGH or run.seconds <= 0:
                continue
            usual = _per_frame(options, rate, (run.video.height, run.video.width), len(run.ids))
            factors.setdefault(_kind(options), []).append(run.seconds / run.frames_done / usual)
        return cls(factors)

    def factor(self, options: TrackOptions) -> float | None:
        """None where nothing is known of this kind of device."""
        kind = _kind(options)
        if kind in self.factors:
            return median(self.factors[kind])
        return 1.0 if kind[1] == "cpu" else None

    @property
    def basis(self) -> str:
        count = sum(map(len, self.factors.values()))
        if not count:
            return f"times: measured with {MEASURED_ON}, not on this machine; finished videos will correct them"
        return f"times: as {count} finished video{'s' * (count > 1)} in the same folder took"


def _kind(options: TrackOptions) -> tuple[str, str]:
    """Runs of one kind tell the time of another: tracker and setting, and the device without its number."""
    device = _found_device() if options.device == "auto" and TRACKERS[options.tracker].computes else options.device
    return options.tracker + (" fast" if options.fast else ""), "cpu" if device == "auto" else device.partition(":")[0]


@functools.cache
def _found_device() -> str:
    return pick_device("auto")


def _options(run: RunRecord) -> TrackOptions | None:
    """As far as they matter for time; None for a run of other options than this version has."""
    known = {
        name: run.options[name]
        for name in ("tracker", "model", "device", "max_side", "direction", "fast")
        if name in run.options
    }
    try:
        return TrackOptions(**known)  # type: ignore[arg-type]
    except (InputError, TypeError):
        return None


def _finished(out: Path) -> RunRecord | None:
    try:
        run = read_run(out)
    except InputError:
        return None
    return run if run.state == "done" else None


def _finished_runs(folders: Iterable[Path]) -> Iterable[RunRecord]:
    left = _LOOKED_AT
    for folder in folders:
        try:
            places = sorted(folder.iterdir())
        except OSError:
            continue
        for place in places:
            if left and (place / RUN_FILE).is_file() and (run := _finished(place)) is not None:
                left -= 1
                yield run


def _sum(found: Sequence[VideoEstimate], workers: int, free: int | None, basis: tuple[str, ...]) -> PlanEstimate:
    failing = tuple(item.name for item in found if item.problem)
    well = [item for item in found if not item.problem]
    seconds = [item.seconds for item in well if item.seconds is not None]
    memory = sorted((item.memory for item in well if item.memory is not None), reverse=True)
    return PlanEstimate(
        tuple(found),
        workers,
        frames=sum(item.frames or 0 for item in well if not item.done),
        seconds=max([sum(seconds) / workers, *seconds]) if seconds else 0.0,
        memory=sum(memory[:workers]),
        disk=sum(item.disk or 0 for item in well),
        disk_free=free,
        failing=failing,
        unknown=tuple(item.name for item in well if None in (item.frames, item.seconds, item.memory, item.disk)),
        basis=basis,
    )


def _basis(found: Sequence[VideoEstimate]) -> list[str]:
    ways = {item.frames_from for item in found if not item.done and item.frames_from is not None}
    texts = ["memory and disk: as measured at 320x180 to 1920x1080; a detailed picture takes more disk"]
    if "header" in ways or "length x rate" in ways:
        texts.append("frames: as the headers of the files say, which may promise more than is there")
    return texts


def _free(jobs: Sequence[VideoJob]) -> int | None:
    """Bytes free where the results go."""
    place = jobs[0].out.parent.absolute() if jobs and url_of(jobs[0].out) is None else None
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None
