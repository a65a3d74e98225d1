"""Memory on disk: everything comes back, and what is no memory of this model is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from seem_core.errors import InputError, LimitError, OutputError
from seem_core.segmenter_types import ObjectTokens
from trackers.memory_bank import Entry, LongTerm, MemoryBank, Previous
from trackers.memory_file import objects_of

MODEL = "reader of this test"


def filled(frames: int = 6, dtype: torch.dtype = torch.float32) -> MemoryBank:
    """A bank with something in every place."""
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(2, long_term=LongTerm(cells=128, slack=0, every=1))
    bank.space = (torch.rand(3, generator=generator),)
    for frame in range(frames):
        keys = (torch.rand(128, 4, generator=generator).to(dtype), torch.rand(512, generator=generator).to(dtype))
        values = {i: torch.rand(512, 4, generator=generator).half() for i in (1, 300)[: 1 + frame]}
        bank.write(Entry(frame, keys, values, pinned=frame == 0, grid=(8, 16)))
        bank.count_votes([torch.ones(128) for _ in bank.dense])
    looks = {300: ObjectTokens(300, (torch.ones(5, 4), torch.ones(0, 4)), None), 1: ObjectTokens(1, (), torch.ones(4))}
    bank.write(Entry(frames, (), {}, looks))
    bank.keep_previous(Previous(frames, (torch.ones(4),), {1: (torch.ones(2), torch.zeros(3, 1))}))
    return bank


def same(a: object, b: object) -> bool:
    """Whether two states are equal down to types and bits."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(frames=st.integers(1, 7), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
@settings(deadline=None, max_examples=12)
def test_everything_comes_back(tmp_path_factory: pytest.TempPathFactory, frames: int, dtype: torch.dtype) -> None:
    bank, path = filled(frames, dtype), tmp_path_factory.mktemp("memory") / "shown.safetensors"
    bank.save(path, model=MODEL)
    loaded = MemoryBank.load(path, model=MODEL, max_recent=2, long_term=bank.long_term)
    assert same(loaded.state_dict(), bank.state_dict())
    assert (loaded.bytes, repr(loaded)) == (bank.bytes, repr(bank))
    assert objects_of(path) == bank.ids
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_bank_of_nothing_comes_back(tmp_path: Path) -> None:
    MemoryBank().save(tmp_path / "empty.safetensors", model=MODEL)
    assert len(MemoryBank.load(tmp_path / "empty.safetensors", model=MODEL)) == 0


def test_another_model_is_refused_by_both_names(tmp_path: Path) -> None:
    filled().save(tmp_path / "m.safetensors", model="reader A")
    with pytest.raises(InputError, match="'reader A', not by 'reader B'"):
        MemoryBank.load(tmp_path / "m.safetensors", model="reader B")


def test_a_memory_larger_than_the_bounds_is_refused(tmp_path: Path) -> None:
    filled().save(tmp_path / "m.safetensors", model=MODEL)
    with pytest.raises(LimitError, match="raise the bound"):
        MemoryBank.load(tmp_path / "m.safetensors", model=MODEL, max_bytes=1000)


def rewritten(path: Path, **changes: str | None) -> Path:
    """The same file with other metadata."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = {**file.metadata(), **changes}
    tensors = load_file(path)
    save_file(tensors, path, {k: v for k, v in metadata.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "weights"}, "is no memory file"),
        ({"format": None}, "is no memory file"),
        ({"version": "1"}, "has version '1', this program reads 2"),
        ({"contents": None}, "is damaged"),
        ({"contents": "{"}, "is damaged"),
        ({"contents": "[]"}, "is damaged"),
        ({"contents": "{}"}, "is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, str | None], sentence: str) -> None:
    path = tmp_path / "m.safetensors"
    filled().save(path, model=MODEL)
    with pytest.raises(InputError, match=sentence) as caught:
        MemoryBank.load(rewritten(path, **changes), model=MODEL)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        MemoryBank.load(tmp_path / "none.safetensors", model=MODEL)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=20)
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("memory") / "m.safetensors"
    filled(3).save(path, model=MODEL)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="cannot be read"):
        MemoryBank.load(path, model=MODEL)
    with pytest.raises(InputError, match="cannot be read"):
        objects_of(path)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_description_that_does_not_fit_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Something in the description is replaced: the file is refused, or what is left of it is whole."""
    path = tmp_path_factory.mktemp("memory") / "m.safetensors"
    filled(3).save(path, model=MODEL)
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        contents = json.loads(file.metadata()["contents"])
    places = list(walk(contents))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(st.sampled_from([None, 3, "x", [], {}, {"tensor": "t0"}, {"tensor": "t9999"}, [1, 2]]))
    rewritten(path, contents=json.dumps(contents))
    try:
        loaded = MemoryBank.load(path, model=MODEL)
    except InputError:
        return
    loaded.state_dict()
    assert loaded.bytes <= loaded.max_bytes


def walk(value: object) -> list[tuple[object, object]]:
    """Every place in a JSON structure, as holder and key."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in items] + [place for _, item in items for place in walk(item)]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        filled(1).save(tmp_path / "file" / "m.safetensors", model=MODEL)
