"""What an `Editor` keeps on disk, and what of it is read when it is opened again: `EditorFolder`.

    editor.json   video, options, which prompts apply, what can be undone      rewritten whole after every edit
    prompts/      12.json, a file for every prompt                             before editor.json names it
    forward/      masks/00012.png and states/ of the forward pass              a file for each frame, as it is done
    backward/     likewise

Every file appears under its name only when whole. A result says itself what it was made from, so nothing has to be
written in step with anything else, and a process may be killed at any moment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from seem_core.errors import InputError
from seem_core.plain_json import brief, in_a_line, read_json
from vos.directions import DIRECTIONS, Direction
from vos.edit_history import EditHistory
from vos.folder_lock import lock_folder, unlock_folder
from vos.frames import VideoInfo
from vos.label_files import write_whole
from vos.pipeline import TrackOptions
from vos.prompt_store import PromptStore
from vos.stored_pass import StoredPass
from vos.wording import some
from vos.writing import writing

STATE_FILE = "editor.json"
FORMAT = 1  # rises when a reader of the file has to change

Size: TypeAlias = tuple[int, int, int, int]  # frames, height, width of the video, bytes of its file (0 for a folder)


@dataclass(frozen=True)
class EditorState:
    """editor.json. ``gaps`` are frames that could not be decoded; ``video`` is an absolute path."""

    video: Path
    size: Size
    options: TrackOptions
    history: EditHistory = field(default_factory=EditHistory)
    gaps: tuple[int, ...] = ()

    @property
    def direction(self) -> Direction:
        return self.options.direction

    def text(self) -> bytes:
        plain = {
            "format": FORMAT,
            "video": str(self.video),
            "size": self.size,
            "options": asdict(self.options),
            "history": self.history.to_json(),
            "gaps": self.gaps,
        }
        return json.dumps(plain, indent=1, default=str).encode("utf-8", "backslashreplace")


class EditorFolder:
    """The files of one editor, locked against a second one until `close`; ``size`` is the video's (height, width).

    Raises OutputError where the folder cannot be made, written or locked.
    """

    def __init__(self, path: Path, size: tuple[int, int], states: int) -> None:
        self.path = path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(path, "another editor is at work in")
        try:
            self.prompts = PromptStore(path / "prompts", size)
            self.forward = StoredPass(path / "forward", states)
            self.backward = StoredPass(path / "backward", states)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            unlock_folder(self.path, self._lock)
            self._lock = None

    def write(self, state: EditorState) -> None:
        """Keep the state, then remove the prompts that can no more be reached by undo and redo."""
        write_whole(self.path / STATE_FILE, state.text())
        reachable = state.history.reachable
        self.prompts.remove(number for number in self.prompts.numbers() if number not in reachable)


def find_state(folder: Path) -> EditorState | None:
    """The state of the editor in ``folder``; None where none was begun. Raises InputError if it is damaged or newer."""
    return read_state(folder) if (folder / STATE_FILE).exists() else None


def read_state(folder: Path) -> EditorState:
    """The state of the editor in ``folder``. Raises InputError if there is none, or it is damaged or newer."""
    path = folder / STATE_FILE
    try:
        plain = read_json(path)
        if plain["format"] != FORMAT:
            raise InputError(
                f"{path} has format {brief(plain['format'])}, this version reads {FORMAT}; update seem-vos"
            )
        return _state_from(plain)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} is no editor's folder: it has no {STATE_FILE}; give a video to begin one"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; check its rights") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {in_a_line(error)}); use another folder"
        ) from error


def size_of(info: VideoInfo) -> Size:
    return info.frames, info.height, info.width, info.path.stat().st_size if info.path.is_file() else 0


def begin_state(info: VideoInfo, options: TrackOptions, found: EditorState | None) -> EditorState:
    """The state to go on from: a new one, or ``found`` with the options that apply now.

    Raises InputError where the folder belongs to another video.
    """
    video = Path(os.path.abspath(info.path))
    if found is None:
        return EditorState(video, size_of(info), options)
    if found.size != size_of(info):
        frames, height, width, _ = found.size
        raise InputError(
            f"the folder was begun with {found.video} ({frames} frames, {width}x{height}), and {info.path} is another"
            " video; use another folder"
        )
    return replace(found, video=video, options=options)


def _state_from(plain: Mapping[str, Any]) -> EditorState:
    if unknown := set(plain["options"]) - {option.name for option in fields(TrackOptions)}:
        raise InputError(
            f"editor.json names options that this version does not know, {some(map(brief, unknown))}; update seem-vos"
        )
    options = TrackOptions(**plain["options"])
    if options.direction not in DIRECTIONS:
        raise ValueError(f"direction {options.direction!r}")
    frames, height, width, length = map(int, plain["size"])
    return EditorState(
        video=Path(plain["video"]),
        size=(frames, height, width, length),
        options=options,
        history=EditHistory.from_json(plain["history"]),
        gaps=tuple(map(int, plain["gaps"])),
    )
