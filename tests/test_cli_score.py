"""``vos score`` and ``vos davis`` as a user types them: results on stdout, the rest on stderr, exit codes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip, write_mask
from PIL import Image
from support import require

from cli.main import run
from cli.score import ProtocolChoice
from vos.benchmarks.protocols import PROTOCOLS
from vos.masks import write_labels


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def vos(*args: object) -> Done:
    """The command in this process; tests/faults starts it as users do."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(arg) for arg in args])
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def reference(data_root: Path) -> Path:
    folder = data_root.parent / "davis_reference"
    require(folder.is_dir(), f"no official figures at {folder}")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A dataset of one sequence, still throughout, with images; predictions in ``p``."""
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 5:15] = 1
    labels[4:12, 18:28] = 2
    for folder in ("davis/Annotations/480p/bear", "davis/JPEGImages/480p/bear", "davis/ImageSets/2017", "p/bear"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(5):
        write_labels(tmp_path / f"davis/Annotations/480p/bear/{i:05d}.png", labels)
        write_labels(tmp_path / f"p/bear/{i:05d}.png", labels)
        Image.new("RGB", (32, 24), (20 * i, 90, 9)).save(tmp_path / f"davis/JPEGImages/480p/bear/{i:05d}.jpg")
    (tmp_path / "davis/ImageSets/2017/val.txt").write_text("bear\n")
    return tmp_path


def test_json_has_the_structure_of_the_official_figures(reference: Path, data_root: Path) -> None:
    done = vos(
        "score", reference / "predictions/flow", data_root / "davis", "--protocol", "davis2017", "--json", "--quiet"
    )
    assert (done.returncode, done.stderr) == (0, "")
    ours, official = json.loads(done.stdout), json.loads((reference / "official.json").read_text())
    assert list(ours) == ["flow"]
    assert ours["flow"]["global"]["J&F"] == pytest.approx(official["flow"]["global"]["J&F"], abs=1e-9)
    assert ours["flow"]["objects"].keys() == official["flow"]["objects"].keys()
    assert ours["flow"]["objects"]["car-turn_1"].keys() == official["flow"]["objects"]["car-turn_1"].keys()


def test_the_table_and_progress(small: Path) -> None:
    done = vos("score", small / "p", small / "davis")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "J&F 1.0000 over 2 objects, 6 object-frames, protocol strict"
    assert "5/5 frames" in done.stderr
    assert "frames" not in vos("score", small / "p", small / "davis", "-q").stderr


def test_csv_and_per_frame(small: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(vos("score", small / "p", small / "davis", "--csv", "-q").stdout)))
    assert [row["Sequence"] for row in rows] == ["bear", "bear", "GLOBAL"]
    rows = list(csv.DictReader(io.StringIO(vos("score", small / "p", small / "davis", "--per-frame", "-q").stdout)))
    assert [row["Frame"] for row in rows] == ["00001", "00002", "00003"] * 2
    both = json.loads(vos("score", small / "p", small / "davis", "--per-frame", "--json", "-q").stdout)
    assert both["p"]["per_frame"]["bear_1"]["00001"] == [1, 1]


def test_csv_and_json_together_are_a_usage_error(small: Path) -> None:
    assert vos("score", small / "p", small / "davis", "--csv", "--json").returncode == 2


def test_protocols_are_those_of_the_library() -> None:
    assert {choice.value for choice in ProtocolChoice} == set(PROTOCOLS)


def test_davis_prints_trackers_side_by_side(small: Path) -> None:
    done = vos("davis", small / "davis", "-t", "copy", "-t", "flow", "-o", small / "out", "--device", "cpu", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split("-")[0].strip() == ""
    assert " copy " in lines[0]
    assert " flow " in lines[0]
    assert lines[1].split() == ["sequence", *["J", "F", "J&F", "frames/s"] * 2]
    assert lines[2].split()[:4] == ["bear", "1.000", "1.000", "1.000"]
    assert lines[3].startswith("mean of 2 objects")
    assert lines[4].startswith("peak memory")
    score = vos("score", small / "out/copy", small / "davis", "--set", "val", "-q")
    assert "J&F 1.0000" in score.stdout


def test_davis_json_default_folder_and_overwrite(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    args = ("davis", small / "davis", "-t", "copy", "--json", "-q", "--device", "cpu")
    done = vos(*args)
    assert json.loads(done.stdout)["copy"]["global"]["J&F"] == 1
    assert (small / "davis_davis/copy/bear/00004.png").is_file()
    again = vos(*args)
    assert again.returncode == 3
    assert "--overwrite" in again.stderr
    assert vos(*args, "--overwrite").returncode == 0


def test_default_folders_tell_settings_apart(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    common = ("davis", small / "davis", "-t", "copy", "-q", "--device", "cpu")
    assert vos(*common, "--prompt", "scribble", "--seed", "2", "--protocol", "davis2017").returncode == 0
    figures = json.loads((small / "davis_davis_davis2017_scribble_seed2/scores.json").read_text())["copy"]
    assert (figures["prompt"], figures["seed"], figures["protocol"]) == ("scribble", 2, "davis2017")
    done = vos(*common[:2], "-t", "flow", "-q", "--prompt", "box", "-o", "davis_davis_davis2017_scribble_seed2")
    assert done.returncode == 3
    assert "holds scores of other settings (protocol, prompt, seed)" in done.stderr
    assert vos(*common, "--prompt", "wave").stderr.count("\n") == 1
    assert vos(*common, "--prompt", "reference:3", "--compare-official").returncode in (2, 3)  # the tool may lack


def test_davis_names_what_it_cannot_find(small: Path) -> None:
    for args, words in (
        (("--set", "test"), "no set 'test'"),
        (("-t", "xmem"), "unknown tracker 'xmem'"),
        (("--resolution", "288p"), "no resolution '288p'"),
        (("--compare-official",), "pip install"),
    ):
        done = vos("davis", small / "davis", "-o", small / "out", "-q", "--device", "cpu", *args)
        assert done.returncode == 3, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not done.stdout


@pytest.mark.parametrize(
    ("predictions", "truth", "words"),
    [
        ("nested", "davis", "predictions lie deeper, in {0}/nested/flow/480p; give that folder instead of {0}/nested"),
        ("p/bear", "davis2", "such as {0}/davis2/Annotations/480p/bear"),
        ("p", "davis/Annotations", "did you mean {0}/davis/Annotations/480p?"),
        ("davis/JPEGImages", "davis", "holds no folder of PNG masks; expected {0}/davis/JPEGImages/bear and so on"),
        ("p", "davis/JPEGImages", "{0}/davis/JPEGImages holds no masks"),
        ("x" * 300, "davis", "(File name too long)"),
        ("p", "x" * 300, "(File name too long)"),
    ],
)
def test_folders_one_level_off_are_explained(small: Path, predictions: str, truth: str, words: str) -> None:
    shutil.copytree(small / "p", small / "nested/flow/480p")
    shutil.copytree(small / "davis", small / "davis2")
    shutil.copytree(small / "davis/Annotations/480p/bear", small / "davis2/Annotations/480p/zebra")
    done = vos("score", small / predictions, small / truth, "-q")
    assert (done.returncode, done.stdout) == (3, "")
    assert words.format(small) in done.stderr
    assert done.stderr.count("\n") == 1


def test_davis_without_lists_says_so(small: Path) -> None:
    (small / "davis/ImageSets/2017/val.txt").unlink()
    (small / "davis/ImageSets/2017").rmdir()
    (small / "davis/ImageSets").rmdir()
    done = vos("davis", small / "davis", "-o", small / "out", "-t", "copy")
    assert done.returncode == 3
    assert f"there is no set 'val', as there is no folder {small / 'davis/ImageSets'}" in done.stderr


def test_davis_takes_a_list_file_of_any_year(small: Path) -> None:
    lines = [f"/JPEGImages/480p/bear/{i:05d}.jpg /Annotations/480p/bear/{i:05d}.png" for i in range(5)]
    (small / "mine.txt").write_text("\n".join(lines))
    common = ("davis", small / "davis", "--set", small / "mine.txt", "-t", "copy", "--device", "cpu", "-q", "--json")
    for year, objects in (("2016", 1), ("2017", 2)):
        done = vos(*common, "--year", year, "-o", small / year)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["copy"]["objects"]) == objects


def test_a_fault_in_the_trackers_process_is_one_sentence(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (small / "file").write_text("")
    done = vos("davis", small / "davis", "-o", small / "file", "-t", "copy", "--device", "cpu", "-q")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"{small / 'file'} is a file; name another folder" in done.stderr
    assert capfd.readouterr().err == ""  # of that process


def test_results_of_track_and_batch_are_predictions(tmp_path: Path) -> None:
    """Also with a contact sheet beside the masks, and without one."""
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips/one.mp4", 5)
    write_mask(tmp_path / "clips/one.png")
    track = ("track", tmp_path / "clips/one.mp4", "-m", tmp_path / "clips/one.png", "--tracker", "copy", "-q")
    assert vos(*track, "-o", tmp_path / "out").returncode == 0
    shutil.copytree(tmp_path / "out/masks", tmp_path / "gt/one")
    for save in ("masks", "masks,contact"):
        batch = ("batch", tmp_path / "clips", "-o", tmp_path / save, "--tracker", "copy", "-q", "--save", save)
        assert vos(*batch).returncode == 0
        assert "J&F 1.0000 over 1 objects" in vos("score", tmp_path / save, tmp_path / "gt", "-q").stdout
    assert "J&F 1.0000 over 1 objects" in vos("score", tmp_path / "out", tmp_path / "gt", "-q").stdout
