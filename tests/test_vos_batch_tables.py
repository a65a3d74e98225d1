"""Tables and lists of videos: every column, every separator, odd bytes; and a sentence for whatever makes no sense."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seem_core.errors import InputError, VosError
from seem_core.prompts import BoxPrompt, PointPrompt
from vos.batch.tables import COLUMNS, Row, read_list, read_table
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.prompt_text import parse_prompts
from vos.prompts import Seconds, TimedPrompt


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_column(tmp_path: Path) -> None:
    rows = read_table(
        table(
            tmp_path,
            "video,name,mask,mask,prompts,text,point,box,reference,reference_mask,memory,start,end,stride,max_side,"
            "direction,mask_format\n"
            'a.mp4,first,a.png,b.png@40#2,a.json,the cat,"3,4@2","1,2,5,6#7",cat.mp4@1.5s,cat.png,'
            "cat.memory,5,90,2,320,both,binary\n",
        )
    )
    assert rows == (
        Row(
            f"{tmp_path / 't.csv'} line 2",
            tmp_path / "a.mp4",
            "first",
            (
                tmp_path / "a.json",
                ReferenceFile(tmp_path / "cat.mp4", tmp_path / "cat.png", Seconds(1.5)),
                TimedPrompt(PointPrompt(3, 4), 2),
                TimedPrompt(BoxPrompt(1, 2, 5, 6, 7)),
                *parse_prompts(texts=["the cat"]),
            ),
            (MaskFile(tmp_path / "a.png"), MaskFile(tmp_path / "b.png", 40, 2)),
            {
                "start": 5, "end": 90, "stride": 2, "max_side": 320, "direction": "both", "mask_format": "binary",
                "memory": str(tmp_path / "cat.memory"),
            },
        ),
    )  # fmt: skip


def test_jsonl_says_the_same(tmp_path: Path) -> None:
    in_csv = read_table(table(tmp_path, "video,mask,mask,start,text\na.mp4,a.png,b.png@4,5,x y\nb.mp4,,,,\n"))
    lines = [{"video": "a.mp4", "mask": ["a.png", "b.png@4"], "start": 5, "text": "x y"},
             {"video": "b.mp4", "mask": None, "text": []}]  # fmt: skip
    path = table(tmp_path, "\n\n".join(map(json.dumps, lines)), "t.jsonl")
    found = read_table(path)
    assert [(row.video, row.masks, row.prompts, dict(row.changes)) for row in found] == [
        (row.video, row.masks, row.prompts, dict(row.changes)) for row in in_csv
    ]
    assert found[1].place == f"{path} line 3"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_byte_order_marks_and_line_ends(tmp_path: Path, separator: str) -> None:
    text = f"Video{separator} MASK \r\n\r\na.mp4{separator}a.png\r\n"
    (row,) = read_table(table(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert (row.video, row.masks) == (tmp_path / "a.mp4", (MaskFile(tmp_path / "a.png"),))
    assert row.place.endswith("line 3")


def test_paths(tmp_path: Path) -> None:
    """Absolute, with line breaks, with commas, with @ in the name of a file that is there, and of any bytes."""
    (tmp_path / "at@4.png").write_text("x")
    path = table(tmp_path, b'video,mask\n/data/a.mp4,at@4.png\n"two\nlines, and more.mp4",m.png\ncaf\xe9.mp4,m.png\n')
    first, second, third = read_table(path)
    assert (first.video, first.masks) == (Path("/data/a.mp4"), (MaskFile(tmp_path / "at@4.png"),))
    assert second.video == tmp_path / "two\nlines, and more.mp4"
    assert third.video == tmp_path / os.fsdecode(b"caf\xe9.mp4")
    (row,) = read_table(table(tmp_path, json.dumps({"video": os.fsdecode(b"caf\xe9.mp4")}), "t.ndjson"))
    assert row.video == third.video


def test_out_is_another_word_for_name(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "out,video\nx,a.mp4\n"))[0].name == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no rows"),
        ("video\n\n", "has no rows"),
        ("mask\na.png\n", "line 1: no column is called video"),
        ("video,masks\na,b\n", "line 1: there is no column 'masks'; use video, "),
        ("video,out,name\na,b,c\n", "line 1: column 'name' is there twice"),
        ("video,mask\na,b,c\n", "line 2: has 3 cells, the first line names 2"),
        ("video,mask\n,b\n", "line 2: names no video"),
        ('video,mask\n"a,b\n', "is not CSV"),
        ("video,start\na,-3\n", "line 2: start is a whole number such as 40, not '-3'"),
        ("video,start\na,1e3\n", "line 2: start is a whole number"),
        ("video,end\na,99999999999\n", "line 2: end is a whole number"),
        ("video,direction\na,up\n", "line 2: direction is one of forward, backward, both, not 'up'"),
        ("video,point\na,3\n", "line 2: '3' is not a point"),
        ("video,reference\na,b.png\n", "line 2: 1 in column reference and 0 in reference_mask"),
        ("video,mask\na,b.png#0\n", "line 2: object id 0 is the background"),
        ("video\na\0b\n", "line 2: "),
        (b"video,text\na,caf\xe9\n", "line 2: text 'caf\\udce9' is not UTF-8"),
        ("video\na\n".encode("utf-16"), "is written in UTF-16"),
        ("video," + "x" * 200_000, "is not CSV (field larger"),
    ],
)
def test_what_makes_no_sense_in_csv(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(table(tmp_path, text))
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "line 1: a row is an object"),
        ("{", "line 1: is not JSON"),
        ('{"video": "a"}\n{"video": "a", "video": "b"}', "line 2: is not JSON (the field 'video' is given twice"),
        ('{"video": "a", "Mask": "b"}', "line 1: there is no column 'Mask'"),
        ('{"video": "a", "name": "b", "out": "c"}', "line 1: column 'name' is there twice"),
        ('{"video": ["a", "b"]}', "line 1: 'video' is one value, not a list"),
        ('{"video": 3}', "line 1: 'video' is a text, not 3"),
        ('{"video": "a", "start": "3"}', "line 1: 'start' is a whole number, not "),
        ('{"video": "a", "start": true}', "line 1: 'start' is a whole number, not "),
        ('{"video": "a", "mask": [["b"]]}', "line 1: 'mask' is a text, not "),
        ('{"mask": "a"}', "line 1: names no video"),
        ("[" * 100_000, "line 1: is not JSON"),
    ],
)
def test_what_makes_no_sense_in_json(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(table(tmp_path, text, "t.jsonl"))
    assert says in str(caught.value)


def test_tables_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "gone.csv")
    monkeypatch.setattr("vos.batch.tables.MOST_BYTES", 10)
    with pytest.raises(InputError, match="a table of videos is smaller"):
        read_table(table(tmp_path, "video\na.mp4\nb.mp4\n"))


def test_lists(tmp_path: Path) -> None:
    def names(data: bytes) -> list[str]:
        return [os.path.relpath(path, tmp_path) for path in read_list(table(tmp_path, data, "list.txt"))]

    assert names(b"a.mp4\n\nb c.mp4") == ["a.mp4", "b c.mp4"]
    assert names(b"\xef\xbb\xbfa.mp4\r\n\r\nb.mp4\r\n") == ["a.mp4", "b.mp4"]
    assert names(b"a\nb.mp4\0c.mp4\0") == ["a\nb.mp4", "c.mp4"]
    assert read_list(table(tmp_path, "/x/a.mp4\ns3://b/c.mp4\n", "list.txt")) == (
        Path("/x/a.mp4"),
        Path("s3://b/c.mp4"),
    )
    with pytest.raises(InputError, match="is empty"):
        names(b"\n\n")


_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not text.startswith("/") and "@" not in text and "#" not in text and ":" not in text
)


@given(st.lists(st.tuples(_CELLS, _CELLS), min_size=1, max_size=5))
def test_any_name_comes_through_csv(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    text = io.StringIO()
    csv.writer(text).writerows([("video", "mask"), *pairs])
    found = read_table(table(folder, text.getvalue().encode()))
    assert [(row.video, row.masks[0].path) for row in found] == [
        (folder / video, folder / mask) for video, mask in pairs
    ]


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.jsonl", "t.tsv"]))
def test_any_bytes_are_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for text in (data, b"video,mask,start\n" + data, b'{"video": "' + data):
        try:
            rows = read_table(table(folder, text, name))
        except VosError:
            continue
        assert rows


def test_the_columns_are_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "batch.md").read_text(encoding="utf-8")
    assert [column for column in COLUMNS if f"`{column}`" not in page] == []
