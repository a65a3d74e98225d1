"""Backward and both ways: what the tracker is shown and told, in which order results come, and what is left behind."""

from __future__ import annotations

import tempfile
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Clip, picture, square, write_clip, write_mask
from history_tracker import HistoryTracker, same
from PIL import Image

from cli.main import run
from seem_core.errors import DiskFullError, InputError, PromptError, VideoError
from seem_core.prompts import MaskPrompt, PointPrompt, Prompt, ReferencePrompt
from trackers.base import Image as Picture
from trackers.base import ObjectMasks
from vos.frames import Frame, FrameResult
from vos.mask_spool import MaskSpool
from vos.merging import Anchors, merge_passes
from vos.output import read_frames, read_run
from vos.pipeline import TrackOptions, track
from vos.prompts import Forget, FramePrompt
from vos.to_folder import track_to_folder


def shown(frame: int, object_id: int = 1, of: int | None = None) -> FramePrompt:
    return FramePrompt(frame, MaskPrompt(square(frame if of is None else of), object_id))


class Reversed(Clip):
    """The clip of the tests played backward."""

    def __getitem__(self, index: int) -> Frame:
        return Frame(index, self.seconds(index), picture(len(self) - 1 - index))


def both(clip: Clip, prompts: list[Any], **options: Any) -> list[FrameResult]:
    return list(track(clip, prompts, direction="both", **{"tracker": HistoryTracker(), **options}))


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No test leaves a temporary folder or a thread of ours behind."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vos-")]


# ---- what comes out


def test_backward_is_forward_on_the_video_played_backward() -> None:
    prompts = [shown(3), shown(7, 2), shown(9)]
    back = list(track(Clip(12), prompts, tracker=HistoryTracker(), direction="backward"))
    mirrored = [FramePrompt(11 - p.frame, p.prompt) for p in prompts]
    ahead = list(track(Reversed(12), mirrored, tracker=HistoryTracker()))
    assert [r.frame.index for r in back] == list(range(12))
    for result, other in zip(back, reversed(ahead), strict=True):
        assert (result.frame.image == other.frame.image).all()
        assert same(result.masks, other.masks)
    assert [r.masks.ids for r in back[10:]] == [(), ()]  # behind the last prompt


def test_both_merges_the_two_passes() -> None:
    prompts = [shown(3), shown(7, 2), shown(9)]
    ahead = list(track(Clip(12), prompts, tracker=HistoryTracker()))
    back = list(track(Clip(12), prompts, tracker=HistoryTracker(), direction="backward"))
    anchors = Anchors(0, 11, {1: (3, 9), 2: (7,)})
    for result, one, other in zip(both(Clip(12), prompts), ahead, back, strict=True):
        index = result.frame.index
        assert index == one.frame.index
        assert same(result.masks, merge_passes(one.masks if index >= 3 else None, other.masks, anchors, index))
        assert result.masks.ids == ((1, 2))


def test_forward_is_what_it_was() -> None:
    prompts = [shown(0), shown(7, 2)]
    said = list(track(Clip(12), prompts, tracker=HistoryTracker(), direction="forward"))
    plain = list(track(Clip(12), prompts, tracker=HistoryTracker()))
    assert all(same(a.masks, b.masks) for a, b in zip(said, plain, strict=True))


def test_with_one_prompt_on_the_first_frame_both_is_forward() -> None:
    ahead = list(track(Clip(12), mask=square(0), tracker=HistoryTracker()))
    assert all(same(a.masks, b.masks) for a, b in zip(both(Clip(12), [shown(0)]), ahead, strict=True))


def test_a_prompt_on_the_last_frame_alone_reaches_every_frame() -> None:
    for direction in ("backward", "both"):
        found = list(track(Clip(12), [shown(11)], tracker="flow", direction=direction))
        assert [r.frame.index for r in found] == list(range(12))
        for result in found:
            truth = square(result.frame.index)
            assert (result.masks.mask(1) & truth).sum() > 0.8 * truth.sum()


def test_gaps_start_end_stride_and_a_smaller_image() -> None:
    clip = Clip(40, missing=(6, 22, 25))
    prompts = [shown(10), shown(26, 5)]
    options = {"start": 2, "end": 33, "stride": 4, "max_side": 32}
    found = both(clip, prompts, **options)
    assert [r.frame.index for r in found] == [2, 10, 14, 18, 26, 30]
    assert {r.masks.labels.shape for r in found} == {(HEIGHT, WIDTH)}
    assert {r.frame.image.shape for r in found} == {(HEIGHT, WIDTH, 3)}
    ahead = list(track(clip, prompts, tracker=HistoryTracker(), **options))
    assert same(found[-1].masks, ahead[-1].masks)  # behind the last prompt there is one pass alone


def test_a_folder_of_images_keeps_its_names(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(picture(i)).save(tmp_path / f"shot{i}.png")
    found = list(track(tmp_path, [shown(5)], tracker="copy", direction="both"))
    assert [r.frame.name for r in found] == [f"shot{i}" for i in range(6)]


def test_a_rotated_video_is_upright_both_ways(data_root: Path) -> None:
    video = data_root / "videos" / "video_90.mov"
    first = next(iter(track(video, PointPrompt(5, 5), tracker="copy", end=1))).frame.image
    mask = np.zeros(first.shape[:2], np.bool_)
    mask[10:60, 20:50] = True
    found = list(track(video, FramePrompt(2, MaskPrompt(mask)), tracker="copy", direction="both"))
    assert (found[0].frame.image == first).all()
    assert all((r.masks.mask(1) == mask).all() for r in found)


# ---- what the tracker is told


class Told(HistoryTracker):
    """Answers marks with the upper or lower half, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Prompt, ...]] = []
        self.forgot: list[tuple[int, int]] = []  # steps done, object

    def step(self, image: Picture, prompts: Sequence[Prompt] = ()) -> ObjectMasks:
        self.told.append(tuple(prompts))
        half = np.zeros(image.shape[:2], np.bool_)
        half[: image.shape[0] // 2] = True
        marks = [MaskPrompt(half, p.object_id) for p in prompts if isinstance(p, PointPrompt)]
        return super().step(image, [p for p in prompts if not isinstance(p, PointPrompt)] + marks)

    def forget(self, object_id: int) -> None:
        super().forget(object_id)
        self.forgot.append((len(self.told), object_id))


def test_the_backward_pass_is_told_the_masks_that_marks_led_to() -> None:
    """Also where the marks say only what the object is not, which the backward pass alone could not use."""
    tracker = Told()
    reference = ReferencePrompt(picture(0), square(0), 9)
    prompts = [shown(0), FramePrompt(4, PointPrompt(60, 40, False)), FramePrompt(5, reference), shown(5, 2)]
    both(Clip(6), prompts, tracker=tracker)
    ahead, back = tracker.told[:6], tracker.told[6:]
    assert [len(p) for p in ahead] == [1, 0, 0, 0, 1, 2]
    assert [len(p) for p in back] == [2, 1, 0, 0, 0, 1]
    assert {type(p) for p in back[0]} == {MaskPrompt, ReferencePrompt}
    (mask,) = back[1]
    assert isinstance(mask, MaskPrompt)
    assert mask.mask[: HEIGHT // 2].all()
    assert not mask.mask[HEIGHT // 2 :].any()


def test_backward_alone_refuses_marks_of_what_is_not() -> None:
    prompts = [shown(0), FramePrompt(4, PointPrompt(60, 40, False))]
    with pytest.raises(PromptError, match="backward, object 1 begins on frame 4 with marks of what it is not"):
        track(Clip(6), prompts, tracker=HistoryTracker(), direction="backward")
    again = [shown(0), FramePrompt(4, PointPrompt(60, 40, False)), FramePrompt(5, Forget(1)), shown(5)]
    with pytest.raises(PromptError, match="begins on frame 4"):  # what comes after its end is another life
        track(Clip(6), again, tracker=HistoryTracker(), direction="backward")
    list(track(Clip(6), [*prompts, shown(5)], tracker=Told(), direction="backward"))


@pytest.mark.parametrize("missing", [(), (6,), (5,)])
def test_an_object_that_ended_has_no_masks_until_it_begins_again(missing: tuple[int, ...]) -> None:
    """Forgotten on frame 6 and shown again on frame 9: what comes before 9 reaches down to 6 and no farther."""
    prompts = [shown(2), shown(1, 2), FramePrompt(6, Forget(1)), shown(9)]
    tracker = Told()
    found = both(Clip(12, missing=missing), prompts, tracker=tracker)
    assert {r.frame.index for r in found if 1 not in r.masks.ids} == set()
    assert [i for _, i in tracker.forgot] == [1, 1]
    ended = both(Clip(12), [shown(2), shown(1, 2), FramePrompt(6, Forget(1))])
    assert [r.frame.index for r in ended if 1 in r.masks.ids] == [0, 1, 2, 3, 4, 5]
    back = list(track(Clip(12), prompts, tracker=HistoryTracker(), direction="backward"))
    plain = list(track(Clip(12), [shown(1, 2), shown(9)], tracker=HistoryTracker(), direction="backward"))
    for a, b in zip(back, plain, strict=True):
        assert same(a.masks, b.masks) == (a.frame.index >= 6)


# ---- faults, stopping, bounds


def test_a_direction_is_checked_before_the_first_frame() -> None:
    stream = Clip(5)
    stream.seekable = False  # type: ignore[attr-defined]
    with pytest.raises(VideoError, match=r"direction both reads frames again, and clip\.mp4 can be read only once"):
        track(stream, [shown(0)], tracker="copy", direction="both")
    with pytest.raises(InputError, match="there is no direction 'sideways'; use forward, backward, both"):
        track(Clip(5), [shown(0)], tracker="copy", direction="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_a_fault_of_the_reader_arrives_and_nothing_is_left(direction: Any) -> None:
    clip = Clip(12, broken={4: VideoError("the file ended")})
    with pytest.raises(VideoError, match="the file ended"):
        list(track(clip, [shown(2), shown(9)], tracker=HistoryTracker(), direction=direction))


def test_a_caller_who_stops_leaves_nothing_behind() -> None:
    results = track(Clip(30), [shown(2), shown(9)], tracker=HistoryTracker(), direction="both")
    next(results)
    results.close()  # type: ignore[attr-defined]


def test_no_decodable_frame_is_an_error() -> None:
    clip = Clip(4)
    results = track(clip, [shown(0)], tracker=HistoryTracker(), direction="both")
    clip.missing = (0, 1, 2, 3)
    with pytest.raises(VideoError, match=r"none of the frames 0\.\.3 of clip.mp4 can be decoded"):
        list(results)


def test_memory_does_not_grow_with_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vos.backwards.MAX_BYTES", 10 * HEIGHT * WIDTH * 3)
    monkeypatch.setattr("vos.backwards.backwards.__kwdefaults__", {"max_bytes": 10 * HEIGHT * WIDTH * 3})

    def peak(frames: int) -> int:
        tracemalloc.start()
        for _ in track(Clip(frames), [shown(frames - 1), shown(0)], tracker="copy", direction="both"):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(20)  # what is made once
    assert peak(400) < peak(100) + 150_000  # 300 more frames are 2.8 MB


# ---- the folder and the command line


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_the_folder_is_that_of_the_stream(tmp_path: Path, direction: Any) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    prompts = [shown(3), shown(9)]
    steps: list[tuple[int, int]] = []
    options = TrackOptions(tracker="flow", direction=direction)
    summary = track_to_folder(
        clip, tmp_path / "out", prompts, options=options, save={"masks"}, on_progress=lambda *step: steps.append(step)
    )
    assert (summary.state, summary.frames) == ("done", 12)
    assert read_run(tmp_path / "out").options["direction"] == direction
    found = list(track(clip, prompts, tracker="flow", direction=direction))
    for record, result in zip(read_frames(tmp_path / "out"), found, strict=True):
        with Image.open(tmp_path / "out" / record.mask) as mask:
            assert (np.asarray(mask) == result.masks.labels).all()
    total = 10 + 12 + (9 if direction == "both" else 0)
    assert steps == [(n + 1, total) for n in range(total)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["frames.jsonl", "masks", "run.json"]


@pytest.mark.parametrize(("stop_at", "frames", "state"), [
    (3, [2, 3, 4], "interrupted"),  # in the forward pass: what it has done
    (12, list(range(2, 12)), "interrupted"),  # in the backward pass: forward results and what it has done
    (19, list(range(1, 12)), "interrupted"),  # on the last frame but one of it
    (20, list(range(12)), "done"),  # on its last frame: everything is known
    (25, list(range(5)), "interrupted"),  # while results are written: as without directions
    (99, list(range(12)), "done"),
])  # fmt: skip
def test_a_stopped_run_keeps_what_is_known(tmp_path: Path, stop_at: int, frames: list[int], state: str) -> None:
    """Forward: 10 frames from 2 on; backward: 10 frames from 9 down; then 12 results."""
    stop = threading.Event()

    def progress(done: int, total: int) -> None:
        if done == stop_at:
            stop.set()

    summary = track_to_folder(
        write_clip(tmp_path / "clip.mp4"), tmp_path / "out", [shown(2), shown(9)], on_progress=progress, stop=stop,
        options=TrackOptions(tracker="flow", direction="both"), save={"masks"},
    )  # fmt: skip
    assert [record.frame for record in read_frames(tmp_path / "out")] == frames
    assert summary.state == state
    assert not list((tmp_path / "out").glob(".passes-*"))


def test_a_full_disk_in_a_pass_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = MaskSpool.put

    def full(self: MaskSpool, frame: int, masks: ObjectMasks, made_from: str = "") -> None:
        if frame == 5:
            raise DiskFullError("no room to write 00005.png")
        put(self, frame, masks, made_from)

    monkeypatch.setattr(MaskSpool, "put", full)
    (tmp_path / "out" / ".passes-old").mkdir(parents=True)  # of a run that was killed
    options = TrackOptions(tracker="copy", direction="both")
    with pytest.raises(DiskFullError):
        track_to_folder(write_clip(tmp_path / "clip.mp4"), tmp_path / "out", [shown(2)], options=options)
    assert read_run(tmp_path / "out").state == "interrupted"
    assert not list((tmp_path / "out").glob(".passes-*"))


def test_vos_track_takes_a_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, mask = write_clip(tmp_path / "clip.mp4"), write_mask(tmp_path / "clip.png", 11)
    arguments = ["track", str(clip), "-m", f"{mask}@11", "-o", str(tmp_path / "out"), "--save", "masks"]
    arguments += ["--tracker", "flow"]
    assert run([*arguments, "--direction", "backward"]) == 0
    assert all(record.objects[0].area > 200 for record in read_frames(tmp_path / "out"))
    assert run([*arguments, "--direction", "both", "--overwrite"]) == 0
    assert all(record.objects[0].area > 200 for record in read_frames(tmp_path / "out"))
    assert run([*arguments, "--direction", "up"]) == 2
    assert "'up' is not one of" in capsys.readouterr().err
    wrong = ["-p", "60,40:-@11", "--direction", "backward", "--overwrite"]
    assert run(["track", str(clip), "-p", "5,20", *arguments[4:], *wrong]) == 3
    assert "marks of what it is not" in capsys.readouterr().err
