"""Going on with an unfinished run: it ends as if nothing had happened, or is refused or begun again with a reason."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import square, write_clip, write_mask
from history_tracker import HistoryTracker
from numbered_clips import GOPS, numbered, write_numbered
from PIL import Image
from results import frame_result, run_record
from safetensors import safe_open

import vos
from seem_core.errors import DiskFullError, InputError, OutputError, VideoError
from seem_core.prompts import BoxPrompt, MaskPrompt
from vos import checkpoints, earlier_run, tracker_states
from vos.checkpoints import Checkpoint, Checkpoints, picture_of
from vos.output import ResultFolder, read_frames, read_run
from vos.pipeline import TrackOptions
from vos.prompts import Forget, FramePrompt
from vos.resuming import frames_after
from vos.to_folder import TrackSummary, track_to_folder
from vos.video import open_video

SELDOM = 1e6  # seconds: a state is saved only when a run is stopped
MASKS = frozenset({"masks"})
OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}
UNEVEN = [0, 40, 50, 300, 310, 330, *range(400, 400 + 34 * 33, 33)]  # milliseconds


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What saving costs does not make it rare."""
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[HistoryTracker]:
    """Trackers whose results show everything that is done otherwise; each run appends its own."""
    made: list[HistoryTracker] = []

    def make(options: TrackOptions) -> HistoryTracker:
        made.append(HistoryTracker())
        return made[-1]

    monkeypatch.setattr("vos.to_folder.make_tracker", make)
    return made


@dataclass(frozen=True)
class Task:
    """A run, apart from its folder."""

    video: Path
    options: TrackOptions = field(default_factory=lambda: TrackOptions("flow"))
    prompts: Sequence[Any] = (BoxPrompt(4, 4, 20, 20, 1),)

    def run(self, out: Path, *, until: int | None = None, resume: bool = True, **more: Any) -> TrackSummary:
        """``until`` that many frames are done, in all."""
        stop = threading.Event()

        def heard(done: int, total: int) -> None:
            if until is not None and done >= until:
                stop.set()

        arguments: dict[str, Any] = {
            "checkpoint_seconds": 1e-9,
            "save": MASKS,
            "on_progress": heard,
            "stop": stop,
        } | more
        return track_to_folder(self.video, out, self.prompts, options=self.options, resume=resume, **arguments)


def everything(out: Path) -> dict[str, Any]:
    """All that must not depend on interruptions."""
    run = json.loads((out / "run.json").read_text())
    for name in ("started", "finished", "seconds"):
        del run[name]
    masks = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "masks").iterdir()}
    others = {path.name for path in out.iterdir()}
    return {"run": run, "masks": masks, "frames": (out / "frames.jsonl").read_bytes(), "files": others}


def check_equal(task: Task, tmp_path: Path, stops: Sequence[int], **more: Any) -> list[TrackSummary]:
    """Interrupted after ``stops`` frames, a run ends as one that was not."""
    whole = task.run(tmp_path / "whole", resume=False, **more)
    ended = [task.run(tmp_path / "parts", until=stop, **more) for stop in stops]
    assert [summary.state for summary in ended] == ["interrupted"] * len(stops)
    assert len(list((tmp_path / "parts" / ".state").iterdir())) <= 2
    last = task.run(tmp_path / "parts", **more)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    assert (last.state, last.frames, last.gaps, last.objects) == ("done", whole.frames, whole.gaps, whole.objects)
    assert last.warnings == whole.warnings
    return [*ended, last]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """40 small frames: with closed and open groups of pictures, of uneven times, and as pictures in a folder."""
    place = tmp_path_factory.mktemp("videos")
    pictures = [numbered(n) for n in range(40)]
    folder = place / "pictures"
    folder.mkdir()
    for n, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"at {n + 5}.png")
    return {
        "closed": write_numbered(place / "closed.mp4", pictures, options=GOPS),
        "open": write_numbered(place / "open.mp4", pictures, options=OPEN_GOPS),
        "uneven": write_numbered(place / "uneven.mkv", pictures, options=GOPS, ticks=UNEVEN),
        "avi": write_numbered(place / "order.avi", pictures, codec="mpeg4", options={"g": "12", "bf": "2"}),
        "pictures": folder,
    }


@pytest.mark.parametrize("name", ["closed", "open", "uneven", "avi", "pictures"])
@pytest.mark.parametrize("options", [{}, {"start": 3, "stride": 4}, {"start": 14, "end": 37, "max_side": 48}])
def test_a_run_that_was_stopped_ends_as_if_it_had_not(
    videos: dict[str, Path], name: str, options: dict[str, Any], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task = Task(videos[name], TrackOptions("flow", **options))
    ended = check_equal(task, tmp_path, (2, 5, 6))
    assert all(summary.resumed_after is not None for summary in ended[1:])
    whole, *parts = (tracker.steps for tracker in trackers)
    assert sum(parts) == whole  # a stop saves the last state: no frame was tracked twice


def test_prompts_forgets_and_corrections_on_both_sides(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    mask = np.zeros((48, 96), bool)
    mask[10:20, 10:30] = True
    prompts = (
        FramePrompt(3, MaskPrompt(mask, 1)), FramePrompt(6, BoxPrompt(40, 4, 60, 20, 300)), FramePrompt(12, Forget(1)),
        FramePrompt(20, MaskPrompt(mask, 1)), FramePrompt(30, Forget(300)), FramePrompt(39, BoxPrompt(1, 1, 9, 9, 2)),
    )  # fmt: skip
    check_equal(Task(videos["closed"], prompts=prompts), tmp_path, (2, 5, 8, 13, 14, 22, 31, 37))


@pytest.mark.parametrize(("name", "again"), [("corrupted.mp4", True), ("bikes.mp4", False)])
def test_real_files(
    data_root: Path, name: str, again: bool, trackers: list[HistoryTracker], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """After damage, the file is decoded from its start: what was wrong with it is then known as before."""
    caplog.set_level(logging.INFO, "vos.resuming")
    task = Task(data_root / "videos" / name, TrackOptions("flow", start=22, end=42))
    ended = check_equal(task, tmp_path, (5, 12))
    assert ended[-1].gaps == ((30,) if again else ())
    assert any("from its start" in record.message for record in caplog.records) == again


def test_a_picture_that_cannot_be_read(videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path) -> None:
    folder = shutil.copytree(videos["pictures"], tmp_path / "pictures")
    for n in (9, 30):
        (folder / f"at {n}.png").write_bytes(b"no picture")
    ended = check_equal(Task(folder), tmp_path, (3, 12, 29))
    assert ended[-1].gaps == (4, 25)


def test_after_an_error_it_goes_on_from_the_last_state(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task = Task(videos["closed"])
    task.run(tmp_path / "whole", resume=False)

    def fail(done: int, total: int) -> None:
        if done == 25:
            raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        task.run(tmp_path / "parts", on_progress=fail)
    assert read_run(tmp_path / "parts").error == "power"
    last = task.run(tmp_path / "parts")
    assert 0 < (last.resumed_after or 0) <= 24
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def killed(task: Task, out: Path, after: int) -> int:
    """What a process leaves that was killed: run.json says running, a mask has no line, a line and a file are cut.

    Returns the number of frames up to the older one of two states.
    """
    first = task.run(out, until=after - 8, checkpoint_seconds=SELDOM).frames
    task.run(out, until=after, checkpoint_seconds=SELDOM)
    run = read_run(out)
    (out / "run.json").write_bytes(replace(run, state="running", finished=None, frames_done=0).text())
    lines = (out / "frames.jsonl").read_bytes()
    (out / "frames.jsonl").write_bytes(lines[:-9])
    for part in (out / "masks" / ".00031.png.1-2.part", out / ".state" / ".00031-ab.safetensors.1-2.part"):
        part.write_bytes(b"half")
    return first


def test_after_a_kill_a_state_counts_only_up_to_what_is_written(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    first = killed(task, out, 20)
    stopped = task.run(out, until=18)
    assert stopped.resumed_after == first - 1  # the second state's frame has no line any more
    assert {path.name for path in (out / "masks").iterdir()} == {f"{n:05d}.png" for n in range(stopped.frames)}
    task.run(tmp_path / "whole", resume=False)
    task.run(out)
    assert everything(out) == everything(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["cut", "zeros", "gone"])
def test_a_damaged_state_is_passed_over(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, harm: str
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(tmp_path / "whole", resume=False)
    stops = [task.run(out, until=until, checkpoint_seconds=SELDOM).frames for until in (9, 20)]
    older, newer = sorted((out / ".state").iterdir())
    data = newer.read_bytes()
    if harm == "gone":
        newer.unlink()
    else:
        newer.write_bytes(data[:-20] + (b"" if harm == "cut" else bytes(20)))
    last = task.run(out)
    assert last.resumed_after == int(older.name[:5]) < stops[1] - 1
    assert everything(out) == everything(tmp_path / "whole")


def test_a_mask_that_a_power_cut_took_is_made_again(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(tmp_path / "whole", resume=False)
    first = task.run(out, until=9, checkpoint_seconds=SELDOM).frames
    task.run(out, until=20, checkpoint_seconds=SELDOM)
    (out / "masks" / "00015.png").write_bytes(b"")
    assert task.run(out).resumed_after == first - 1
    assert everything(out) == everything(tmp_path / "whole")


def test_without_a_usable_state_the_run_begins_again(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(out, until=9)
    (out / "masks" / "00002.png").unlink()
    last = task.run(out)
    assert (last.state, last.resumed_after, last.frames) == ("done", None, 40)
    task.run(tmp_path / "none", until=9, checkpoint_seconds=0)
    assert not (tmp_path / "none" / ".state").exists()
    assert task.run(tmp_path / "none").resumed_after is None


Change = Callable[[Task, Path], Task]
CHANGES: dict[str, Change] = {
    "video": lambda task, place: replace(task, video=write_clip(place / "other.mp4", 40)),
    "stride": lambda task, place: replace(task, options=replace(task.options, stride=2)),
    "tracker": lambda task, place: replace(task, options=replace(task.options, tracker="copy")),
    "prompts": lambda task, place: replace(task, prompts=(BoxPrompt(4, 4, 20, 21, 1),)),
    "objects": lambda task, place: replace(task, prompts=(BoxPrompt(4, 4, 20, 20, 2),)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_is_refused(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, what: str
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(out, until=9)
    before = everything(out)
    other = CHANGES[what](task, tmp_path)
    with pytest.raises(
        OutputError, match=rf"^\S+ holds a run with other [a-z, ]*{what}[a-z, ]*; choose .*--overwrite$"
    ):
        other.run(out)
    assert everything(out) == before
    again = other.run(out, overwrite=True)
    assert (again.state, again.resumed_after) == ("done", None)
    with pytest.raises(OutputError, match="other"):
        task.run(out)


def test_what_does_not_change_the_masks_may_be_otherwise(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    """The same video at another place, and another number of threads."""
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(out, until=9)
    moved = Path(shutil.copy(videos["closed"], tmp_path / "moved.mp4"))
    last = replace(task, video=moved, options=replace(task.options, threads=1)).run(out, overwrite=True)
    assert last.resumed_after is not None
    assert read_run(out).video.path == moved


@pytest.mark.parametrize("where", ["versions", "device"])
def test_other_circumstances_begin_it_again(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, where: str
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(out, until=9)
    plain = json.loads((out / "run.json").read_text())
    if where == "versions":
        plain["versions"]["torch"] = "0.4"
    else:
        plain["options"]["device"] = "cuda"
    (out / "run.json").write_text(json.dumps(plain))
    last = task.run(out)
    assert (last.state, last.resumed_after) == ("done", None)
    assert last.warnings[0] == f"the unfinished run had other {where}; it was begun again"
    assert not read_run(out).warnings


def test_another_direction_is_begun_again(tmp_path: Path) -> None:
    task = Task(write_clip(tmp_path / "clip.mp4", 8), TrackOptions("copy", direction="both"))
    task.run(tmp_path / "whole", resume=False)
    task.run(tmp_path / "out", until=3)
    assert not (tmp_path / "out" / ".state").exists()
    last = task.run(tmp_path / "out")
    assert last.warnings == ("a run in direction both cannot be gone on with in its middle; it was begun again",)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_a_finished_run_stays_and_gets_the_pictures_that_it_lacks(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    whole = task.run(out)
    before = everything(out)["masks"]
    last = task.run(out, save=frozenset({"masks", "contact"}))
    assert trackers[-1].steps == 0
    assert (last.state, last.frames, last.objects, last.seconds) == ("done", 40, whole.objects, whole.seconds)
    assert last.made == (out / "masks", out / "contact.png")
    assert everything(out)["masks"] == before
    sheet = (out / "contact.png").read_bytes()
    assert task.run(out, save=frozenset({"masks", "contact"})).made == last.made
    assert (out / "contact.png").read_bytes() == sheet
    with pytest.raises(OutputError, match="finished run"):
        task.run(out, resume=False)
    assert task.run(out, overwrite=True).resumed_after is None
    assert trackers[-1].steps == 40


def test_no_room_for_a_state_ends_the_saving_and_not_the_run(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(path: Path, data: bytes) -> None:
        tries.append(path)
        raise DiskFullError(f"no room to write {path}")

    monkeypatch.setattr(tracker_states, "write_whole", full)
    summary = Task(videos["closed"]).run(tmp_path / "out")
    assert (summary.state, summary.frames, len(tries)) == ("done", 40, 1)
    assert summary.warnings == (
        f"no more states are saved to go on from after an interruption: no room to write {tries[0]}",
    )
    assert not read_run(tmp_path / "out").warnings


def test_a_kill_before_the_first_frame_is_nothing_to_speak_of(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task, out = Task(videos["closed"]), tmp_path / "out"
    task.run(out, until=1)
    run = read_run(out)
    shutil.rmtree(out / "masks")
    (out / "masks").mkdir()
    (out / "frames.jsonl").unlink()
    (out / "run.json").write_bytes(replace(run, state="running", finished=None, frames_done=0).text())
    last = task.run(out)
    assert (last.state, last.frames, last.warnings) == ("done", 40, ())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("resume", [True, False])
def test_what_a_link_points_to_is_left_alone(
    videos: dict[str, Path], trackers: list[HistoryTracker], tmp_path: Path, resume: bool
) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    (elsewhere / "00001-ab.safetensors").write_bytes(b"mine")
    Task(videos["closed"]).run(out, until=3, checkpoint_seconds=0)
    (out / ".state").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"\.state is a symbolic link"):
        Task(videos["closed"]).run(out, resume=resume)
    assert (elsewhere / "00001-ab.safetensors").read_bytes() == b"mine"


def test_the_options_are_checked(tmp_path: Path) -> None:
    task = Task(write_clip(tmp_path / "clip.mp4", 3))
    with pytest.raises(InputError, match="0 to save none"):
        task.run(tmp_path / "out", checkpoint_seconds=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracker", ["lite", "propagate", "flow", "copy"])
def test_real_trackers_go_on_to_the_bit(tracker: str, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.mp4", 14)
    write_mask(tmp_path / "mask.png")
    second = np.roll(square(5), 12, axis=0) & ~square(5)
    prompts = [FramePrompt(0, MaskPrompt(square(0), 1)), FramePrompt(5, MaskPrompt(second, 2))]
    task = Task(video, TrackOptions(tracker, max_side=56), prompts)
    check_equal(task, tmp_path, (3, 6, 11))


def test_what_is_remembered_is_kept_from_a_resumed_run(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.mp4", 8)
    prompts = [MaskPrompt(square(0), 1)]
    kept = []
    for out, stops in (("whole", ()), ("parts", (3, 5))):
        task = Task(video, TrackOptions("propagate", save_memory=str(tmp_path / out)), prompts)
        for stop in stops:
            task.run(tmp_path / f"{out}_vos", until=stop)
        assert tmp_path / out in task.run(tmp_path / f"{out}_vos").made
        with safe_open(tmp_path / out, "pt") as file:
            values = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118 (no mapping)
            kept.append((file.metadata(), values))  # the order of the metadata in the file is left to chance
    assert kept[0] == kept[1]
    assert everything(tmp_path / "whole_vos")["masks"] == everything(tmp_path / "parts_vos")["masks"]


def test_frames_that_are_decoded_otherwise_than_before_are_not_tracked_on(videos: dict[str, Path]) -> None:
    with open_video(videos["closed"]) as source:  # type: ignore[attr-defined]
        pictures = [picture_of(frame) for frame in source]
        for intact in (True, False):
            last = Checkpoint(17, pictures[17], intact, 0.0, {})
            assert [picture_of(frame) for frame in frames_after(source, range(40), last)] == pictures[18:]
            with pytest.raises(VideoError, match=r"frame 17 of .* is not decoded as it was"):
                list(frames_after(source, range(40), replace(last, picture=1)))


@pytest.mark.parametrize("at", range(12))
def test_a_kill_while_cutting_off_leaves_lines_with_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whichever step is the last one: what is left reads as a run, and can be gone on with."""
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record())
        for n in range(6):
            folder.add(frame_result(n))
    lines = (tmp_path / "frames.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "frames.jsonl").write_bytes(b"".join(lines) + b'{"frame": 6, "se')
    steps = iter(range(99))
    unlink, save = Path.unlink, ResultFolder._save

    def stepwise(do: Callable[..., None]) -> Callable[..., None]:
        def step(*args: Any, **more: Any) -> None:
            if next(steps) == at:
                raise KeyboardInterrupt
            do(*args, **more)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stepwise(unlink))
        patch.setattr(ResultFolder, "_save", stepwise(save))
        folder = ResultFolder.reopen(tmp_path)
        try:
            folder.go_on(run_record(), 2)
        except KeyboardInterrupt:
            pass
        finally:
            patch.undo()
            folder.close()
    assert all((tmp_path / record.mask).exists() for record in read_frames(tmp_path))
    folder = ResultFolder.reopen(tmp_path)
    with folder:
        folder.go_on(run_record(), 2, seconds=100.0)
        folder.add(frame_result(2))
        run = folder.finish()
    assert (tmp_path / "frames.jsonl").read_bytes() == b"".join(lines[:3])
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"00000.png", "00001.png", "00002.png"}
    assert (run.frames_done, run.state) == (3, "done")
    assert 100 <= run.seconds < 200


def test_names_of_pictures_are_known_without_lines(videos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    run = run_record(videos["pictures"], frames=40)
    run = replace(run, video=replace(run.video, codec="images"))
    for name in ("at 5.png", "at 7.png", "at 99.png"):
        (tmp_path / "masks" / name).touch()
    left = earlier_run.unlisted_masks(tmp_path, run, {"masks/at 5.png"})
    assert [path.name for path in left] == ["at 7.png"]


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "expected"), [(0.0, 10.0), (0.1, 10.0), (1.0, 100.0)])
def test_saving_that_takes_long_becomes_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, expected: float
) -> None:
    """At most a fiftieth of the time, half of it for the copy and half for the writing here."""
    monkeypatch.setattr(checkpoints, "SHARE", 0.02)
    clock = Clock()
    saving = Checkpoints(tmp_path / "states", "a", clock=clock)
    tracker = HistoryTracker()

    def state_dict() -> dict[str, Any]:
        clock.now += cost
        return {}

    def write_whole(path: Path, data: bytes) -> None:
        clock.now += cost
        path.write_bytes(data)

    monkeypatch.setattr(tracker, "state_dict", state_dict)
    monkeypatch.setattr(tracker_states, "write_whole", write_whole)
    source: Any = type("Source", (), {"gaps": (), "warnings": ()})
    assert not saving.is_due
    clock.now = 10.0
    assert saving.is_due
    packed = saving.take(frame_result(3), tracker, source)
    assert packed is not None
    clock.now += 50
    assert not saving.is_due  # while one is being written
    saving.write(packed)
    ended = clock.now
    clock.now = ended + expected - 0.01
    assert not saving.is_due
    clock.now = ended + expected + 0.01
    assert saving.is_due


def test_resume_is_an_argument_of_the_front_door() -> None:
    assert vos.track_to_folder is track_to_folder
