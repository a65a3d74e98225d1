"""Scores: the official figures to the last digit, and every rule of the protocols on small made-up sequences."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import require

from seem_core.errors import DatasetError, MaskError
from vos.benchmarks.measure import FrameTask, measure_frames, present_ids
from vos.benchmarks.scores import Scores
from vos.benchmarks.scoring import score_predictions
from vos.masks import read_labels, write_labels
from vos.metrics import measure_labels

H, W = 20, 30


@pytest.fixture(scope="module")
def reference(data_root: Path) -> Path:
    folder = data_root.parent / "davis_reference"
    require(folder.is_dir(), f"no official figures at {folder}")
    return folder


def square(*ids: int, shift: int = 0) -> np.ndarray:
    """A map with a 5x5 square for each id."""
    labels = np.zeros((H, W), np.uint8)
    for n, object_id in enumerate(ids):
        labels[2 + shift : 7 + shift, 1 + 7 * n : 6 + 7 * n] = object_id
    return labels


def write(folder: Path, maps: Mapping[int, np.ndarray] | list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, labels in maps.items() if isinstance(maps, Mapping) else enumerate(maps):
        write_labels(folder / f"{i:05d}.png", labels)
    return folder


def score(tmp_path: Path, truth: Any, predictions: Any, **options: Any) -> Scores:
    write(tmp_path / "gt" / "s", truth)
    write(tmp_path / "p" / "s", predictions)
    return score_predictions(tmp_path / "p", tmp_path / "gt", **options)


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", value


# the official figures


@pytest.mark.parametrize("which", ["flow", "perturbed"])
def test_every_official_figure(reference: Path, data_root: Path, which: str) -> None:
    official = dict(leaves(json.loads((reference / "official.json").read_text())[which]))
    scores = score_predictions(reference / "predictions" / which, data_root / "davis", protocol="davis2017")
    ours = scores.to_json()
    ours = dict(leaves({key: ours[key] for key in ("global", "objects")}))
    assert ours.keys() == official.keys()
    assert max(abs(ours[key] - official[key]) for key in official) < 1e-9


def test_strict_is_the_same_where_the_official_tool_is_right(reference: Path, data_root: Path) -> None:
    names = ["car-turn", "soccerball"]
    folder = reference / "predictions/perturbed"
    strict, official = (
        score_predictions(folder, data_root / "davis", protocol=p, names=names, jobs=2) for p in ("strict", "davis2017")
    )
    assert strict.to_json()["objects"] == official.to_json()["objects"]


def test_processes_change_nothing(reference: Path, data_root: Path) -> None:
    folder, seen = reference / "predictions/flow", []
    one = score_predictions(folder, data_root / "davis", names=["motorbike", "soccerball"])
    two = score_predictions(
        folder, data_root / "davis", names=["motorbike", "soccerball"], jobs=2, progress=lambda *a: seen.append(a)
    )
    assert one.to_json(per_frame=True) == two.to_json(per_frame=True)
    assert seen[-1] == (43 + 48, 43 + 48)
    assert seen == sorted(seen)


# which frames and objects count


def test_first_and_last_frame_are_left_out(tmp_path: Path) -> None:
    truth = [square(1)] * 5
    wrong, right = square(), square(1)
    for protocol in ("strict", "davis2017", "davis2016"):
        scores = score(tmp_path, truth, [wrong, right, right, right, wrong], protocol=protocol)
        assert scores.objects[0].frames == ("00001", "00002", "00003")
        assert scores.j_and_f == 1


def test_predictions_of_the_frames_left_out_need_not_exist(tmp_path: Path) -> None:
    assert score(tmp_path, [square(1)] * 4, {1: square(1), 2: square(1)}).j_and_f == 1


def test_sparse_truth_counts_to_its_last_frame(tmp_path: Path) -> None:
    truth = {0: square(1), 10: square(1), 20: square(1)}
    predictions = {i: square(1) if i < 20 else square() for i in range(30)}
    strict = score(tmp_path, truth, predictions)
    assert strict.objects[0].frames == ("00010", "00020")
    assert strict.objects[0].J.tolist() == [1, 0]
    assert score_predictions(tmp_path / "p", tmp_path / "gt", protocol="davis2017").objects[0].frames == ("00010",)


def test_two_masks_are_enough_for_strict_only(tmp_path: Path) -> None:
    assert score(tmp_path, [square(1)] * 2, [square(1)] * 2).objects[0].frames == ("00001",)
    with pytest.raises(DatasetError, match="2 annotated frames"):
        score_predictions(tmp_path / "p", tmp_path / "gt", protocol="davis2017")


def test_a_gap_in_the_ids_is_no_object_but_a_phantom_of_the_official_tool(tmp_path: Path) -> None:
    truth = [square(1, 3)] * 4
    predictions = [square(1, 9)] * 4  # object 3 is missed
    strict = score(tmp_path, truth, predictions)
    assert [o.object_id for o in strict.objects] == [1, 3]
    assert strict.region.mean == 0.5
    predictions = [square(1)] * 4
    official = score(tmp_path, truth, predictions, protocol="davis2017")
    assert {o.object_id: o.region.mean for o in official.objects} == {1: 1, 2: 1, 3: 0}


def test_a_late_object_counts_from_the_frame_after_its_first(tmp_path: Path) -> None:
    truth = [square(1), square(1), square(1, 2), square(1, 2), square(1, 2), square(1, 2)]
    predictions = [square(1), square(1, 2), square(1), square(1, 2), square(1, 2), square(1)]
    strict = score(tmp_path, truth, predictions)
    assert strict.objects[1].frames == ("00003", "00004")
    assert strict.objects[1].region.mean == 1
    with pytest.raises(DatasetError, match="ids 2 are above the 1 objects"):
        score_predictions(tmp_path / "p", tmp_path / "gt", protocol="davis2017")


def test_an_object_that_comes_too_late_is_named(tmp_path: Path) -> None:
    scores = score(tmp_path, [square(1), square(1), square(1), square(1, 2)], [square(1)] * 4)
    assert [o.object_id for o in scores.objects] == [1]
    assert any("object 2 comes too late" in text for text in scores.warnings)


def test_an_object_that_leaves_scores_1_where_nothing_is_predicted(tmp_path: Path) -> None:
    truth = [square(1), square(1), square(), square(), square(1)]
    assert score(tmp_path, truth, truth).j_and_f == 1
    scores = score(tmp_path, truth, [square(1)] * 5)
    assert scores.objects[0].J.tolist() == [1, 0, 0]
    assert scores.objects[0].F.tolist() == [1, 0, 0]


def test_void_is_background(tmp_path: Path) -> None:
    truth = [square(1, 255)] * 4
    for protocol in ("strict", "davis2017"):
        scores = score(tmp_path, truth, [square(1)] * 4, protocol=protocol)
        assert scores.j_and_f == 1
        assert len(scores.objects) == 1


def test_decay_does_not_wrap_in_strict(tmp_path: Path) -> None:
    n = 300
    truth = [square(1)] * n
    scores = score(tmp_path, truth, [square(1) if i < n // 2 else square() for i in range(n)])
    assert scores.region.decay == 1
    official = score_predictions(tmp_path / "p", tmp_path / "gt", protocol="davis2017")
    assert official.region.decay != 1
    assert official.region.mean == scores.region.mean
    json.dumps(official.to_json(), allow_nan=False)


def test_davis2016_takes_all_as_one_object(tmp_path: Path) -> None:
    scores = score(tmp_path, [square(255)] * 4, [square(1)] * 4, protocol="davis2016")
    assert scores.j_and_f == 1
    assert not scores.warnings
    scores = score(tmp_path, [square(1, 2)] * 4, [square(255, 255)] * 4, protocol="davis2016")
    assert scores.j_and_f == 1
    assert "ids 1, 2 were taken as one object" in scores.warnings[0]


def test_davis2016_refuses_shades(tmp_path: Path) -> None:
    shades = np.arange(H * W, dtype=np.uint16).astype(np.uint8).reshape(H, W)
    with pytest.raises(MaskError, match="255 values above 0"):
        score(tmp_path, [square(255)] * 4, [shades] * 4, protocol="davis2016")


def test_0_255_truth_in_strict_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="davis2016"):
        score(tmp_path, [square(255)] * 4, [square(255)] * 4)


# what is said


def test_strange_and_missing_ids_are_named(tmp_path: Path) -> None:
    scores = score(tmp_path, [square(1, 2)] * 4, [square(1, 7)] * 4)
    assert any("ids that the ground truth lacks: 7" in text for text in scores.warnings)
    assert any("objects that no prediction has: 2" in text for text in scores.warnings)
    scores = score(tmp_path, [square(1)] * 4, [square(255)] * 4)
    assert scores.region.mean == 0
    assert any("davis2016" in text for text in scores.warnings)


def test_sequences_without_predictions_are_named_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "gt" / "other", [square(1)] * 3)
    scores = score(tmp_path, [square(1)] * 3, [square(1)] * 3)
    assert "1 of 2 sequences have no predictions: other" in scores.warnings[0]
    with pytest.raises(DatasetError, match="lack 1 of 2 sequences: other"):
        score_predictions(tmp_path / "p", tmp_path / "gt", names=["s", "other"])


def test_an_unknown_sequence_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "p" / "zebra", [square(1)] * 3)
    with pytest.raises(DatasetError, match=r"no ground truth in .* for zebra"):
        score(tmp_path, [square(1)] * 3, [square(1)] * 3)


def test_one_folder_against_one_folder(tmp_path: Path) -> None:
    score(tmp_path, [square(1)] * 3, [square(1)] * 3)
    for predictions in (tmp_path / "p" / "s", write(tmp_path / "out" / "masks", [square(1)] * 3).parent):
        assert score_predictions(predictions, tmp_path / "gt" / "s").objects[0].name == "s_1"
    write(tmp_path / "gt" / "t", [square(1)] * 3)
    with pytest.raises(DatasetError, match="masks of one sequence"):
        score_predictions(tmp_path / "p" / "s", tmp_path / "gt")


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'davis2018' is unknown"):
        score(tmp_path, [square(1)] * 3, [square(1)] * 3, protocol="davis2018")


# results


def test_means_are_over_objects_and_csv_has_every_digit(tmp_path: Path) -> None:
    write(tmp_path / "gt" / "t", [square(1)] * 4)
    write(tmp_path / "p" / "t", [square()] * 4)
    scores = score(tmp_path, [square(1, 2, 3)] * 4, [square(1, 2, 3, shift=1)] * 4)
    assert scores.region.mean == pytest.approx(3 / 4 * 20 / 30)
    assert [s.J for s in scores.sequences] == pytest.approx([20 / 30, 0])
    rows = list(csv.DictReader(io.StringIO(scores.to_csv())))
    assert [row["Object"] for row in rows] == ["1", "2", "3", "1", ""]
    assert float(rows[-1]["J&F-Mean"]) == scores.j_and_f
    frames = list(csv.DictReader(io.StringIO(scores.per_frame_csv())))
    assert len(frames) == 8
    assert float(frames[0]["J"]) == scores.objects[0].J[0]


def test_present_ids() -> None:
    for labels in (square(1, 3), square(200, 17), square(), square(2).astype(np.uint16) * 200):
        assert present_ids(labels) == [i for i in np.unique(labels).tolist() if i]


def test_frames_equal_the_metrics(reference: Path, data_root: Path) -> None:
    truth = data_root / "davis/Annotations/480p/schoolgirls/00040.png"
    prediction = reference / "predictions/flow/schoolgirls/00040.png"
    (measures,) = measure_frames([FrameTask("schoolgirls", "00040", truth, prediction)])
    ids = sorted(measures.values)
    expected = measure_labels(read_labels(prediction), read_labels(truth), ids)
    np.testing.assert_array_equal([measures.values[i] for i in ids], expected)


def test_jobs_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="jobs"):
        measure_frames([], 0)
