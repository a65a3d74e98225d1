"""One results folder at a URL: `RemoteResults` brings an unfinished one here, and results there.

It has the files of docs/output.md under the same names, and they come to be in an order that tells what is whole:
run.json says "running" before anything else is there, masks come before the frames.jsonl that lists them, and run.json
comes once more at the end. Whoever finds a run.json that says "done" finds all the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from seem_core.errors import InputError, OutputError
from vos.batch.transfer import OnMoved, files_in, get, put
from vos.batch.urls import name_of, open_store, remote
from vos.earlier_run import RENDERED, STATES_FOLDER
from vos.run_record import FRAMES_FILE, MASKS_FOLDER, RUN_FILE, RunRecord, read_frames, read_run

REMOVED_AT_ONCE = 500


class RemoteResults:
    """Every method raises what `vos.batch.urls.remote` raises."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, self._key = open_store(self.url)
        self._sent: set[str] = set()  # masks that are there and stay as they are
        self._stale: set[str] | None = None  # what an earlier run left; not looked up yet

    def run(self) -> RunRecord | None:
        """Its run.json; None where there is none, or a damaged one."""
        with tempfile.TemporaryDirectory(prefix="vos-") as place:
            if not self._fetch(RUN_FILE, Path(place)):
                return None
            with suppress(InputError):
                return read_run(place)
        return None

    def check_free(self, *, resume: bool) -> RunRecord | None:
        """The run that is there, if one is; a finished one only with ``resume``.

        Raises OutputError for a finished run, and for files of results that no run made.
        """
        run = self.run()
        if run is not None and run.state == "done" and not resume:
            raise OutputError(
                f"{self.url} holds the results of a finished run; choose another folder or say --overwrite"
            )
        if run is None and (foreign := self._names()):
            raise OutputError(
                f"{self.url}/{min(foreign)} is there already and no run of vos made it; choose another folder or say "
                "--overwrite"
            )
        return run

    def fetch(self, folder: Path, on_moved: OnMoved = lambda: None) -> bool:
        """Bring the results here, to be gone on with. False where they are of no use for that, or not whole."""
        states = self._below(STATES_FOLDER)
        if not (self._fetch(RUN_FILE, folder) and self._fetch(FRAMES_FILE, folder)):
            return False
        names = [f"{STATES_FOLDER}/{name}" for name in states]
        try:
            if not states and read_run(folder).state != "done":
                return False
            names += [record.mask for record in read_frames(folder)]
            if not all(_is_ours(name) for name in names):  # a line that leads elsewhere
                return False
            get(self._store, self.url, [(f"{self._key}/{name}", folder / name) for name in names], on_moved)
        except InputError:  # damaged, or a mask did not come through
            return False
        return True

    def keep(self, folder: Path, run: Path, states: Iterable[Path]) -> None:
        """Bring there what a run in ``folder``, which goes on meanwhile, needs in order to be gone on with elsewhere.

        run: its run.json. states: copies of its saved states; every mask before them is in ``folder`` by now.
        """
        with tempfile.TemporaryDirectory(prefix="vos-") as place:
            lines = Path(place) / FRAMES_FILE
            lines.write_bytes((folder / FRAMES_FILE).read_bytes())
            self._begin(run)
            masks = [record.mask for record in read_frames(place)]
            self._put(folder, [name for name in masks if name not in self._sent])
            self._sent.update(masks)
            self._put(Path(place), [FRAMES_FILE])
        there = self._below(STATES_FOLDER)
        new = {file.name: file for file in states}
        put(self._store, self.url, [(file, f"{self._key}/{STATES_FOLDER}/{name}") for name, file in new.items()])
        self._remove(f"{STATES_FOLDER}/{name}" for name in there if name not in new)

    def finish(self, folder: Path, on_moved: OnMoved = lambda: None) -> None:
        """Bring the results in ``folder`` there, in the place of what an earlier run left. run.json comes last."""
        stale = self._begin(folder / RUN_FILE)
        new = _files(folder)
        self._put(folder, [name for name in new if name != FRAMES_FILE and name not in self._sent], on_moved)
        self._put(folder, [FRAMES_FILE])
        states = {f"{STATES_FOLDER}/{name}" for name in self._below(STATES_FOLDER)}
        self._remove(sorted((stale | states) - set(new)))
        self._put(folder, [RUN_FILE])

    def _begin(self, run: Path) -> set[str]:
        """Say that a run is at work, before anything of it is there. Returns what an earlier one left."""
        if self._stale is None:
            self._stale = self._written_before()
            with tempfile.TemporaryDirectory(prefix="vos-") as place:
                begun = replace(read_run(run.parent), state="running", finished=None, rendered=())
                (Path(place) / RUN_FILE).write_bytes(begun.text())
                self._put(Path(place), [RUN_FILE])
        return self._stale

    def _put(self, folder: Path, names: Iterable[str], on_moved: OnMoved = lambda: None) -> None:
        put(self._store, self.url, [(folder / name, f"{self._key}/{name}") for name in names], on_moved)

    def _remove(self, names: Iterable[str]) -> None:
        keys = [f"{self._key}/{name}" for name in names]
        with remote(self.url, write=True):
            for start in range(0, len(keys), REMOVED_AT_ONCE):
                self._store.rm(keys[start : start + REMOVED_AT_ONCE])

    def _written_before(self) -> set[str]:
        """What a run left there, as far as it is still there: its pictures, and masks that it lists or was to make."""
        there, run = self._names(), self.run()
        ours = {name for name in there if not name.startswith(f"{MASKS_FOLDER}/")}
        with tempfile.TemporaryDirectory(prefix="vos-") as place:
            if FRAMES_FILE in there and self._fetch(FRAMES_FILE, Path(place)):
                with suppress(InputError):  # damaged: masks that are not replaced stay
                    ours |= {record.mask for record in read_frames(place)}
        if run is not None and run.state == "running":  # it was killed: a mask may be there whose line is not
            ours |= {f"{MASKS_FOLDER}/{frame:0{run.mask_digits}d}.png" for frame in range(*run.tracked)}
        return ours & there

    def _names(self) -> set[str]:
        """Names of results that are there, without run.json."""
        with remote(self.url):
            found = {name for name in (FRAMES_FILE, *RENDERED) if self._store.exists(f"{self._key}/{name}")}
        return found | {f"{MASKS_FOLDER}/{name}" for name in self._below(MASKS_FOLDER) if name.endswith(".png")}

    def _below(self, folder: str) -> list[str]:
        """Names of the files directly in a folder; none where there is no such folder."""
        with remote(self.url):
            self._store.invalidate_cache()
            return [name_of(key) for key in files_in(self._store, f"{self._key}/{folder}")]

    def _fetch(self, name: str, folder: Path) -> bool:
        with remote(f"{self.url}/{name}"):
            try:
                content = self._store.cat_file(f"{self._key}/{name}")
            except FileNotFoundError:
                return False
            (folder / name).write_bytes(content)
            return True


def _files(folder: Path) -> list[str]:
    """Names of a run's files, run.json left out."""
    return [
        file.relative_to(folder).as_posix()
        for place in (folder, folder / MASKS_FOLDER, folder / STATES_FOLDER)
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name != RUN_FILE
    ]


def _is_ours(name: str) -> bool:
    path = Path(name)
    return path.parts[:-1] in ((MASKS_FOLDER,), (STATES_FOLDER,)) and path.name not in ("", ".", "..")
