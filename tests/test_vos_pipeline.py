"""The stream from video to masks, and the folder it is written to: numbers, gaps, sizes, faults, stopping."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Clip, picture, square, write_clip, write_mask

import vos
from seem_core.errors import DeviceError, DiskFullError, InputError, MaskError, OutputError, PromptError, VideoError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, Prompt
from trackers.base import Image, ObjectMasks, Tracker, Traits
from trackers.baselines import CopyTracker
from vos.output import ResultFolder, read_frames, read_run
from vos.pipeline import TrackOptions, track
from vos.prompt_text import parse_mask
from vos.prompts import Forget, FramePrompt, Seconds, TimedPrompt
from vos.to_folder import track_to_folder

COPY = TrackOptions(tracker="copy")


class Witness:
    """A tracker that remembers what it was shown."""

    name, traits = "witness", Traits(False, False, False)

    def __init__(self) -> None:
        self.images: list[tuple[int, int]] = []
        self.prompts: list[tuple[Prompt, ...]] = []

    def step(self, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        self.images.append(image.shape[:2])
        self.prompts.append(tuple(prompts))
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[: image.shape[0] // 2] = 1
        return ObjectMasks((1,), labels, np.ones(1, np.float32), np.zeros(1, np.bool_))

    def forget(self, object_id: int) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def no_threads_left() -> bool:
    gc.collect()
    return not [thread for thread in threading.enumerate() if thread.name.startswith("vos-")]


# ---- the stream


def test_a_real_file_comes_out_frame_by_frame(tmp_path: Path) -> None:
    results = list(track(write_clip(tmp_path / "clip.mp4"), mask=write_mask(tmp_path / "clip.png"), tracker="copy"))
    assert [result.frame.index for result in results] == list(range(12))
    for result in results:
        assert result.masks.ids == (1,)
        assert (result.masks.mask(1) == square(0)).all()
    assert np.abs(results[5].frame.image.astype(int) - picture(5)).mean() < 20


def test_frame_numbers_are_those_of_the_source() -> None:
    seen, witness = [], Witness()
    for result in track(Clip(30), PointPrompt(3, 20), tracker=witness, start=4, end=27, stride=5):
        seen.append((result.frame.index, result.frame.seconds))
    assert seen == [(i, i / 24) for i in (4, 9, 14, 19, 24)]
    assert [len(p) for p in witness.prompts] == [1, 0, 0, 0, 0]


def test_every_prompt_arrives_on_its_frame_in_the_order_given() -> None:
    witness = Witness()
    first, negative = PointPrompt(3, 20), PointPrompt(60, 1, False)
    late, timed = FramePrompt(7, BoxPrompt(0, 0, 9, 9, 2)), TimedPrompt(PointPrompt(5, 5, True, 3), Seconds(5 / 24))
    list(track(Clip(), [late, first, timed, negative], tracker=witness))
    given = {i: prompts for i, prompts in enumerate(witness.prompts) if prompts}
    assert given == {0: (first, negative), 5: (timed.prompt,), 7: (late.prompt,)}


def test_frames_before_the_first_prompt_have_no_objects() -> None:
    results = list(track(Clip(), mask=square(0), tracker="copy", start=0))
    assert all(result.masks.ids == (1,) for result in results)
    late = list(track(Clip(), [FramePrompt(6, MaskPrompt(square(6), 4))], tracker="copy"))
    assert [result.masks.ids for result in late] == [()] * 6 + [(4,)] * 6


def test_an_object_that_is_forgotten_is_gone_from_that_frame_on_and_may_begin_anew() -> None:
    prompts = [
        FramePrompt(0, MaskPrompt(square(0), 1)),
        FramePrompt(2, MaskPrompt(square(2), 4)),
        FramePrompt(5, Forget(4)),
        FramePrompt(8, Forget(1)),
        FramePrompt(8, MaskPrompt(square(8), 1)),
        TimedPrompt(MaskPrompt(square(10), 4), 10),
    ]
    found = [result.masks.ids for result in track(Clip(missing=(5,)), prompts, tracker="copy")]
    assert found == [(1,)] * 2 + [(1, 4)] * 3 + [(1,)] * 4 + [(1, 4)] * 2


def test_a_smaller_working_image_gives_masks_at_source_size() -> None:
    witness = Witness()
    results = list(track(Clip(), PointPrompt(31.5, 23.5), tracker=witness, max_side=32))
    assert set(witness.images) == {(24, 32)}
    assert witness.prompts[0] == (PointPrompt(15.5, 11.5),)
    for result in results:
        assert result.frame.image.shape == (HEIGHT, WIDTH, 3)
        assert (result.masks.labels == np.repeat([1, 0], HEIGHT // 2)[:, None]).all()


def test_a_gap_is_left_out_and_nothing_slips() -> None:
    clip = Clip(missing=(3, 4, 11))
    results = list(track(clip, mask=square(0).astype(np.int64) * 300, tracker="copy"))
    assert [result.frame.index for result in results] == [0, 1, 2, 5, 6, 7, 8, 9, 10]
    assert clip.gaps == (3, 4, 11)
    assert results[0].masks.ids == (300,)
    assert results[0].masks.labels.dtype == np.uint16


def test_several_mask_files_with_ids_and_frames(tmp_path: Path) -> None:
    one, two = write_mask(tmp_path / "one.png"), write_mask(tmp_path / "two.png", 8)
    masks = [parse_mask(f"{one}#7"), parse_mask(f"{two}@8#9")]
    results = list(track(Clip(), mask=masks, tracker="copy"))
    assert results[0].masks.ids == (7,)
    assert results[8].masks.ids == (7, 9)
    assert (results[8].masks.mask(9) == square(8)).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({}, PromptError, "nothing says what to follow"),
        ({"prompts": PointPrompt(99, 1)}, PromptError, "outside the image of 64x48"),
        ({"prompts": FramePrompt(99, PointPrompt(1, 1))}, PromptError, "past the end"),
        ({"prompts": FramePrompt(3, PointPrompt(1, 1))}, PromptError, "frame 3 of a prompt cannot be decoded"),
        ({"mask": np.zeros((HEIGHT, WIDTH), np.uint8)}, MaskError, "empty"),
        ({"mask": np.ones((9, 9), bool)}, MaskError, "the mask of object 1 is 9x9, the video 64x48"),
        ({"mask": np.full((HEIGHT, WIDTH), -1)}, MaskError, "0..65535"),
        ({"mask": np.ones((HEIGHT, WIDTH))}, MaskError, "bool or integers"),
        ({"prompts": PointPrompt(1, 1), "start": 12}, InputError, "start 12 is past the end"),
        ({"prompts": PointPrompt(1, 1), "start": 5, "end": 5}, InputError, "start 5 with end 5 leaves no frame"),
        ({"prompts": PointPrompt(1, 1), "stride": 0}, InputError, "stride 0"),
        ({"prompts": PointPrompt(1, 1), "max_side": 3}, InputError, "max_side 3"),
        ({"prompts": PointPrompt(1, 1), "threads": 0}, InputError, "0 threads"),
        ({"prompts": PointPrompt(1, 1), "tracker": "magic"}, InputError, "no tracker 'magic'; use one of propagate"),
        ({"prompts": PointPrompt(1, 1), "tracker": "propagate", "device": "tpu"}, DeviceError, "'tpu' is unknown"),
    ],
)
def test_everything_is_checked_at_once(kwargs: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        track(Clip(missing=(3,)), **{"tracker": "copy", **kwargs})  # not iterated


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceError, match=f"'{absent}' was asked for and is not there"):
        track(Clip(), PointPrompt(1, 1), device=absent)


def test_a_fault_of_the_reader_arrives_after_the_frames_before_it() -> None:
    results = track(Clip(broken={4: VideoError("the file ended")}), PointPrompt(3, 20), tracker=Witness())
    assert [next(results).frame.index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(VideoError, match="the file ended"):
        next(results)
    assert no_threads_left()


def test_no_decodable_frame_is_an_error() -> None:
    clip = Clip(4)
    results = track(clip, PointPrompt(3, 20), tracker=Witness())
    clip.missing = (0, 1, 2, 3)
    with pytest.raises(VideoError, match=r"none of the frames 0\.\.3 of clip.mp4 can be decoded"):
        list(results)


def test_a_caller_who_stops_leaves_no_thread_behind() -> None:
    clip = Clip(500)
    results = track(clip, PointPrompt(3, 20), tracker=Witness())
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert no_threads_left()
    assert not clip.closed  # the caller opened it


def test_memory_does_not_grow_with_length() -> None:
    def peak(frames: int) -> int:
        tracemalloc.start()
        for _ in track(Clip(frames), PointPrompt(3, 20), tracker=Witness(), stride=1):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(20)  # what is made once
    assert peak(600) < peak(100) + 100_000  # 500 more frames are 4.6 MB


# ---- the folder


def test_the_folder_holds_masks_lines_and_the_record(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    clip, mask = write_clip(tmp_path / "clip.mp4"), write_mask(tmp_path / "clip.png")
    summary = track_to_folder(
        clip, tmp_path / "out", mask=mask, options=TrackOptions(tracker="copy", start=2, stride=3), save={"masks"},
        on_progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert (summary.state, summary.frames, summary.gaps) == ("done", 4, ())
    assert summary.objects[0].frames_seen == 4
    assert summary.objects[0].last_seen == 11
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == [
        f"{i:05d}.png" for i in (2, 5, 8, 11)
    ]
    assert (vos.read_labels(tmp_path / "out" / "masks" / "00005.png") == square(0)).all()
    assert [record.frame for record in read_frames(tmp_path / "out")] == [2, 5, 8, 11]
    run = read_run(tmp_path / "out")
    assert (run.state, run.tracked, run.ids, run.frames_done) == ("done", (2, 12, 3), (1,), 4)
    assert [item.role for item in run.inputs] == ["video", "mask"]
    assert run.options["tracker"] == "copy"
    json.loads((tmp_path / "out" / "run.json").read_text())
    assert no_threads_left()


def test_gaps_are_named_and_have_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"hashed only")
    monkeypatch.chdir(tmp_path)
    summary = track_to_folder(Clip(missing=(3, 4)), "out", mask=square(0), options=COPY, save={"masks"})
    assert summary.gaps == (3, 4)
    assert summary.warnings == ("2 frames cannot be decoded",)
    assert read_run(tmp_path / "out").gaps == (3, 4)
    assert not (tmp_path / "out" / "masks" / "00003.png").exists()
    assert (tmp_path / "out" / "masks" / "00005.png").exists()


def test_a_finished_folder_is_refused_and_replaced_when_asked(tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4"), tmp_path / "out"
    track_to_folder(clip, out, mask=square(0), options=COPY, save={"masks"})
    with pytest.raises(OutputError, match="--overwrite"):
        track_to_folder(clip, out, mask=square(0), options=COPY, save={"masks"})
    again = TrackOptions(tracker="copy", end=5)
    assert track_to_folder(clip, out, mask=square(0), options=again, save={"masks"}, overwrite=True).frames == 5
    assert len(list((out / "masks").glob("*.png"))) == 5


def test_stopping_finishes_the_frame_and_keeps_what_is_done(tmp_path: Path) -> None:
    stop = threading.Event()

    def after_four(done: int, total: int) -> None:
        if done == 4:
            stop.set()

    clip = write_clip(tmp_path / "clip.mp4", 40)
    summary = track_to_folder(clip, tmp_path / "out", mask=square(0), options=COPY, on_progress=after_four, stop=stop)
    assert (summary.state, summary.frames) == ("interrupted", 4)
    assert read_run(tmp_path / "out").state == "interrupted"
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 4
    assert no_threads_left()
    track_to_folder(clip, tmp_path / "out", mask=square(0), options=COPY, save={"masks"})  # an unfinished run gives way


def test_a_stop_on_the_last_frame_comes_too_late_to_interrupt(tmp_path: Path) -> None:
    stop = threading.Event()
    clip = write_clip(tmp_path / "clip.mp4", 3)
    summary = track_to_folder(
        clip, tmp_path / "out", mask=square(0), options=COPY, save={"masks"}, stop=stop,
        on_progress=lambda done, total: stop.set() if done == total else None,
    )  # fmt: skip
    assert summary.state == "done"


def test_a_stop_while_rendering_leaves_the_masks_done(tmp_path: Path) -> None:
    stop = threading.Event()
    clip = write_clip(tmp_path / "clip.mp4")
    summary = track_to_folder(
        clip, tmp_path / "out", mask=square(0), options=COPY, stop=stop,
        on_render=lambda done, total: stop.set() if done == 3 else None,
    )  # fmt: skip
    assert summary.state == "interrupted"
    assert "vos render" in summary.warnings[-1]
    assert read_run(tmp_path / "out").state == "done"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["frames.jsonl", "masks", "run.json"]
    assert no_threads_left()


def test_a_fault_of_rendering_says_that_the_masks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("no room")

    monkeypatch.setattr("vos.to_folder.render", full)
    with pytest.raises(DiskFullError, match="no room") as caught:
        track_to_folder(write_clip(tmp_path / "clip.mp4"), tmp_path / "out", mask=square(0), options=COPY)
    assert "the masks are whole" in caught.value.__notes__[0]
    assert read_run(tmp_path / "out").state == "done"


def test_a_fault_of_the_reader_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"hashed only")
    monkeypatch.chdir(tmp_path)
    clip = Clip(broken={6: VideoError("the disk is gone")})
    with pytest.raises(VideoError, match="the disk is gone"):
        track_to_folder(clip, "out", mask=square(0), options=COPY)
    run = read_run(tmp_path / "out")
    assert (run.state, run.error, run.frames_done) == ("interrupted", "the disk is gone", 6)
    assert no_threads_left()


def test_a_fault_of_the_tracker_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CopyTracker.step

    def failing(self: CopyTracker, image: Image, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        failing.calls += 1  # type: ignore[attr-defined]
        if failing.calls == 5:  # type: ignore[attr-defined]
            raise RuntimeError("a bug")
        return step(self, image, prompts)

    failing.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(CopyTracker, "step", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        track_to_folder(write_clip(tmp_path / "clip.mp4"), tmp_path / "out", mask=square(0), options=COPY)
    assert read_run(tmp_path / "out").frames_done == 4
    assert no_threads_left()


def test_a_fault_of_the_writer_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = ResultFolder.add

    def failing(self: ResultFolder, result: vos.FrameResult) -> object:
        if result.frame.index == 3:
            raise DiskFullError("no room")
        return add(self, result)

    monkeypatch.setattr(ResultFolder, "add", failing)
    with pytest.raises(DiskFullError, match="no room"):
        track_to_folder(write_clip(tmp_path / "clip.mp4", 60), tmp_path / "out", mask=square(0), options=COPY)
    run = read_run(tmp_path / "out")
    assert (run.state, run.frames_done) == ("interrupted", 3)
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
    ]
    assert no_threads_left()


def test_nothing_is_written_before_everything_is_checked(tmp_path: Path) -> None:
    with pytest.raises(PromptError):
        track_to_folder(write_clip(tmp_path / "clip.mp4"), tmp_path / "out", PointPrompt(500, 1), options=COPY)
    options = TrackOptions(device="tpu")
    with pytest.raises(DeviceError):
        track_to_folder(tmp_path / "clip.mp4", tmp_path / "out", PointPrompt(5, 1), options=options)
    assert not (tmp_path / "out").exists()


def test_the_fakes_are_what_they_stand_for() -> None:
    assert isinstance(Clip(), vos.VideoSource)
    assert isinstance(Witness(), Tracker)


def test_only_what_there_is_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gold cannot be saved; choose from contact, masks, overlay"):
        track_to_folder("none.mp4", tmp_path / "out", save={"masks", "gold"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracker", ["copy", "flow"])
def test_threads_without_a_network_load_no_torch(tmp_path: Path, tracker: str) -> None:
    code = (
        "import sys; from vos.pipeline import TrackOptions, make_tracker, settle\n"
        f"make_tracker(settle(TrackOptions(tracker={tracker!r}, threads=1))); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
