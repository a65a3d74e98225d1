"""What an earlier run left in a results folder: which of it is sound, and how the rest is removed."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from seem_core.errors import InputError, VosError
from vos.folder_lock import lock_folder, unlock_folder
from vos.images import list_images
from vos.run_record import FRAMES_FILE, MASKS_FOLDER, RUN_FILE, FrameRecord, RunRecord, read_frames, read_run
from vos.writing import writing

RENDERED = ("overlay.mp4", "contact.png")
STATES_FOLDER = ".state"

_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

log = logging.getLogger(__name__)


def written_by_run(folder: Path) -> Iterator[Path]:
    """Files of an earlier run, its run.json last: one that is killed while removing is still known as a run."""
    if not (folder / RUN_FILE).exists():
        return
    listed = set()
    try:
        for record in _records(folder):
            listed.add(record.mask)
            if _is_mask(record.mask):
                yield folder / record.mask
        run = read_run(folder)
        if run.state == "running":  # it was killed
            yield from unlisted_masks(folder, run, listed)
        yield from (folder / name for name in run.rendered if name in RENDERED)
    except InputError as error:
        log.warning("not every file of the earlier run is known: %s", error)
    yield from _parts(folder)
    yield folder / FRAMES_FILE
    yield folder / RUN_FILE


def unlisted_masks(folder: Path, run: RunRecord, listed: Collection[str]) -> Iterator[Path]:
    """Masks of the run's frames whose lines are not there: the process was killed between the two."""
    names = {path.name for path in (folder / MASKS_FOLDER).glob("*.png")}
    for name in sorted(names & set(_possible_names(run))):
        if f"{MASKS_FOLDER}/{name}" not in listed:
            yield folder / MASKS_FOLDER / name


def sound_frames(folder: Path) -> list[FrameRecord]:
    """The frames up to the first one whose mask is not there as a whole (after a power cut, say).

    Raises InputError where frames.jsonl is damaged.
    """
    return list(takewhile(lambda record: _is_whole(folder / record.mask), _records(folder)))


def cut_off(folder: Path, run: RunRecord, kept: int) -> None:
    """Remove what a run wrote after its first ``kept`` frames, the last one first: a line has its mask all the while.

    Raises OutputError; InputError where frames.jsonl is damaged.
    """
    records = list(read_frames(folder))
    path = folder / FRAMES_FILE
    with writing(path), path.open("r+b") as stream:
        ends = [0]
        for _ in records:
            ends.append(ends[-1] + len(stream.readline()))
        stream.truncate(ends[-1])  # a line that was cut off
        for number in range(len(records) - 1, kept - 1, -1):
            stream.truncate(ends[number])
            if _is_mask(records[number].mask):
                (folder / records[number].mask).unlink(missing_ok=True)
        for left in (*unlisted_masks(folder, run, {record.mask for record in records[:kept]}), *_parts(folder)):
            left.unlink(missing_ok=True)


def remove_states(folder: Path) -> None:
    """Remove the saved states of a run and the folder that held them."""
    states = folder / STATES_FOLDER
    with writing(states):
        if states.is_symlink():  # what it points to is somebody else's
            states.unlink()
        for path in (*states.glob("*.safetensors"), *states.glob(".*.part")):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or somebody keeps something else in it
        states.rmdir()


def tidy_finished(folder: Path) -> None:
    """Remove what a process that was killed just after its run was done could not: saved states, and its lock.

    Nothing happens where another run has locked the folder, or nobody may write there.
    """
    with suppress(VosError):
        lock = lock_folder(folder)
        try:
            remove_states(folder)
        finally:
            unlock_folder(folder, lock)


def _records(folder: Path) -> Iterator[FrameRecord]:
    """The frames that have lines; none where the process was killed before it made the file for them."""
    if (folder / FRAMES_FILE).exists():
        yield from read_frames(folder)


def _parts(folder: Path) -> Iterator[Path]:
    yield from sorted((folder / MASKS_FOLDER).glob(".*.png.*-*.part"))
    yield from sorted(folder.glob(".run.json.*-*.part"))


def _is_mask(name: str) -> bool:
    return Path(name).parts[:-1] == (MASKS_FOLDER,)


def _possible_names(run: RunRecord) -> Iterator[str]:
    """File names of the masks that the run may have written."""
    tracked = range(*run.tracked)
    if run.video.codec != "images":
        yield from (f"{frame:0{run.mask_digits}d}.png" for frame in tracked)
        return
    try:
        images = list_images(run.video.path)
    except VosError as error:
        log.debug("the images of the earlier run are not there: %s", error)
        return
    yield from (f"{images[frame].stem}.png" for frame in tracked if frame < len(images))


def _is_whole(mask: Path) -> bool:
    """Whether a PNG begins and ends as one."""
    try:
        with mask.open("rb") as stream:
            begin = stream.read(len(_PNG_BEGIN))
            stream.seek(-len(_PNG_END), os.SEEK_END)
            return begin == _PNG_BEGIN and stream.read() == _PNG_END
    except OSError:
        return False
