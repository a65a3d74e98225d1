"""The results folder: what is written, what is refused, what is removed, and that it reads back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from results import frame_result, run_record

from seem_core.errors import InputError, OutputError
from vos.masks import read_labels
from vos.output import InputRecord, ResultFolder, mask_name, read_frames, read_run

DOCS = Path(__file__).resolve().parent.parent / "docs" / "output.md"


def write(out: Path, frames: int = 3, *, overwrite: bool = False, finish: bool = True) -> None:
    with ResultFolder.create(out, overwrite=overwrite) as folder:
        folder.begin(run_record())
        for i in range(frames):
            folder.add(frame_result(i))
        if finish:
            folder.finish()


def files(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}


def schemas() -> tuple[dict[str, object], dict[str, object]]:
    """The two JSON Schemas of docs/output.md: run.json, and a line of frames.jsonl."""
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    found = [json.loads(block) for block in blocks if '"$schema"' in block]
    assert [s["title"] for s in found] == ["run.json", "a line of frames.jsonl"]
    return found[0], found[1]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert files(out) == {"run.json", "frames.jsonl", "masks/00000.png", "masks/00001.png", "masks/00002.png"}
    np.testing.assert_array_equal(read_labels(out / "masks/00002.png"), frame_result(2).masks.labels)
    run = read_run(out)
    assert (run.state, run.frames_done, run.error) == ("done", 3, None)
    assert run.started <= (run.finished or "")
    assert run.versions["numpy"] == np.__version__


def test_files_match_the_documented_schemas(tmp_path: Path) -> None:
    source = tmp_path / "clip.bin"
    source.write_bytes(b"abc")
    with ResultFolder.create(tmp_path / "out") as folder:
        folder.begin(replace(run_record(), inputs=(InputRecord.of("video", source),), warnings=("w",)))
        for i in (0, 7):
            folder.add(frame_result(i))
        folder.finish("interrupted", gaps=(4,), error="no room")
    run_schema, frame_schema = schemas()
    jsonschema.validate(json.loads((tmp_path / "out/run.json").read_text()), run_schema)
    for line in (tmp_path / "out/frames.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), frame_schema)
    assert set(run_schema["properties"]) == set(json.loads((tmp_path / "out/run.json").read_text()))


def test_everything_reads_back(tmp_path: Path) -> None:
    given = replace(
        run_record(tmp_path / "clip ü.mp4"),
        inputs=(InputRecord("mask", "m.png", "00", 3),),
        options={"tracker": "copy", "ids": [1, 2], "end": None, "rate": 2.5},
        warnings=("first",),
    )
    with ResultFolder.create(tmp_path / "out") as folder:
        folder.begin(given)
        written = [folder.add(frame_result(i)) for i in (0, 6)]
        final = folder.finish(gaps=(3,), warnings=("second",))
    assert read_run(tmp_path / "out") == final
    assert final.video == given.video
    assert final.warnings == ("first", "second")
    assert list(read_frames(tmp_path / "out")) == written


def test_objects_are_measured(tmp_path: Path) -> None:
    write(tmp_path, 7)
    first, *_, last = read_frames(tmp_path)
    a, b = first.objects
    assert (a.id, a.score, a.area, a.box, a.lost) == (1, 0.9, 48, (0, 0, 8, 6), False)
    assert (b.id, b.area, b.box) == (3, 48, (0, 10, 8, 16))
    assert (last.objects[1].area, last.objects[1].box, last.objects[1].lost) == (0, None, True)
    assert last.seconds == pytest.approx(6 / 25)


def test_ids_above_255_are_kept(tmp_path: Path) -> None:
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record())
        folder.add(frame_result(0, ids=(7, 40000)))
        folder.finish()
    labels = read_labels(tmp_path / "masks/00000.png")
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 7, 40000}


def test_names_follow_the_source() -> None:
    assert mask_name(frame_result(7).frame) == "00007.png"
    assert mask_name(frame_result(7).frame, 6) == "000007.png"
    assert mask_name(frame_result(7, name="img.007").frame) == "img.007.png"


def test_long_videos_get_more_digits(tmp_path: Path) -> None:
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record(frames=100_001))
        assert folder.add(frame_result(2)).mask == "masks/000002.png"


def test_state_is_running_until_the_end(tmp_path: Path) -> None:
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record())
        folder.add(frame_result(0))
        assert read_run(tmp_path).state == "running"
        assert len(list(read_frames(tmp_path))) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(KeyboardInterrupt(), None), (OutputError("it broke"), "it broke"), (ValueError(), "ValueError")],
)
def test_leaving_early_is_recorded(tmp_path: Path, error: BaseException, sentence: str | None) -> None:
    def stopped() -> None:
        with ResultFolder.create(tmp_path) as folder:
            folder.begin(run_record())
            folder.add(frame_result(0))
            raise error

    with pytest.raises(type(error)):
        stopped()
    run = read_run(tmp_path)
    assert (run.state, run.frames_done, run.error) == ("interrupted", 1, sentence)
    assert not (tmp_path / ".lock").exists()


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    before = files(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        ResultFolder.create(tmp_path)
    assert files(tmp_path) == before
    write(tmp_path, 1, overwrite=True)
    assert files(tmp_path) == {"run.json", "frames.jsonl", "masks/00000.png"}


def test_an_unfinished_run_is_started_anew(tmp_path: Path) -> None:
    write(tmp_path, 5, finish=False)
    write(tmp_path, 2)
    assert files(tmp_path) == {"run.json", "frames.jsonl", "masks/00000.png", "masks/00001.png"}


def test_a_mask_whose_line_a_killed_run_did_not_write_goes_too(tmp_path: Path) -> None:
    folder = ResultFolder.create(tmp_path)
    folder.begin(run_record(step=3))
    folder.add(frame_result(0))
    folder.close()  # as a killed process leaves it
    (tmp_path / "masks/00003.png").write_bytes(b"whole, but not recorded")
    (tmp_path / "masks/.00006.png.12-34.part").write_bytes(b"half")
    write(tmp_path, 1)
    assert files(tmp_path) == {"run.json", "frames.jsonl", "masks/00000.png"}


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "masks" / "best.png").write_text("mine")
    (tmp_path / "overlay.mp4").write_text("mine: no run rendered it")
    write(tmp_path, 1, overwrite=True)
    assert {"notes.txt", "masks/best.png", "overlay.mp4"} < files(tmp_path)


@pytest.mark.parametrize("name", ["masks/00000.png", "frames.jsonl", "overlay.mp4"])
def test_files_of_no_run_are_not_overwritten_silently(tmp_path: Path, name: str) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="no run of vos made it"):
        ResultFolder.create(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_an_existing_folder_with_other_things_is_fine(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("video")
    write(tmp_path)
    assert (tmp_path / "clip.mp4").read_text() == "video"


@pytest.mark.parametrize("spoilt", [{"tracked": [0, 3, 0]}, {"state": "lost"}, {"ids": None}, None])
def test_damaged_run_is_refused_and_can_be_replaced(tmp_path: Path, spoilt: dict[str, object] | None) -> None:
    write(tmp_path)
    whole = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({"format": 1} if spoilt is None else whole | spoilt))
    with pytest.raises(InputError, match="damaged"):
        read_run(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        ResultFolder.create(tmp_path)
    write(tmp_path, 1, overwrite=True)
    assert "masks/00002.png" not in files(tmp_path)


def test_a_record_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_text("mine")
    out = tmp_path / "out"
    write(out)
    lines = (out / "frames.jsonl").read_text().replace("masks/00001.png", "masks/../../victim.png")
    (out / "frames.jsonl").write_text(lines)
    write(out, overwrite=True)
    assert victim.exists()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with ResultFolder.create(tmp_path) as folder:
        folder.begin(run_record())
        with pytest.raises(OutputError, match="another run"):
            ResultFolder.create(tmp_path, overwrite=True)
        folder.add(frame_result(0))
        folder.finish()
    assert read_run(tmp_path).frames_done == 1


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for place in (tmp_path / "out", tmp_path / "out" / "deeper" / "still"):
        with pytest.raises(OutputError, match=f"{tmp_path / 'out'} is a file; name another folder"):
            ResultFolder.create(place)


def test_order_of_calls_is_held(tmp_path: Path) -> None:
    folder = ResultFolder.create(tmp_path)
    with pytest.raises(ValueError, match="begin"):
        folder.add(frame_result(0))
    folder.begin(run_record())
    folder.finish()
    with pytest.raises(ValueError, match="finish"):
        folder.add(frame_result(0))


def test_reading_what_is_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results folder"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="no results folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(InputError, match=r"frames\.jsonl"):
        list(read_frames(tmp_path))


def test_a_cut_off_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, 3)
    whole = (tmp_path / "frames.jsonl").read_bytes()
    (tmp_path / "frames.jsonl").write_bytes(whole[:-9])
    assert [r.frame for r in read_frames(tmp_path)] == [0, 1]
    (tmp_path / "frames.jsonl").write_bytes(b"{}\n" + whole)
    with pytest.raises(InputError, match="line 1"):
        list(read_frames(tmp_path))


def test_newer_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    text = (tmp_path / "run.json").read_text().replace('"format": 1', '"format": 2')
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="update seem-vos"):
        read_run(tmp_path)


def test_inputs_are_hashed(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    record = InputRecord.of("video", file)
    assert record.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (record.bytes, record.path) == (3, str(file))
    folder = InputRecord.of("video", tmp_path)
    file.rename(tmp_path / "b.bin")
    assert InputRecord.of("video", tmp_path).sha256 != folder.sha256
    with pytest.raises(InputError, match="cannot read"):
        InputRecord.of("mask", tmp_path / "missing.png")
