"""Prompts on disk, each under a number: `PromptStore`. Masks and pictures stay there until they are needed.

12.json    one prompt, in the format of prompt files (docs/prompts.md), whole in itself
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from seem_core.errors import InputError
from vos.prompt_file import PromptTarget, read_prompts, write_prompts
from vos.prompts import FramePrompt
from vos.writing import refuse_link, writing


class PromptStore:
    """Prompts by number in ``folder``, which is made; ``size`` is the (height, width) of the video. None is held in
    memory.

    Raises OutputError where the folder cannot be made or written, DiskFullError without room.
    """

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self.folder = folder
        self._target = PromptTarget(size)
        refuse_link(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.part"):  # of a process that was killed
                part.unlink(missing_ok=True)

    def put(self, number: int, item: FramePrompt) -> None:
        """Keep a prompt. What it was read from is not kept, so that it needs no other file."""
        write_prompts(self._path(number), [FramePrompt(item.frame, item.prompt)])

    def get(self, number: int) -> FramePrompt:
        """Read a prompt. Raises InputError where it is missing or damaged."""
        document = read_prompts(self._path(number), self._target)
        found = document.prompts
        if len(found) != 1 or not isinstance(found[0].when, int) or document.files:  # ours name no other file
            raise InputError(f"{self._path(number)} does not hold one prompt; it was changed by another program")
        return FramePrompt(found[0].when, found[0].prompt)

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove prompts; what is not there is passed over."""
        for number in numbers:
            with writing(self._path(number)):
                self._path(number).unlink(missing_ok=True)

    def numbers(self) -> tuple[int, ...]:
        """The numbers that are there, ascending."""
        stems = (path.stem for path in self.folder.glob("*.json"))
        return tuple(sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit()))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.json"
