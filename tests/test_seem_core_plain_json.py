"""JSON that may be hostile: a value, or a ValueError; never an overflow of the stack, never all of a giant file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seem_core.plain_json import MOST_DEPTH, parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary())
def test_any_bytes_give_a_value_or_a_value_error(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError:
        return


@pytest.mark.parametrize("opens", ["[", '{"a":'])
def test_the_depth_is_bounded(opens: str) -> None:
    closes = "]" if opens == "[" else "}"
    parse_json(opens * MOST_DEPTH + ("1" if opens != "[" else "") + closes * MOST_DEPTH)
    for depth in (MOST_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match="deep"):
            parse_json(opens * depth + "1" + closes * depth)


def test_numbers_that_are_none_are_refused_unless_wanted() -> None:
    for text in ("NaN", "[-Infinity]"):
        with pytest.raises(ValueError, match="not a number"):
            parse_json(text)
        parse_json(text, any_float=True)


def test_a_file_above_the_bound_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]", encoding="utf-8")
    assert read_json(path, 6) == [1, 2]
    with pytest.raises(ValueError, match="more than"):
        read_json(path, 5)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of zeros, without any of them on the disk
    with pytest.raises(ValueError, match="more than 1 MB"):
        read_json(path, 1 << 20)
    with pytest.raises(OSError, match="No such file"):
        read_json(tmp_path / "missing.json")
