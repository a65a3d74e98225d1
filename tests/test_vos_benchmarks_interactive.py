"""The interactive benchmark: the ends of its scale, what predictors are told, seeds, void, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from tiny_seem import tiny_seem

from seem_core.errors import DatasetError, InputError, MaskError, PromptError
from seem_core.prompts import BoxPrompt, PointPrompt, Prompt, ScribblePrompt
from seem_core.segmenter import SeemFeatures, SeemSegmenter
from seem_core.training.strokes import MarkKind
from vos.benchmarks.first_marks import first_mark, strokes_of
from vos.benchmarks.interactive import run_interactive
from vos.benchmarks.predictors import (
    Answer,
    EmptyPredictor,
    GrabCutPredictor,
    Mask,
    OraclePredictor,
    Predictor,
    SegmenterPredictor,
    build_predictor,
)
from vos.benchmarks.stills import list_objects
from vos.label_files import write_labels

H, W = 60, 80


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.ogrid[:H, :W]
    inside: Mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def write_still(root: Path, name: str, labels: np.ndarray) -> None:
    """A picture with a colour per id, and its label map."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    colours = np.array([[40, 60, 40], [200, 40, 40], [40, 40, 220]], np.uint8)
    Image.fromarray(colours[np.minimum(labels, 2)]).save(root / f"images/{name}.png")
    write_labels(root / f"masks/{name}.png", labels)


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Two pictures: one with two objects, one with one; a list of the objects beside the folder."""
    labels = np.zeros((H, W), np.uint8)
    labels[disc(20, 30, 13)], labels[disc(58, 30, 12)] = 1, 2
    write_still(tmp_path / "set", "a", labels)
    write_still(tmp_path / "set", "b", disc(40, 30, 15).astype(np.uint8))
    (tmp_path / "list.txt").write_text("set/a 2\nset/b 1\n\nset/a 1\n")
    return tmp_path


class Recorder(EmptyPredictor):
    """Answers with nothing, or with given masks, and keeps what it was told."""

    def __init__(self, *masks: Mask) -> None:
        self.masks = list(masks)
        self.begun = 0
        self.told: list[list[Prompt]] = []
        self.previous: list[Answer | None] = []

    def begin(self, image: np.ndarray) -> None:
        super().begin(image)
        self.begun += 1

    def predict(self, prompts: Sequence[Prompt], previous: Answer | None) -> Answer:
        self.told.append(list(prompts))
        self.previous.append(previous)
        return Answer(self.masks.pop(0)) if self.masks else super().predict(prompts, previous)


@pytest.mark.parametrize("kind", MarkKind)
def test_the_ends_of_the_scale(stills: Path, kind: MarkKind) -> None:
    objects = list_objects(stills / "set")
    best = run_interactive(objects, OraclePredictor(), kind)
    assert (best.ious == 1).all()
    assert set(best.scores.clicks.values()) == {1.0}
    assert best.predictions == 3  # one each: nothing is left to correct
    worst = run_interactive(objects, EmptyPredictor(), kind, rounds=7)
    assert (worst.ious == 0).all()
    assert set(worst.scores.clicks.values()) == {7.0}
    assert set(worst.scores.failures.values()) == {3}


@pytest.mark.parametrize("kind", MarkKind)
def test_grabcut_finds_a_plain_colour(tmp_path: Path, kind: MarkKind) -> None:
    """On a picture of usual size: strokes are read a few pixels wider than they are."""
    write_still(tmp_path, "c", disc(40, 30, 17).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8))
    run = run_interactive(list_objects(tmp_path), GrabCutPredictor(), kind, rounds=3)
    assert run.scores.per_round[-1] > 0.75
    assert run.predictor == "grabcut"


def test_a_picture_is_begun_once_and_objects_keep_their_order(stills: Path) -> None:
    recorder = Recorder()
    run = run_interactive(list_objects(stills / "list.txt"), recorder, MarkKind.POINT, rounds=2)
    assert recorder.begun == 2
    assert [item.label for item in run.objects] == ["set/a 2", "set/b 1", "set/a 1"]


def test_prompts_add_up_and_answers_come_back(stills: Path) -> None:
    """A disc that is answered too small, then too large: a positive click in the rim, then a negative one outside."""
    recorder = Recorder(disc(40, 30, 9), disc(40, 30, 24))
    [item] = [item for item in list_objects(stills / "set") if item.name == "b"]
    run_interactive([item], recorder, MarkKind.BOX, rounds=3)
    box, positive, negative = recorder.told[2]
    assert box == BoxPrompt(25, 15, 55, 45)
    assert isinstance(positive, PointPrompt)
    assert isinstance(negative, PointPrompt)
    assert (positive.positive, negative.positive) == (True, False)
    assert (disc(40, 30, 15) & ~disc(40, 30, 9))[int(positive.y), int(positive.x)]
    assert (disc(40, 30, 24) & ~disc(40, 30, 15))[int(negative.y), int(negative.x)]
    assert recorder.previous[0] is None
    assert [a.mask.sum() for a in recorder.previous[1:] if a] == [disc(40, 30, 9).sum(), disc(40, 30, 24).sum()]


def test_rounds_after_the_last_click_repeat_its_iou(stills: Path) -> None:
    recorder = Recorder(np.zeros((H, W), bool), disc(40, 30, 14.9))
    [item] = [item for item in list_objects(stills / "set") if item.name == "b"]
    run = run_interactive([item], recorder, MarkKind.POINT, rounds=6)
    assert len(recorder.told) == 2
    assert run.ious[0, 0] == 0
    assert 0.925 <= run.ious[0, 1] < 1
    assert (run.ious[0, 1:] == run.ious[0, 1]).all()


@pytest.mark.parametrize("kind", [MarkKind.SCRIBBLE, MarkKind.POLYGON, MarkKind.CIRCLE])
def test_marks_depend_on_the_seed_and_not_on_the_company(stills: Path, kind: MarkKind) -> None:
    objects = list_objects(stills / "list.txt")
    together, alone, other = Recorder(), Recorder(), Recorder()
    run_interactive(objects, together, kind, rounds=1)
    run_interactive(objects[2:], alone, kind, rounds=1)
    run_interactive(objects[2:], other, kind, rounds=1, seed=1)
    assert alone.told[0] in together.told
    assert alone.told != other.told


def test_void_counts_neither_way(tmp_path: Path) -> None:
    labels = np.zeros((H, W), np.uint8)
    labels[disc(40, 30, 20)], labels[disc(40, 30, 15)] = 255, 1
    write_still(tmp_path, "c", labels)
    objects = list_objects(tmp_path)
    assert [item.object_id for item in objects] == [1]
    assert run_interactive(objects, Recorder(disc(40, 30, 20)), MarkKind.POINT, rounds=1).ious.tolist() == [[1.0]]


def test_a_mask_of_0_and_255_is_one_object(tmp_path: Path) -> None:
    write_still(tmp_path, "c", disc(40, 30, 15).astype(np.uint8) * 255)
    objects = list_objects(tmp_path)
    assert [item.object_id for item in objects] == [255]
    assert run_interactive(objects, OraclePredictor(), MarkKind.BOX, rounds=1).scores.first_iou == 1


def test_small_objects_are_left_out_and_named(tmp_path: Path) -> None:
    labels = disc(40, 30, 15).astype(np.uint8)
    labels[2:4, 2:5] = 2
    write_still(tmp_path, "c", labels)
    run = run_interactive(list_objects(tmp_path), OraclePredictor(), MarkKind.POINT, rounds=1)
    assert [item.label for item in run.left_out] == ["c 2"]
    assert run.ious.shape == (1, 1)
    with pytest.raises(DatasetError, match="fewer than 10 pixels"):
        run_interactive(run.left_out, OraclePredictor(), MarkKind.POINT)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_strokes_cover_the_marks_exactly(marks: Mask) -> None:
    drawn = np.zeros_like(marks)
    for stroke in strokes_of(marks):
        assert isinstance(stroke, ScribblePrompt)
        (x0, y), (x1, _) = stroke.points[0], stroke.points[-1]
        assert not drawn[int(y), int(x0) : int(x1) + 1].any()
        drawn[int(y), int(x0) : int(x1) + 1] = True
    assert np.array_equal(drawn, marks)


@given(st.sampled_from(MarkKind), st.floats(4, 70), st.floats(4, 50), st.floats(2, 30), st.integers(0, 5))
def test_first_marks_lie_on_the_object(kind: MarkKind, x: float, y: float, radius: float, seed: int) -> None:
    truth = disc(x, y, radius)
    prompts, marks = first_mark(truth, kind, np.random.default_rng(seed))
    assert prompts
    assert not marks.negative.any()
    if kind is MarkKind.BOX:
        assert not marks.positive.any()
    elif kind is not MarkKind.POINT:  # a click's square may stick out
        assert not (marks.positive & ~truth).any()


def test_seem_encodes_once_and_reads_its_own_mask(stills: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = SeemSegmenter(tiny_seem("v0"))
    encoded, read = [], []
    encode, segment = segmenter.encode, segmenter.segment

    def count(image: torch.Tensor) -> SeemFeatures:
        encoded.append(image.shape)
        return encode(image)

    def see(features: SeemFeatures, prompts: Sequence[Prompt], previous: object = None) -> object:
        answer = segment(features, prompts, previous)  # type: ignore[arg-type]
        read.append((previous, answer))
        return answer

    monkeypatch.setattr(segmenter, "encode", count)
    monkeypatch.setattr(segmenter, "segment", see)
    objects = list_objects(stills / "set", 2)
    run_interactive(objects, SegmenterPredictor(segmenter), MarkKind.SCRIBBLE, rounds=2)
    assert encoded == [(3, H, W)]
    assert [previous for previous, _ in read] == [None, read[0][1], None, read[2][1]]


def test_seem_without_memory_prompts(stills: Path) -> None:
    predictor: Predictor = SegmenterPredictor(SeemSegmenter(tiny_seem("demo")), reads_previous=False)
    assert run_interactive(list_objects(stills / "set", 1), predictor, MarkKind.POINT, rounds=3).ious.shape == (1, 3)


def test_marks_that_take_back_everything_leave_the_answer(stills: Path) -> None:
    predictor = SegmenterPredictor(SeemSegmenter(tiny_seem("v0")))
    predictor.begin(np.zeros((H, W, 3), np.uint8))
    first = predictor.predict([PointPrompt(30, 30)], None)
    both = [PointPrompt(30, 30), PointPrompt(30, 30, positive=False)]
    assert predictor.predict(both, first) is first
    with pytest.raises(PromptError):
        predictor.predict(both, None)


def test_what_cannot_be_used_is_named(stills: Path) -> None:
    for text, words in (
        ("set/a\n", "line 1 of .* not FOLDER/NAME ID"),
        ("set/a 1\nset/a 0\n", "line 2"),
        ("set/zebra 1", "no picture 'zebra'"),
        ("other/a 1", "lacks a folder images or masks"),
        ("\n", "names no object"),
    ):
        (stills / "bad.txt").write_text(text)
        with pytest.raises(DatasetError, match=words):
            list_objects(stills / "bad.txt")
    with pytest.raises(DatasetError, match="no folder or list file"):
        list_objects(stills / "nothing.txt")
    (stills / "bad.txt").write_text("set/b 4")
    with pytest.raises(DatasetError, match="no object 4"):
        run_interactive(list_objects(stills / "bad.txt"), EmptyPredictor(), MarkKind.POINT)
    with pytest.raises(InputError, match="at least one round"):
        run_interactive(list_objects(stills / "set"), EmptyPredictor(), MarkKind.POINT, rounds=0)
    write_labels(stills / "set/masks/b.png", np.ones((4, 5), np.uint8))
    with pytest.raises(MaskError, match=r"is 5x4, its picture .* 80x60"):
        run_interactive(list_objects(stills / "set"), EmptyPredictor(), MarkKind.POINT, rounds=1)


def test_predictors_by_name() -> None:
    for name in ("grabcut", "oracle", "empty"):
        predictor, warnings = build_predictor(name)
        assert (predictor.name, warnings) == (name, ())


def test_the_held_back_stills_are_all_there(data_root: Path) -> None:
    objects = list_objects(data_root / "still/heldback.txt")
    assert len(objects) == len(set(objects)) == 200
    assert run_interactive(objects[:5], OraclePredictor(), MarkKind.CIRCLE).scores.clicks[0.9] == 1
