"""Room for the results of a batch: `DiskWatch` says when to stop before there is none."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vos.batch.sizes import amount

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_WALKS = 10.0  # through the folders of the videos at work, where their sizes count
SHARE_KEPT_FREE, MOST_KEPT_FREE = 0.02, 10**9


class DiskWatch:
    """Watches the free room where ``folders`` lie, and their sizes if there is a limit to them.

    max_disk  bytes that all of them may take together, also what was there before
    reserve   bytes that must stay free; None is a fiftieth of the file system, a gigabyte at most
    """

    def __init__(
        self, folders: Sequence[Path], max_disk: int | None, reserve: int | None, clock: Callable[[], float]
    ) -> None:
        self._folders = {folder.name: folder for folder in folders}
        self._place = folders[0].parent if folders else Path()
        self._max_disk, self._reserve, self._clock = max_disk, reserve, clock
        self._looked = self._walked = float("-inf")
        self._sizes: dict[Path, int] | None = None
        self._why: str | None = None

    def why_full(self, running: Iterable[str]) -> str | None:
        """Why nothing more should be written, as a sentence; None while there is room. Looks every few seconds."""
        now = self._clock()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._why = self._no_room() or self._too_much(running, now)
        return self._why

    def measure(self, folder: Path) -> None:
        """Take the size of one folder anew: a video ended."""
        if self._max_disk is not None and self._sizes is not None:
            self._sizes[folder] = size_of(folder)

    def _no_room(self) -> str | None:
        place = next((place for place in (self._place, *self._place.absolute().parents) if place.exists()), None)
        try:
            usage = shutil.disk_usage(place or Path())
        except OSError:
            return None
        reserve = self._reserve
        if reserve is None:
            reserve = min(MOST_KEPT_FREE, int(SHARE_KEPT_FREE * usage.total))
        if usage.free >= reserve:
            return None
        return (
            f"only {amount(usage.free)} are free where {self._place} lies, and {amount(reserve)} stay free; "
            "free some space and run the same command again"
        )

    def _too_much(self, running: Iterable[str], now: float) -> str | None:
        if self._max_disk is None:
            return None
        if self._sizes is None:
            self._sizes = {folder: size_of(folder) for folder in self._folders.values()}
        elif now - self._walked >= SECONDS_BETWEEN_WALKS:
            self._walked = now
            for name in running:
                self.measure(self._folders[name])
        taken = sum(self._sizes.values())
        if taken < self._max_disk:
            return None
        what = f"the results take {amount(taken)}, all of the {amount(self._max_disk)} that they may"
        return f"{what}; give more by --max-disk and run the same command again"


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and its folders, links not followed; what cannot be read counts for nothing."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    else:
                        total += found.st_size
    return total
