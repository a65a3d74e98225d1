"""The results folder while it is written: `ResultFolder` puts masks, frames.jsonl and run.json where they belong.

    OUT/masks/00000.png   label map of one source frame        whole before its name appears
    OUT/frames.jsonl      one line per frame, after its mask   appended; a line that is there has its mask
    OUT/run.json          state, inputs, options, times        rewritten whole at the start and at the end
    OUT/.state/           tracker states to go on from         `vos.checkpoints`; removed when the run is done

A killed process, a full disk or an unwritable folder leave no half-written file under one of these names. The files are
handed to the operating system, and frames.jsonl and run.json are flushed to the disk when a run ends; masks are not
flushed one by one (that costs more than computing them), so a power cut may take the last seconds of them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal

from seem_core.errors import InputError, OutputError, VosError
from vos.earlier_run import RENDERED, STATES_FOLDER, cut_off, remove_states, written_by_run
from vos.folder_lock import lock_folder, unlock_folder
from vos.frames import Frame, FrameResult
from vos.label_files import write_labels, write_whole
from vos.run_record import (
    FRAMES_FILE,
    MASKS_FOLDER,
    RUN_FILE,
    FrameRecord,
    InputRecord,
    ObjectRecord,
    RunRecord,
    read_frames,
    read_run,
)
from vos.writing import refuse_link, writing

__all__ = [
    "FrameRecord",
    "InputRecord",
    "ObjectRecord",
    "ResultFolder",
    "RunRecord",
    "mask_name",
    "read_frames",
    "read_run",
]

_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has it

log = logging.getLogger(__name__)


class ResultFolder:
    """One run's results. Make it with `create`, then `begin`, `add` each frame, `finish`; use it in a ``with``.

    To go on with an unfinished run, use `reopen` and `go_on` in place of the first two.
    Leaving the ``with`` before `finish` records the run as interrupted, with the error's sentence if there was one.
    The folder is locked against a second run while it is open (where the file system can lock). One thread at a time.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        """Use `create`; ``lock`` is the descriptor that holds the lock."""
        self.path = path
        self._lock = lock
        self._frames: int | None = None  # descriptor of frames.jsonl
        self._run: RunRecord | None = None
        self._digits = 5
        self._began = 0.0

    @classmethod
    def create(cls, path: str | PathLike[str], *, overwrite: bool = False) -> ResultFolder:
        """Make ``path`` (and its parents) ready for a run.

        A finished run there, or files that are not an earlier run's but have the names of results, are refused unless
        ``overwrite``. What an earlier run wrote is removed (an unfinished one's without asking); any other file stays.

        Raises OutputError where that is not possible or another run is writing there, DiskFullError without room.
        """
        folder = Path(path)
        _refuse_links(folder)
        with writing(folder):
            _refuse(folder, overwrite)
            (folder / MASKS_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            with writing(folder):
                for written in written_by_run(folder):
                    written.unlink(missing_ok=True)
            remove_states(folder)
        except BaseException:
            unlock_folder(folder, lock)
            raise
        return cls(folder, lock)

    @classmethod
    def reopen(cls, path: str | PathLike[str]) -> ResultFolder:
        """Lock the folder of an earlier run. Nothing of it is changed before `go_on`, also not by `close`.

        Raises OutputError where another run is writing there, or nobody can.
        """
        folder = Path(path)
        _refuse_links(folder)
        return cls(folder, lock_folder(folder))

    def begin(self, run: RunRecord) -> None:
        """Write run.json (state running) and an empty frames.jsonl."""
        self._start(run, _now(), 0, os.O_TRUNC)

    def go_on(self, run: RunRecord, kept: int, *, seconds: float = 0.0) -> None:
        """Like `begin`, but the first ``kept`` frames of the earlier run stay, which took ``seconds``.

        What it wrote after them is removed. A kill at any moment leaves a folder from which this can be done again.
        Raises InputError where the earlier run is damaged, OutputError.
        """
        earlier = read_run(self.path)
        with writing(self.path):
            for name in (name for name in earlier.rendered if name in RENDERED):
                (self.path / name).unlink(missing_ok=True)
        self._save(replace(earlier, state="running", rendered=()))
        cut_off(self.path, earlier, kept)
        self._start(run, earlier.started, kept, 0)
        self._began -= seconds

    def _start(self, run: RunRecord, started: str, done: int, mode: int) -> None:
        self._digits = run.mask_digits
        self._began = time.monotonic()
        self._run = replace(
            run, state="running", started=started, finished=None, frames_done=done, error=None, rendered=()
        )
        self._save(self._run)
        with writing(self.path / FRAMES_FILE):
            self._frames = os.open(self.path / FRAMES_FILE, os.O_WRONLY | os.O_CREAT | mode | _BINARY, 0o666)
            os.lseek(self._frames, 0, os.SEEK_END)

    def add(self, result: FrameResult) -> FrameRecord:
        """Write one frame's mask, then its line. Raises DiskFullError or OutputError; then nothing of it is there."""
        run, frames = self._opened()
        name = f"{MASKS_FOLDER}/{mask_name(result.frame, self._digits)}"
        record = FrameRecord.of(result, name)
        write_labels(self.path / name, result.masks.labels)
        try:
            self._append(frames, record.line())
        except BaseException:
            (self.path / name).unlink(missing_ok=True)
            raise
        self._run = replace(run, frames_done=run.frames_done + 1)
        return record

    def finish(
        self,
        state: Literal["done", "interrupted"] = "done",
        *,
        gaps: tuple[int, ...] = (),
        warnings: tuple[str, ...] = (),
        error: str | None = None,
        class_names: Mapping[int, str] | None = None,
    ) -> RunRecord:
        """Close the run: flush frames.jsonl, write the final run.json. ``warnings`` come after those of `begin`.

        Saved states are removed from a run that is done.
        """
        run, frames = self._opened()
        run = replace(
            run,
            state=state,
            gaps=gaps,
            warnings=run.warnings + warnings,
            finished=_now(),
            seconds=round(time.monotonic() - self._began, 3),
            error=error,
            class_names=class_names or {},
        )
        with writing(self.path / FRAMES_FILE):
            os.fsync(frames)
        self._save(run)
        _flush(self.path / RUN_FILE)
        if state == "done":
            self._forget_states()
        self._run = run
        self.close()
        return run

    def close(self) -> None:
        """Release the files and the lock, and record nothing."""
        if self._frames is not None:
            os.close(self._frames)
            self._frames = None
        if self._lock is not None:
            unlock_folder(self.path, self._lock)
            self._lock = None

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._frames is not None:
                self.finish("interrupted", error=_sentence(error))
        except VosError as second:  # the disk is full, say: what stopped the run is raised already and matters more
            log.warning("the state of the run could not be recorded: %s", second)
            if error is None:
                raise
        finally:
            self.close()

    def _opened(self) -> tuple[RunRecord, int]:
        if self._run is None or self._frames is None:
            raise ValueError("the results folder is not open: call begin() first, and nothing after finish()")
        return self._run, self._frames

    def _forget_states(self) -> None:
        try:
            remove_states(self.path)
        except VosError as error:  # they are in nobody's way
            log.warning("saved states are left over: %s", error)

    def _save(self, run: RunRecord) -> None:
        write_whole(self.path / RUN_FILE, run.text())

    def _append(self, frames: int, line: bytes) -> None:
        """All of the line or nothing of it: a disk that fills up may take a part."""
        end = os.lseek(frames, 0, os.SEEK_CUR)
        with writing(self.path / FRAMES_FILE):
            try:
                while line:
                    line = line[os.write(frames, line) :]
            except OSError:
                os.ftruncate(frames, end)
                os.lseek(frames, end, os.SEEK_SET)
                raise


def mask_name(frame: Frame, digits: int = 5) -> str:
    """File name of a frame's mask: the image's stem for folders of images, else the frame's number in the source."""
    return f"{frame.index:0{digits}d}.png" if frame.name is None else f"{frame.name}.png"


def add_rendered(folder: Path, name: str) -> None:
    """Note in run.json that ``name`` was made from the masks."""
    run = read_run(folder)
    write_whole(folder / RUN_FILE, replace(run, rendered=tuple(sorted({*run.rendered, name}))).text())


def _refuse(folder: Path, overwrite: bool) -> None:
    if overwrite:
        return
    if not (folder / RUN_FILE).exists():
        foreign = next(_results_like(folder), None)
        if foreign is not None:
            raise OutputError(
                f"{foreign} is there already and no run of vos made it; choose another folder or say --overwrite"
            )
        return
    try:
        run = read_run(folder)
    except InputError as error:
        raise OutputError(f"{error}; to replace what is in {folder} say --overwrite") from error
    if run.state == "done":
        raise OutputError(f"{folder} holds the results of a finished run; choose another folder or say --overwrite")


def check_inputs(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse a results folder in which a run would overwrite, or lie among, what it reads. Raises OutputError."""
    ours = Path(os.path.realpath(folder))
    for path in inputs:
        place = Path(os.path.realpath(path))
        if place == ours or ours / MASKS_FOLDER in (place, *place.parents) or place in {ours / n for n in RENDERED}:
            raise OutputError(f"{path} is read by this run, which would write to the same place; choose another folder")


def _refuse_links(folder: Path) -> None:
    """Raise OutputError where something that a run writes or removes is a link out of the folder."""
    for name in (MASKS_FOLDER, STATES_FOLDER, FRAMES_FILE, RUN_FILE):
        refuse_link(folder / name)


def _results_like(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in (FRAMES_FILE, *RENDERED) if (folder / name).exists())
    yield from (folder / MASKS_FOLDER).glob("*.png")


def _flush(path: Path) -> None:
    """Bring a file and its name to the disk; where a file system cannot, the operating system does it in its time."""
    for place in (path, path.parent):
        try:
            descriptor = os.open(place, os.O_RDONLY)
        except OSError:  # Windows opens no folders
            continue
        try:
            os.fsync(descriptor)
        except OSError as error:
            log.debug("fsync %s: %s", place, error)
        finally:
            os.close(descriptor)


def _sentence(error: BaseException | None) -> str | None:
    if error is None or isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return None
    return str(error) or type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
