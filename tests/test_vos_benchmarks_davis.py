"""`run_davis`: prompts where objects first appear, masks as the official tool takes them, honest memory, clear ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from still_trackers import build_failing, build_hungry, build_only_a, build_still
from tiny_checkpoint import write_tiny_checkpoint

from seem_core.errors import DatasetError, InputError, LimitError, MissingExtraError, OutputError, PromptError
from seem_core.prompts import BoxPrompt, MaskPrompt, PointPrompt, ScribblePrompt
from vos.benchmarks.davis import run_davis
from vos.benchmarks.davis_prompts import PromptChoice, first_masks
from vos.benchmarks.isolated import peak_memory
from vos.benchmarks.layouts import open_layout
from vos.benchmarks.official import compare_official
from vos.benchmarks.scoring import score_predictions
from vos.benchmarks.sequence_tracking import Named
from vos.masks import DAVIS_PALETTE, read_labels, write_labels

H, W, FRAMES = 20, 30, 6


def labels_with(*ids: int) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    for n, object_id in enumerate(ids):
        labels[2:7, 1 + 7 * n : 6 + 7 * n] = object_id
    return labels


def dataset(root: Path, sequences: dict[str, dict[int, np.ndarray]], frames: int = FRAMES) -> Path:
    for name, masks in sequences.items():
        images, annotations = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for i in range(frames):
            Image.new("RGB", (W, H), (i, 40, 90)).save(images / f"{i:05d}.jpg")
        for i, labels in masks.items():
            write_labels(annotations / f"{i:05d}.png", labels)
    lists = root / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(sequences))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    still = {i: labels_with(1, 3) for i in range(FRAMES)}
    late = {0: labels_with(1), 2: labels_with(1, 2, 255), 4: labels_with(1, 2)}
    return dataset(tmp_path / "davis", {"still": still, "late": late})


def test_masks_scores_and_figures(root: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    layout = open_layout(root)
    runs = run_davis(
        layout, layout.set_names("val"), ["a", "b"], out, build=build_still, progress=lambda *x: seen.append(x)
    )
    assert [run.tracker for run in runs] == ["a", "b"]
    assert all(run.scores.j_and_f == 1 and not run.scores.warnings for run in runs)
    assert [o.name for o in runs[0].scores.objects] == ["still_1", "still_3", "late_1", "late_2"]
    assert seen == [(t, i, 2 * FRAMES) for t in "ab" for i in range(1, 2 * FRAMES + 1)]
    assert [(t.sequence, t.frames) for t in runs[0].times] == [("still", FRAMES), ("late", FRAMES)]
    assert sorted(p.name for p in (out / "a/late").iterdir()) == [f"{i:05d}.png" for i in range(FRAMES)]
    np.testing.assert_array_equal(read_labels(out / "b/late/00001.png"), labels_with(1))
    np.testing.assert_array_equal(read_labels(out / "b/late/00003.png"), labels_with(1, 2))
    with Image.open(out / "a/still/00000.png") as image:
        assert image.getpalette() == DAVIS_PALETTE.reshape(-1).tolist()
    written = json.loads((out / "scores.json").read_text())
    assert written["a"]["global"]["J&F"] == 1
    assert written["b"]["frames_per_second"] > 0
    assert written["b"]["sequences"]["late"]["frames"] == FRAMES


def test_davis2017_prompts_on_the_first_frame_only(root: Path, tmp_path: Path) -> None:
    layout = open_layout(root)
    (run,) = run_davis(layout, ["late"], ["a"], tmp_path / "out", protocol="davis2017", build=build_still)
    assert [o.name for o in run.scores.objects] == ["late_1"]
    np.testing.assert_array_equal(read_labels(run.folder / "late/00005.png"), labels_with(1))


def test_2016_has_one_object(tmp_path: Path) -> None:
    root = dataset(tmp_path / "davis", {"bear": {i: labels_with(255) for i in range(FRAMES)}})
    layout = open_layout(root)
    (run,) = run_davis(layout, ["bear"], ["a"], tmp_path / "out", protocol="davis2016", build=build_still)
    assert run.scores.j_and_f == 1
    np.testing.assert_array_equal(read_labels(run.folder / "bear/00005.png"), labels_with(1))
    with pytest.raises(DatasetError, match="--year 2016"):
        run_davis(layout, ["bear"], ["a"], tmp_path / "strict", build=build_still)


def test_first_masks_of_real_sparse_clips(data_root: Path) -> None:
    layout = open_layout(data_root / "clips")
    prompts = first_masks(layout.sequence("bms_people2"))
    ids = [prompt.object_id for given in prompts.values() for prompt in given]
    assert len(ids) == len(set(ids))
    assert next(iter(prompts)) == "00000"


def moving(root: Path, frames: int = 14) -> Path:
    """One sequence whose objects 1 and 2 move to the right; 3 is there from frame 9 on."""
    masks = {}
    for i in range(frames):
        labels = np.zeros((H, W), np.uint8)
        labels[2:8, i : i + 6], labels[11:17, i : i + 5] = 1, 2
        labels[9:11, 0:5] = 3 if i > 8 else 0
        masks[i] = labels
    return dataset(root, {"moving": masks}, frames)


KINDS = ["mask", "point", "box", "scribble", "polygon", "circle"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_given_as_the_prompt_says(tmp_path: Path, kind: str) -> None:
    sequence = open_layout(moving(tmp_path / "davis")).sequence("moving")
    masks = first_masks(sequence)
    assert list(masks) == ["00000", "00009"]
    choice = PromptChoice.parse(kind, seed=3)
    assert choice.label == kind
    for given in (mask for frame in masks.values() for mask in frame):
        prompts = choice.of_object("moving", given)
        assert {prompt.object_id for prompt in prompts} == {given.object_id}
        for prompt in prompts:
            if isinstance(prompt, PointPrompt):
                assert given.mask[int(prompt.y), int(prompt.x)]
            elif isinstance(prompt, ScribblePrompt):
                assert all(given.mask[int(y), int(x)] for x, y in prompt.points)
            elif isinstance(prompt, BoxPrompt):
                box = np.zeros((H, W), bool)
                box[int(prompt.y0) : int(prompt.y1) + 1, int(prompt.x0) : int(prompt.x1) + 1] = True
                np.testing.assert_array_equal(box, given.mask)
            else:
                assert prompt is given
    others = {PromptChoice.parse(kind, seed=s).of_object("moving", given)[-1] for s in range(8)}
    assert (len(others) > 1) == choice.is_random


def test_an_object_too_small_to_be_drawn_on_is_clicked_on() -> None:
    mask = np.zeros((H, W), bool)
    mask[3, 4:8] = True
    [prompt] = PromptChoice.parse("scribble").of_object("tiny", MaskPrompt(mask, 5))
    assert isinstance(prompt, PointPrompt)
    assert (prompt.object_id, prompt.y) == (5, 3)


@pytest.mark.parametrize("text", ["", "Mask", "reference", "reference:", "reference:-1", "reference:1.5", "text"])
def test_prompts_that_do_not_exist(text: str) -> None:
    with pytest.raises(InputError, match="reference:K"):
        PromptChoice.parse(text)


def test_a_reference_starts_on_the_first_frame_and_counts_beside_itself(tmp_path: Path) -> None:
    """The tracker returns the mask of the reference, which is right on that frame only: J there would be 1."""
    layout = open_layout(moving(tmp_path / "davis"))
    (run,) = run_davis(layout, ["moving"], ["a"], tmp_path / "out", prompt=PromptChoice(reference=4), build=build_still)
    assert [o.name for o in run.scores.objects] == ["moving_1", "moving_2"]
    assert all(o.frames == ("00010", "00011", "00012") for o in run.scores.objects)
    assert run.scores.objects[0].J.tolist() == [0, 0, 0]
    assert run.scores.warnings == ("sequence 'moving': objects that do not count: 3",)
    for i in (0, 4, 13):
        labels = read_labels(run.folder / f"moving/{i:05d}.png")
        assert labels[2:8, 4:10].min() == labels[2:8, 4:10].max() == 1
    (run,) = run_davis(layout, ["moving"], ["a"], tmp_path / "b", prompt=PromptChoice(reference=9), build=build_still)
    assert [o.name for o in run.scores.objects] == ["moving_1", "moving_2", "moving_3"]
    assert all(o.frames == ("00000", "00001", "00002", "00003") for o in run.scores.objects)
    assert json.loads((tmp_path / "b/scores.json").read_text())["a"]["prompt"] == "reference:9"


def test_references_of_which_there_is_none(root: Path, tmp_path: Path) -> None:
    layout, out = open_layout(root), tmp_path / "out"
    for frame, text in ((6, "frames 0..5, no frame 6"), (1, "frame 1 of sequence 'late', 00001.jpg, has no mask")):
        with pytest.raises(DatasetError, match=text):
            run_davis(layout, ["late"], ["a"], out, prompt=PromptChoice(reference=frame), build=build_still)
    with pytest.raises(DatasetError, match="no annotated frame more than 5 frames from 2"):
        run_davis(layout, ["late"], ["a"], out, prompt=PromptChoice(reference=2), build=build_still)
    with pytest.raises(InputError, match="davis2017 has no rule for --prompt reference:2"):
        run_davis(
            layout, ["late"], ["a"], out, protocol="davis2017", prompt=PromptChoice(reference=2), build=build_still
        )
    assert not out.exists()


def test_scores_of_other_trackers_stay_and_of_other_settings_are_not_mixed_in(root: Path, tmp_path: Path) -> None:
    layout, out = open_layout(root), tmp_path / "out"
    scores = out / "scores.json"
    run_davis(layout, ["still"], ["a"], out, build=build_still)
    run_davis(layout, ["still"], ["b"], out, build=build_still)
    both = json.loads(scores.read_text())
    assert list(both) == ["a", "b"]
    for names, kind, differs in ((["late"], "mask", "sequences"), (["still"], "point", "prompt")):
        with pytest.raises(OutputError, match=rf"other settings \({differs}\); use --overwrite"):
            run_davis(layout, names, ["c"], out, prompt=PromptChoice.parse(kind), build=build_still)
    assert json.loads(scores.read_text()) == both
    run_davis(layout, ["late"], ["c"], out, build=build_still, overwrite=True)
    assert list(json.loads(scores.read_text())) == ["c"]
    for text in ("no json", "[]", "{}x", '{"a": {}}'):
        scores.write_text(text)
        with pytest.raises(OutputError, match="is not a file of scores"):
            run_davis(layout, ["still"], ["d"], out, build=build_still)


def test_a_model_is_loaded_once_and_for_those_that_can_use_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_checkpoint(tmp_path / "tiny.safetensors", monkeypatch)
    build = Named(str(tmp_path / "tiny.safetensors"))
    one, two = build("propagate", "cpu"), build("propagate", "cpu")
    assert one is not two
    assert one.segmenter is two.segmenter is not None  # type: ignore[attr-defined]
    assert build("copy", "cpu").name == "copy"


def test_results_that_are_there_are_kept(root: Path, tmp_path: Path) -> None:
    layout, out = open_layout(root), tmp_path / "out"
    run_davis(layout, ["still"], ["a"], out, build=build_still)
    with pytest.raises(OutputError, match="--overwrite"):
        run_davis(layout, ["late", "still"], ["a"], out, build=build_still)
    assert not (out / "a" / "late").exists()
    run_davis(layout, ["still"], ["a"], out, build=build_still, overwrite=True)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of processes is read from /proc")
def test_peak_memory_is_each_trackers_own(root: Path, tmp_path: Path) -> None:
    ballast = np.ones(300_000_000, np.uint8)  # of this process, which a child must not be charged with
    runs = run_davis(open_layout(root), ["still"], ["hungry", "modest"], tmp_path / "out", build=build_hungry)
    peaks = {run.tracker: run.peak.resident or 0 for run in runs}
    assert 190e6 < peaks["hungry"] - peaks["modest"] < 210e6
    assert peaks["modest"] < (peak_memory().resident or 0) - 0.5 * ballast.nbytes


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [("ours", PromptError, "box 1,2,3,4"), ("bug", RuntimeError, "ZeroDivisionError"), ("killed", LimitError, "-9")],
)
def test_a_failing_tracker_is_told(root: Path, tmp_path: Path, name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run_davis(open_layout(root), ["still"], [name], tmp_path / "out", build=build_failing)
    assert not (tmp_path / "out/scores.json").exists()


def test_figures_of_trackers_that_ran_stay_where_a_later_one_fails(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="asked for b"):
        run_davis(open_layout(root), ["still"], ["a", "b"], tmp_path / "out", build=build_only_a)
    assert list(json.loads((tmp_path / "out/scores.json").read_text())) == ["a"]


def test_what_cannot_be_run_is_told_before_anything_starts(root: Path, tmp_path: Path) -> None:
    layout, out = open_layout(root), tmp_path / "out"
    with pytest.raises(InputError, match="unknown tracker 'xmem'; there are"):
        run_davis(layout, ["still"], ["xmem"], out)
    with pytest.raises(InputError, match="no tracker of copy, flow has a use for a model"):
        run_davis(layout, ["still"], ["copy", "flow"], out, build=Named("tiny.safetensors"))
    with pytest.raises(InputError, match="no tracker of copy, flow has a fast setting"):
        run_davis(layout, ["still"], ["copy", "flow"], out, build=Named(fast=True))
    with pytest.raises(InputError, match="each tracker once"):
        run_davis(layout, ["still"], ["copy", "copy"], out)
    with pytest.raises(DatasetError, match="has no images"):
        run_davis(open_layout(root / "Annotations/480p"), ["still"], ["copy"], out)
    (root / "JPEGImages/480p/still/00002.jpg").unlink()
    with pytest.raises(DatasetError, match="a mask but no image 00002"):
        run_davis(layout, ["still"], ["copy"], out)
    assert not out.exists()


def test_an_image_of_another_size_is_told(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (W + 1, H)).save(root / "JPEGImages/480p/still/00000.jpg")
    with pytest.raises(DatasetError, match=r"00000\.png is 30x20, its image .* is 31x20"):
        run_davis(open_layout(root), ["still"], ["a"], tmp_path / "out", build=build_still)


# the official tool


class OurFiguresAsTheirs:
    """Stands for the official tool where it is not installed: the same interface, figures by our own protocol."""

    def __init__(self, davis_root: str, task: str, gt_set: str) -> None:
        assert task == "semi-supervised"
        self._layout = open_layout(Path(davis_root))
        self._names = self._layout.set_names(gt_set, "2017")

    def evaluate(self, folder: str) -> dict[str, Any]:
        if "bad" in folder:
            print("Sequence not found")
            sys.exit()
        scores = score_predictions(folder, self._layout, protocol="davis2017", names=self._names)
        return {
            measure: {
                "M": [getattr(o, own).mean for o in scores.objects],
                "R": [getattr(o, own).recall for o in scores.objects],
                "D": [getattr(o, own).decay + 0.5 for o in scores.objects],
                "M_per_object": {o.name: getattr(o, own).mean for o in scores.objects},
            }
            for measure, own in (("J", "region"), ("F", "contour"))
        }


@pytest.fixture
def official_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("davis2017"), ModuleType("davis2017.evaluation")
    module.DAVISEvaluation = OurFiguresAsTheirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "davis2017", package)
    monkeypatch.setitem(sys.modules, "davis2017.evaluation", module)


@pytest.mark.usefixtures("official_tool")
def test_differences_to_the_official_tool(root: Path, tmp_path: Path) -> None:
    layout = open_layout(root)
    (run,) = run_davis(layout, ["still"], ["a"], tmp_path / "out", build=build_still)
    differences = compare_official(run.folder, layout, ["still"])
    assert len(differences) == 3 * 6  # objects 1, the phantom 2, and 3
    assert {d.figure for d in differences if d.size > 1e-9} == {f"still_{i} {m} decay" for i in (1, 2, 3) for m in "JF"}
    run_davis(layout, ["late"], ["a"], tmp_path / "late", protocol="davis2017", build=build_still)
    with pytest.raises(DatasetError, match="for every frame; 'late' lacks some"):
        compare_official(tmp_path / "late/a", layout, ["late"])


@pytest.mark.usefixtures("official_tool")
def test_the_official_tool_giving_up_is_an_error(root: Path, tmp_path: Path) -> None:
    layout = open_layout(root)
    (run,) = run_davis(layout, ["still"], ["bad"], tmp_path / "out", build=build_still)
    with pytest.raises(DatasetError, match="gave up: Sequence not found"):
        compare_official(run.folder, layout, ["still"])


def test_without_the_official_tool(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "davis2017.evaluation", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        compare_official(root, open_layout(root), ["still"])
