"""Pictures made from masks on disk and the source video: `render` makes overlay.mp4 and contact.png.

    OUT/masks + frames.jsonl -+
                              +-> draw -> VideoWriter -> add_audio -> OUT/overlay.mp4
    the source video ---------+-> 20 small ones       -> make_sheet -> OUT/contact.png

It only reads what tracking left, so it can be done again: after masks were corrected, or with other settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from seem_core.errors import InputError, MaskError
from trackers.base import Labels
from vos.audio import add_audio
from vos.contact_sheet import cell_width, columns_for, evenly, make_cell, make_sheet
from vos.drawing import draw_objects
from vos.frames import Frame, VideoSource
from vos.label_files import read_labels, write_whole
from vos.output import add_rendered
from vos.prefetch import prefetch
from vos.run_record import FrameRecord, RunRecord, read_frames, read_run
from vos.video import open_video
from vos.video_writer import VideoWriter
from vos.writing import writing

__all__ = ["CONTACT", "OVERLAY", "Rendered", "render"]

What = Literal["overlay", "contact"]
OVERLAY, CONTACT = "overlay.mp4", "contact.png"
_FRAMES_AHEAD = 4

Progress = Callable[[int, int], None]
"""Called after each frame with (frames done, frames in all)."""


@dataclass(frozen=True)
class Rendered:
    """Paths that were made, and one sentence for each thing that could not be done fully."""

    made: tuple[Path, ...]
    warnings: tuple[str, ...]


def render(
    out: str | PathLike[str],
    *,
    what: Collection[str] = ("overlay", "contact"),
    alpha: float = 0.5,
    video: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Rendered:
    """Make ``overlay.mp4`` and ``contact.png`` in the results folder ``out`` from its masks.

    what      of "overlay" and "contact"
    alpha     how much of the colour covers an object, 0 (contour alone) to 1
    video     where the source is now, if it was moved since

    The overlay shows the frames that have masks, at the source's times (from the first of them on), with the source's
    sound. Each file appears under its name only when whole. Raises InputError for a folder without masks or another
    video, VideoError and MaskError where one cannot be read, DiskFullError and OutputError where the result cannot be
    written.
    """
    _check(what, alpha)
    folder = Path(out)
    run = read_run(folder)
    numbers = np.fromiter((record.frame for record in read_frames(folder)), np.int64)
    if not len(numbers):
        raise InputError(f"{folder} holds no finished frame; there is nothing to draw")
    made: list[Path] = []
    warnings: tuple[str, ...] = ()

    def done(name: str) -> None:
        add_rendered(folder, name)  # after each file: a later run that replaces this one must know of it
        made.append(folder / name)

    with closing(_open_source(run, None if video is None else Path(video))) as source:
        if "overlay" in what:
            warnings = _make_overlay(folder, run, source, numbers, alpha, progress)
            done(OVERLAY)
        if "contact" in what:
            _make_contact(folder, run, source, len(numbers), alpha)
            done(CONTACT)
    return Rendered(tuple(made), warnings)


def _check(what: Collection[str], alpha: float) -> None:
    unknown = set(what) - {"overlay", "contact"}
    if unknown:
        raise InputError(f"{', '.join(sorted(unknown))} cannot be rendered; choose from overlay and contact")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha:g} is outside 0..1")


def _open_source(run: RunRecord, moved: Path | None) -> VideoSource:
    path = moved or run.video.path
    if moved is None and not os.path.exists(path):
        raise InputError(f"the source video {path} is not there any more; say with --video where it is now")
    is_folder = run.video.codec == "images"
    source = open_video(path, rate=run.video.rate if is_folder else None)
    found, known = source.info, run.video
    if (found.height, found.width, found.frames) != (known.height, known.width, known.frames):
        source.close()
        raise InputError(
            f"{path} is not the video that was tracked: it has {found.frames} frames of {found.width}x{found.height}, "
            f"that had {known.frames} of {known.width}x{known.height}"
        )
    return source


def _make_overlay(
    folder: Path,
    run: RunRecord,
    source: VideoSource,
    numbers: npt.NDArray[np.int64],
    alpha: float,
    progress: Progress | None,
) -> tuple[str, ...]:
    first, last, step = int(numbers[0]), int(numbers[-1]), run.tracked[2]
    start = source.seconds(first)
    end = source.seconds(last + 1) if last + 1 < len(source) else float("inf")
    with _part(folder / OVERLAY, "pictures") as silent, _part(folder / OVERLAY, "sound") as sounding:
        with (
            VideoWriter(silent, run.video.height, run.video.width, run.video.rate / step) as writer,
            closing(prefetch(source.frames(first, last + 1, step), _FRAMES_AHEAD)) as frames,
        ):
            for done, (frame, record) in enumerate(_pairs(frames, read_frames(folder)), start=1):
                draw_objects(frame.image, _labels(folder, record, frame.image.shape), alpha=alpha)
                writer.write(frame.image, frame.seconds - start)
                if progress is not None:
                    progress(done, len(numbers))
        warning = None
        if run.video.has_audio:
            warning = add_audio(silent, source.info.path, sounding, start=start, end=end)
        with writing(folder / OVERLAY):
            os.replace(silent if warning or not run.video.has_audio else sounding, folder / OVERLAY)
    return (*writer.warnings, *([warning] if warning else []))


def _make_contact(folder: Path, run: RunRecord, source: VideoSource, count: int, alpha: float) -> None:
    chosen = set(evenly(count))
    height, width = run.video.height, run.video.width
    across = cell_width(len(chosen), height, width)
    cells = [
        make_cell(source[record.frame].image, _labels(folder, record, (height, width)), record, across, alpha)
        for i, record in enumerate(read_frames(folder))
        if i in chosen
    ]
    sheet = make_sheet(cells, _title(run, count), columns_for(len(cells), height, width))
    buffer = BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", compress_level=6)
    write_whole(folder / CONTACT, buffer.getvalue())


def _pairs(frames: Iterator[Frame], records: Iterator[FrameRecord]) -> Iterator[tuple[Frame, FrameRecord]]:
    """Frames and records of the same number; both ascend, either may lack some."""
    record = next(records, None)
    for frame in frames:
        while record is not None and record.frame < frame.index:
            record = next(records, None)
        if record is None:
            return
        if record.frame == frame.index:
            yield frame, record


def _labels(folder: Path, record: FrameRecord, shape: tuple[int, ...]) -> Labels:
    labels = read_labels(folder / record.mask)
    if labels.shape != shape[:2]:
        raise MaskError(
            f"mask {folder / record.mask} is {labels.shape[1]}x{labels.shape[0]}, the video {shape[1]}x{shape[0]}"
        )
    return labels


@contextmanager
def _part(path: Path, role: str) -> Iterator[Path]:
    """A temporary name beside ``path``, removed at the end if it is still there."""
    part = path.with_name(f".{path.name}.{role}-{os.getpid()}.part")
    with writing(part):
        part.unlink(missing_ok=True)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _title(run: RunRecord, count: int) -> str:
    video = run.video
    tracker = run.options.get("tracker")
    rate = float(Fraction(video.rate))
    parts = [
        video.path.name,
        f"{video.width}x{video.height}, {video.frames} frames, {rate:.4g} per second",
        f"{count} masks",
        *([f"tracker {tracker}"] if tracker else []),
        *(["interrupted"] if run.state != "done" else []),
    ]
    return "   |   ".join(parts)
