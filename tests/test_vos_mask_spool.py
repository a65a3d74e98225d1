"""Results of a pass on disk: they come back to the bit, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from history_tracker import same
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seem_core.errors import OutputError
from trackers.base import ObjectMasks
from vos.label_files import read_labels
from vos.mask_spool import MaskSpool


def result(seed: int, ids: tuple[int, ...] = (2, 9), size: tuple[int, int] = (7, 11)) -> ObjectMasks:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, *ids]), size).astype(np.uint8 if max(ids, default=0) < 256 else np.uint16)
    return ObjectMasks(ids, labels, rng.random(len(ids), np.float32), rng.random(len(ids)) < 0.5)


@settings(deadline=None, max_examples=40)
@given(ids=st.sets(st.integers(1, 65535), max_size=6), seed=st.integers(0, 9999))
def test_results_come_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, ids: set[int], seed: int) -> None:
    spool = MaskSpool(tmp_path_factory.mktemp("spool"))
    put = result(seed, tuple(sorted(ids)))
    spool.put(12, put, "abc")
    assert same(spool.get(12), put)
    assert spool.summary(12) == {
        i: (float(s), bool(lost)) for i, s, lost in zip(put.ids, put.scores, put.lost, strict=True)
    }


def test_it_is_read_again_from_its_folder(tmp_path: Path) -> None:
    first = MaskSpool(tmp_path / "deep" / "spool")
    for frame in (3, 123456):
        first.put(frame, result(frame), f"made from {frame}")
    first.put(3, result(4), "made anew")
    again = MaskSpool(tmp_path / "deep" / "spool")
    assert len(again) == 2
    assert 3 in again
    assert 4 not in again
    assert (again.made_from(3), again.made_from(4)) == ("made anew", None)
    assert same(again.get(3), result(4))
    assert same(again.get(123456), result(123456))
    assert again.get(4) is None
    assert again.summary(4) == {}


def test_its_files_are_label_maps_that_anyone_can_read(tmp_path: Path) -> None:
    spool = MaskSpool(tmp_path)
    spool.put(5, result(1))
    assert (read_labels(tmp_path / "00005.png") == result(1).labels).all()
    with Image.open(tmp_path / "00005.png") as picture:
        assert (np.asarray(picture) == result(1).labels).all()


@pytest.mark.parametrize("damage", ["cut", "note", "pixels", "foreign", "gone"])
def test_a_damaged_file_counts_as_not_there(tmp_path: Path, damage: str) -> None:
    spool = MaskSpool(tmp_path)
    spool.put(5, result(1))
    path = tmp_path / "00005.png"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-40])
    elif damage == "note":
        data[60] ^= 1
        path.write_bytes(data)
    elif damage == "pixels":
        data[-24] ^= 255
        path.write_bytes(data)
    elif damage == "foreign":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    else:
        path.unlink()
    assert spool.get(5) is None
    assert 5 not in spool
    if damage in ("note", "foreign", "gone"):
        assert 5 not in MaskSpool(tmp_path)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".00001.png.77-88.part").write_bytes(b"half")
    (tmp_path / "notes.png").write_bytes(b"someone else's")
    assert len(MaskSpool(tmp_path)) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["notes.png"]


def test_results_can_be_dropped(tmp_path: Path) -> None:
    spool = MaskSpool(tmp_path / "spool")
    for frame in range(4):
        spool.put(frame, result(frame))
    spool.drop([1, 2, 77])
    assert sorted(p.name for p in spool.folder.iterdir()) == ["00000.png", "00003.png"]
    assert [frame for frame in range(4) if frame in spool] == [0, 3]
    spool.remove()
    assert not spool.folder.exists()
    assert len(spool) == 0


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file; name another folder"):
        MaskSpool(tmp_path / "file" / "spool")
