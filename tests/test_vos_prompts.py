"""Prompts: the written form there and back, which frame a moment means, and what is refused before the first frame."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from vos.frames import Frame, VideoInfo
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.prompt_text import (
    parse_box,
    parse_forget,
    parse_mask,
    parse_point,
    parse_polygon,
    parse_prompts,
    parse_references,
    parse_scribble,
    parse_when,
    parse_words,
)
from vos.prompts import Forget, FramePrompt, Origin, Seconds, TimedPrompt, mask_prompts, place


class Clip:
    """A source of 100 frames of 64x48 at uneven times; nothing is ever decoded."""

    info = VideoInfo(Path("clip.mp4"), 48, 64, Fraction(10), 100, 100, 0, False, "h264")
    gaps: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 100

    def seconds(self, index: int) -> float:
        return index * 0.1 if index < 50 else 5.0 + (index - 50) * 0.2

    def __getitem__(self, index: int) -> Frame:
        raise AssertionError("nothing is decoded to place a prompt")

    def __iter__(self) -> Iterator[Frame]:
        raise AssertionError("nothing is decoded to place a prompt")

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        raise AssertionError("nothing is decoded to place a prompt")

    def close(self) -> None: ...


CLIP, ALL = Clip(), range(100)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
moments = st.one_of(st.none(), st.integers(0, 10**9), st.floats(0, 1e9, allow_nan=False).map(Seconds))
ids = st.integers(1, 65535)


def written(*numbers: float, sign: str = "", when: int | Seconds | None, i: int) -> str:
    moment = "" if when is None else f"@{when.seconds!r}s" if isinstance(when, Seconds) else f"@{when}"
    return f"{','.join(map(repr, numbers))}{sign}{moment}#{i}"


@given(numbers, numbers, st.booleans(), ids, moments)
def test_a_point_is_read_as_it_was_written(
    x: float, y: float, positive: bool, i: int, when: int | Seconds | None
) -> None:
    text = written(x, y, sign=":+" if positive else ":-", when=when, i=i)
    assert parse_point(text) == TimedPrompt(PointPrompt(x, y, positive, i), when)


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers), ids, moments)
def test_a_box_is_read_as_it_was_written(
    xs: tuple[float, float], ys: tuple[float, float], i: int, when: int | Seconds | None
) -> None:
    (x0, x1), (y0, y1) = sorted(xs), sorted(ys)
    if x0 == x1 or y0 == y1:
        return
    text = written(x0, y0, x1, y1, when=when, i=i)
    assert parse_box(text) == TimedPrompt(BoxPrompt(x0, y0, x1, y1, i), when)


def test_the_forms_of_the_help() -> None:
    assert parse_point("148,170") == TimedPrompt(PointPrompt(148, 170))
    assert parse_point("148,170:-@40#2") == TimedPrompt(PointPrompt(148, 170, False, 2), 40)
    assert parse_point(" 1.5,2:+@1.5s ") == TimedPrompt(PointPrompt(1.5, 2), Seconds(1.5))
    assert parse_box("1,2,3,4@7#3") == TimedPrompt(BoxPrompt(1, 2, 3, 4, 3), 7)
    assert parse_when("12") == 12
    assert parse_when("0") == 0
    assert parse_when("2s") == Seconds(2)
    assert parse_mask("a@b/cat.png@40") == MaskFile(Path("a@b/cat.png"), 40)
    assert parse_mask("cat.png@0.5s#4") == MaskFile(Path("cat.png"), Seconds(0.5), 4)
    assert parse_mask("cat@2x.png") == MaskFile(Path("cat@2x.png"))


def test_the_other_forms_of_the_help() -> None:
    assert parse_scribble("1,2,3,4:-@7#3", 5) == TimedPrompt(ScribblePrompt(((1, 2), (3, 4)), 5, False, 3), 7)
    assert parse_polygon("1,2,3,4,5,7@2s") == TimedPrompt(PolygonPrompt(((1, 2), (3, 4), (5, 7))), Seconds(2))
    assert parse_words("the cat @ the door@40#2") == TimedPrompt(TextPrompt("the cat @ the door", 2), 40)
    assert parse_words("a cat") == TimedPrompt(TextPrompt("a cat"))
    assert parse_forget("2@90") == parse_forget("#2@90") == TimedPrompt(Forget(2), 90)
    assert parse_forget("65535@1.5s") == TimedPrompt(Forget(65535), Seconds(1.5))
    references = parse_references(["cat.jpg", "clip.mp4@12", "clip.mp4@2s"], ["cat.png", "a.png#3", "b.png"])
    assert references == (
        ReferenceFile(Path("cat.jpg"), Path("cat.png")),
        ReferenceFile(Path("clip.mp4"), Path("a.png"), 12, None, 3),
        ReferenceFile(Path("clip.mp4"), Path("b.png"), Seconds(2)),
    )
    assert parse_prompts(points=["1,1"], forgets=["1@5"], texts=["cat"], scribbles=["1,1"], width=4) == (
        TimedPrompt(PointPrompt(1, 1)),
        TimedPrompt(ScribblePrompt(((1, 1),), 4)),
        TimedPrompt(TextPrompt("cat")),
        TimedPrompt(Forget(1), 5),
    )


def test_what_has_no_other_form_is_refused() -> None:
    for text in ("", "2", "2@", "@4", "cat@4", "2@4#2"):
        with pytest.raises(PromptError, match="is not the end of an object; write ID@FRAME"):
            parse_forget(text)
    with pytest.raises(PromptError, match="0 is the background"):
        parse_forget("0@5")
    for pictures, masks, words in (
        (["a.jpg"], [], "1 --reference and 0 --reference-mask were given; give one mask for each"),
        (["a.jpg#2"], ["a.png"], "#2 after a.jpg says nothing; put it after its mask"),
        (["a.mp4"], ["a.png@3"], "a.png is a mask on a.mp4; put @ after that"),
    ):
        with pytest.raises(PromptError, match=words):
            parse_references(pictures, masks)


def test_a_mask_whose_whole_name_is_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "cat@3"
    file.touch()
    assert parse_mask(str(file)) == MaskFile(file)


@pytest.mark.parametrize(
    "text", ["", "1", "1,2,3", "a,b", "1,2:x", "1,2@", "1,2@-1", "1,2@1.5", "1,2#", "1,2#1@3", "nan,2"]
)
def test_what_is_not_a_point_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="is not a point; write x,y"):
        parse_point(text)


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3", "1,2,3,4:+", "1,2,3,4@x", "1,2,3,4,5"])
def test_what_is_not_a_box_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="is not a box; write x0,y0,x1,y1"):
        parse_box(text)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(PromptError, match="is empty; give x0,y0,x1,y1"):
        parse_box("5,5,1,9")
    with pytest.raises(PromptError, match="0 is the background"):
        parse_point("5,5#0")
    with pytest.raises(PromptError, match=r"outside 1\.\.65535"):
        parse_point("5,5#70000")
    with pytest.raises(PromptError, match="not a frame number"):
        parse_when("soon")


def at(prompt: Prompt, when: int | Seconds | None = None, tracked: range = ALL) -> int:
    (placed,) = place([TimedPrompt(prompt, when)], CLIP, tracked)
    return placed.frame


def test_a_moment_means_the_tracked_frame_on_screen_then() -> None:
    point = PointPrompt(1, 1)
    assert at(point) == 0
    assert at(point, tracked=range(30, 90, 7)) == 30
    assert at(point, 37, range(30, 90, 7)) == 37
    assert at(point, Seconds(0.0)) == 0
    assert at(point, Seconds(1.0)) == 10
    assert at(point, Seconds(1.09)) == 10
    assert at(point, Seconds(5.3)) == 51  # uneven times: not 53
    assert at(point, Seconds(1.0), range(0, 100, 4)) == 8


@given(st.integers(0, 99), st.integers(1, 100), st.integers(1, 30), st.floats(0, 20))
def test_any_moment_inside_the_tracked_part_gives_a_tracked_frame(
    start: int, length: int, step: int, seconds: float
) -> None:
    tracked = ALL[start : start + length : step]
    try:
        frame = at(PointPrompt(1, 1), Seconds(seconds), tracked)
    except PromptError:
        assert seconds < CLIP.seconds(tracked[0]) or seconds > CLIP.seconds(tracked[-1])
    else:
        assert frame in tracked
        assert CLIP.seconds(frame) <= seconds + 1e-6
        assert frame == tracked[-1] or CLIP.seconds(frame + step) > seconds


@pytest.mark.parametrize(
    ("prompt", "when", "tracked", "words"),
    [
        (PointPrompt(64, 10), None, ALL, "point 64,10 lies outside the image of 64x48; x goes from 0 to 63"),
        (PointPrompt(3, -1), None, ALL, "point 3,-1 lies outside"),
        (ScribblePrompt(((1, 1), (3, 99))), None, ALL, "scribble 3,99 lies outside"),
        (BoxPrompt(10, 10, 80, 20), None, ALL, "box 10,10,80,20 reaches outside the image of 64x48"),
        (PointPrompt(1, 1), 100, ALL, "frame 100 of a prompt is past the end; the video has frames 0..99"),
        (PointPrompt(1, 1), 5, range(10, 50), r"frame 5 of a prompt is not among the tracked frames 10\.\.49"),
        (PointPrompt(1, 1), 11, range(10, 50, 2), r"not among the tracked frames 10\.\.48 in steps of 2"),
        (PointPrompt(1, 1), Seconds(99), ALL, r"99s is outside the tracked part of the video, 0\.00s to 14\.80s"),
        (MaskPrompt(np.zeros((48, 64), bool), 3), None, ALL, "the mask of object 3 is empty"),
        (ReferencePrompt(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool), 3), None, ALL, "3 on its reference"),
        (PointPrompt(1, 1, False, 4), None, ALL, "object 4 begins on frame 0 with marks of what it is not"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_a_sentence(
    prompt: Prompt, when: int | Seconds | None, tracked: range, words: str
) -> None:
    with pytest.raises(PromptError, match=words):
        at(prompt, when, tracked)


def test_a_mask_of_another_size_and_no_prompt_are_refused() -> None:
    with pytest.raises(MaskError, match="the mask of object 1 is 10x20, the video 64x48"):
        at(MaskPrompt(np.ones((20, 10), bool)))
    with pytest.raises(PromptError, match="nothing says what to follow"):
        place([], CLIP, ALL)
    with pytest.raises(MaskError, match="empty"):
        mask_prompts(np.zeros((48, 64), np.uint8))


def test_one_object_may_not_have_two_masks_on_a_frame() -> None:
    mask = MaskPrompt(np.ones((48, 64), bool), 2)
    with pytest.raises(PromptError, match="object 2 has two masks on frame 0"):
        place([mask, mask], CLIP, ALL)
    assert len(place([FramePrompt(0, mask), FramePrompt(5, mask)], CLIP, ALL)) == 2


def test_prompts_are_ordered_by_frame_and_then_as_given() -> None:
    first, second, late = PointPrompt(5, 5), PointPrompt(1, 1, False), PointPrompt(9, 9, True, 2)
    placed = place([FramePrompt(7, late), first, TimedPrompt(second, 0)], CLIP, ALL)
    assert placed == (FramePrompt(0, first), FramePrompt(0, second), FramePrompt(7, late))


def test_an_object_ends_before_it_may_begin_anew() -> None:
    point, beside = PointPrompt(1, 1), PointPrompt(2, 2, False)
    placed = place([FramePrompt(5, point), FramePrompt(5, Forget(1)), point], CLIP, ALL)
    assert [type(item.prompt) for item in placed] == [PointPrompt, Forget, PointPrompt]
    assert place([Forget(3), TimedPrompt(PointPrompt(1, 1, False, 2), 4)], CLIP, ALL, known=(2, 3))
    for prompts, words in (
        ([point, FramePrompt(5, Forget(2))], "object 2 ends on frame 5 without having begun"),
        ([FramePrompt(6, point), FramePrompt(5, Forget(1))], "object 1 ends on frame 5 without"),
        ([point, FramePrompt(5, Forget(1)), FramePrompt(7, Forget(1))], "object 1 ends on frame 7 without"),
        ([point, FramePrompt(5, Forget(1)), FramePrompt(5, beside)], "object 1 begins on frame 5 with marks of what"),
        ([FramePrompt(5, Forget(1))], "object 1 ends on frame 5 without"),
    ):
        with pytest.raises(PromptError, match=words):
            place(prompts, CLIP, ALL)
    with pytest.raises(PromptError, match=r"outside 1\.\.65535"):
        Forget(0)


def test_the_place_of_a_prompt_begins_the_sentence() -> None:
    origin = Origin("p.json: objects[2].prompts[0]")
    with pytest.raises(PromptError, match=r"^p\.json: objects\[2\]\.prompts\[0\]: point 99,1 lies outside"):
        place([TimedPrompt(PointPrompt(99, 1), None, origin)], CLIP, ALL)
    with pytest.raises(PromptError, match=r"^p\.json: .*object 9 ends on frame 3"):
        place([PointPrompt(1, 1), FramePrompt(3, Forget(9), origin)], CLIP, ALL)
    assert FramePrompt(3, Forget(9), origin) == FramePrompt(3, Forget(9))


def test_a_box_may_end_where_the_image_ends() -> None:
    (placed,) = place([BoxPrompt(0, 0, 64, 48)], CLIP, ALL)
    assert placed.prompt == BoxPrompt(0, 0, 63.5, 47.5)


def test_a_label_map_gives_one_mask_per_object() -> None:
    labels = np.zeros((48, 64), np.uint16)
    labels[:10], labels[20:30] = 7, 300
    prompts = mask_prompts(labels, 12)
    assert [(p.prompt.object_id, p.when) for p in prompts] == [(7, 12), (300, 12)]
    assert isinstance(prompts[1].prompt, MaskPrompt)
    assert prompts[1].prompt.mask.sum() == 640
