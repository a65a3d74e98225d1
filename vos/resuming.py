"""Going on with an unfinished run: `open_results` says from where, `frames_after` gives the frames that are left.

A run goes on only where it ends with the very masks that it would have had without the interruption: with the same
inputs and options, on the same device, by the same versions of everything that decides about masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from seem_core.errors import InputError, OutputError, VideoError
from vos.checkpoints import Checkpoint, find_checkpoints, picture_of
from vos.earlier_run import STATES_FOLDER, sound_frames
from vos.frames import Frame, VideoSource
from vos.images import ImageSequence
from vos.output import ResultFolder
from vos.run_record import RUN_FILE, FrameRecord, Json, RunRecord, read_run
from vos.video import PyavVideo

log = logging.getLogger(__name__)

LAYOUT = 1  # of saved states; rises when older ones cannot be used

_ANY_VALUE = ("device", "threads", "save_memory", "max_pixels")  # options that do not say what is asked for
_FILES = ("model", "memory")  # options that name a file, which is known by its content

Plain = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """An open results folder, and what of an earlier run stays in it.

    kept        frames whose masks stay
    checkpoint  the run after the last of them; None where it begins with the first frame
    finished    the earlier run where it is done, and nothing is left to track
    notes       one sentence for each reason to begin anew
    """

    folder: ResultFolder
    kept: tuple[FrameRecord, ...] = ()
    checkpoint: Checkpoint | None = None
    finished: RunRecord | None = None
    notes: tuple[str, ...] = ()


class _BeginAnewError(Exception):
    """The earlier run is of no use; its text says why, where that is worth saying."""


def open_results(out: str | PathLike[str], run: RunRecord, *, resume: bool, overwrite: bool) -> Opened:
    """The folder for a run, ready for its first frame or, with ``resume``, for going on after the last saved one.

    A run that cannot be gone on with is replaced, with a note. Raises OutputError where the folder holds a run with
    other inputs or options (unless ``overwrite``), is in use, or cannot be written; DiskFullError without room.
    """
    notes: tuple[str, ...] = ()
    if resume and (Path(out) / RUN_FILE).exists():
        folder = ResultFolder.reopen(out)
        try:
            return _go_on(folder, run, overwrite)
        except _BeginAnewError as reason:
            folder.close()
            notes = (str(reason),) if str(reason) else ()
        except BaseException:
            folder.close()
            raise
    folder = ResultFolder.create(out, overwrite=overwrite)
    try:
        folder.begin(run)
    except BaseException:
        folder.close()
        raise
    return Opened(folder, notes=notes)


def made_from(run: RunRecord) -> str:
    """A short text that stands for everything that a run's masks depend on."""
    whole = {"layout": LAYOUT, **_asked(run), **_circumstances(run)}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def frames_after(source: VideoSource, tracked: range, last: Checkpoint) -> Iterator[Frame]:
    """The frames that are left of ``tracked``, as decoding from its first one would give them.

    Where nothing was wrong with the video so far, decoding begins at the key frame before the last frame, which must
    come out with the same pixels. Else the video is decoded from its start again, which takes as long as it does, but
    finds every gap and gives damaged pictures as before. Raises VideoError where that frame has become another one.
    """
    if last.intact and isinstance(source, (PyavVideo, ImageSequence)):
        rest = tracked[tracked.index(last.frame) :]
        with closing(_generator(source.frames(rest.start, rest.stop, rest.step))) as frames:
            if _is_same(next(frames, None), last):
                yield from frames
                return
    log.info("%s is decoded from its start again", source.info.path)
    for frame in source.frames(tracked.start, tracked.stop, tracked.step):
        if frame.index == last.frame and not _is_same(frame, last):
            raise VideoError(
                f"frame {frame.index} of {source.info.path} is not decoded as it was before the interruption; track the"
                " video again without resuming"
            )
        if frame.index > last.frame:
            yield frame


def _go_on(folder: ResultFolder, run: RunRecord, overwrite: bool) -> Opened:
    """Raises _BeginAnewError where the earlier run is of no use, OutputError where it is another one."""
    try:
        earlier = read_run(folder.path)
    except InputError as error:
        raise _BeginAnewError from error  # beginning anew refuses or replaces it
    if other := _differences(earlier, run):
        if overwrite:
            raise _BeginAnewError
        raise OutputError(f"{folder.path} holds a run with other {other}; choose another folder or say --overwrite")
    if earlier.state == "done":
        if overwrite or earlier.options.get("save_memory") != run.options.get("save_memory"):
            raise _BeginAnewError
        return Opened(folder, tuple(sound_frames(folder.path)), finished=earlier)
    if run.options.get("direction") != "forward":
        way = run.options.get("direction")
        raise _BeginAnewError(f"a run in direction {way} cannot be gone on with in its middle; it was begun again")
    if changed := [name for name, value in _circumstances(run).items() if value != _circumstances(earlier)[name]]:
        raise _BeginAnewError(f"the unfinished run had other {' and '.join(changed)}; it was begun again")
    try:
        kept = sound_frames(folder.path)
    except InputError as error:
        raise _BeginAnewError(f"{error}; the run was begun again") from error
    place = {record.frame: number for number, record in enumerate(kept)}
    last = kept[-1].frame if kept else -1
    for checkpoint in find_checkpoints(folder.path / STATES_FOLDER, made_from(run), last):
        if checkpoint.frame in place:
            number = place[checkpoint.frame] + 1
            folder.go_on(run, number, seconds=checkpoint.seconds)
            return Opened(folder, tuple(kept[:number]), checkpoint)
    raise _BeginAnewError


def _generator(frames: Iterator[Frame]) -> Generator[Frame, None, None]:
    yield from frames


def _is_same(frame: Frame | None, last: Checkpoint) -> bool:
    return frame is not None and frame.index == last.frame and picture_of(frame) == last.picture


def _differences(earlier: RunRecord, run: RunRecord) -> str:
    """What of a run is asked for otherwise than in the earlier one, in words; empty where nothing is."""
    before, now = _asked(earlier), _asked(run)
    names = [name for name in now if before[name] != now[name] and name != "options"]
    names += [n for n in now["options"] if before["options"].get(n) != now["options"][n]]
    if "video" in names:  # all else may follow from it
        return "video"
    return ", ".join(names)


def _asked(run: RunRecord) -> Plain:
    """What the user asked for, without where it lay."""
    plain: Plain = json.loads(run.text())
    options: Plain = {name: value for name, value in plain["options"].items() if name not in _ANY_VALUE}
    options |= {name: options.get(name) is not None for name in _FILES}
    prompts = _without_places(options.pop("prompts", None))
    video = {name: value for name, value in plain["video"].items() if name != "path"}
    files = sorted((item["role"], item["sha256"], item["bytes"]) for item in plain["inputs"])
    return {
        "video": [video, [file for file in files if file[0] == "video"]],
        "prompts": prompts,
        "input files": [file for file in files if file[0] != "video"],
        "objects": plain["ids"],
        "frames": plain["tracked"],
        "options": options,
    }


def _circumstances(run: RunRecord) -> Plain:
    """What else decides about the masks."""
    return {"versions": dict(run.versions), "device": run.options.get("device")}


def _without_places(prompts: Json) -> Json:
    """A document of prompts without the paths of the video and of pictures; their contents are among the inputs."""
    return _mapped(prompts, lambda name, value: name in ("video", "image") and isinstance(value, str))


def _mapped(value: Json, left_out: Callable[[str, Json], bool]) -> Json:
    if isinstance(value, dict):
        return {name: _mapped(item, left_out) for name, item in value.items() if not left_out(name, item)}
    if isinstance(value, list):
        return [_mapped(item, left_out) for item in value]
    return value
