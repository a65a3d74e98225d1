"""Tokenizer, text encoder and class embeddings with a small random encoder: limits, cache, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from seem_core import class_embeddings as module
from seem_core.class_embeddings import class_embeddings, class_logits, clean_name, default_cache
from seem_core.errors import MissingExtraError, PromptError
from seem_core.text import END, START, TextConfig, TextEncoder, byte_pairs, tokenize

SMALL = TextConfig(channels=32, layers=2, heads=2, projected=16)
NAMES = ("dog", "sky-other-merged", "traffic light")


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return SMALL.build().eval()


def test_tokens_are_framed_and_padded() -> None:
    ids, lengths = tokenize(["a dog", "a photo of a dog."])
    assert ids.shape == (2, 8)
    assert lengths.tolist() == [4, 8]
    assert ids[0].tolist() == [START, 320, 1929, END, END, END, END, END]


def test_case_space_and_composition_make_no_difference() -> None:
    ids, _ = tokenize(["a  Caf\u00e9\n", "A CAFE\u0301"])
    assert ids[0].tolist() == ids[1].tolist()


def test_long_texts_lose_words_but_not_their_end() -> None:
    ids, lengths = tokenize(["dog " * 200])
    assert lengths.tolist() == [77]
    assert ids[0].tolist() == [START, *[1929] * 75, END]


def test_marks_of_the_tokenizer_in_a_text_are_plain_words() -> None:
    ids, lengths = tokenize(["<|endoftext|> dog"])
    assert (ids[0, : int(lengths[0]) - 1] != END).all()


@pytest.mark.parametrize(("texts", "message"), [([], "no text"), (["dog", " \n"], "holds no word")])
def test_no_words_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        tokenize(texts)


def test_missing_tokenizer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    byte_pairs.cache_clear()
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    with pytest.raises(MissingExtraError, match=r"seem-vos\[text\]"):
        tokenize(["dog"])
    byte_pairs.cache_clear()


@torch.inference_mode()
def test_words_after_the_end_change_nothing(encoder: TextEncoder) -> None:
    ids, lengths = tokenize(["a dog", "a much longer text about a dog"])
    alone, count = tokenize(["a dog"])
    torch.testing.assert_close(encoder.sentences(ids, lengths)[:1], encoder.sentences(alone, count))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_encoder_in_half_precision(encoder: TextEncoder, dtype: torch.dtype) -> None:
    reference = encoder.ground(["a dog"])
    tokens = encoder.to(dtype).ground(["a dog"])
    assert tokens.tokens.dtype == dtype
    assert (tokens.tokens.float() - reference.tokens).norm() < 0.05 * reference.tokens.norm()


@pytest.mark.parametrize(
    ("name", "said"),
    [("sky-other-merged", "sky"), ("door-stuff", "door"), ("floor-wood", "floor-wood"), (" another ", "another")],
)
def test_names_are_cleaned(name: str, said: str) -> None:
    assert clean_name(name) == said


def test_class_is_the_mean_of_its_sentences(encoder: TextEncoder) -> None:
    embeddings = class_embeddings(encoder, NAMES, templates=("{}.", "a photo of a {}."))
    assert embeddings.shape == (3, 16)
    with torch.inference_mode():
        sentences = encoder.sentences(*tokenize(["sky.", "a photo of a sky."]))
    mean = torch.nn.functional.normalize(sentences).mean(0)
    torch.testing.assert_close(embeddings[1], mean / mean.norm())


def test_small_batches_give_the_same(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = class_embeddings(encoder, NAMES)
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 30)
    calls: list[tuple[int, int]] = []
    torch.testing.assert_close(
        class_embeddings(encoder, NAMES, progress=lambda done, total: calls.append((done, total))), whole
    )
    assert calls[-1] == (243, 243)
    assert len(calls) > 50


@pytest.mark.parametrize(("names", "message"), [([], "vocabulary is empty"), (["dog", "-stuff"], "class name 2")])
def test_empty_vocabulary_is_refused(encoder: TextEncoder, names: list[str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        class_embeddings(encoder, names)


def test_scores_are_scaled_cosines() -> None:
    scores = class_logits(torch.tensor([[[3.0, 0.0]]]), torch.eye(2), torch.tensor(2.0))
    torch.testing.assert_close(scores, torch.tensor([[[7.389056, 0.0]]]), atol=1e-5, rtol=0)


class Refuse:
    """Stands for the encoder's work where the cache must answer."""

    def __call__(self, *_: object) -> torch.Tensor:
        raise AssertionError("computed again")


def test_cache_answers_the_second_time(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = class_embeddings(encoder, NAMES, cache=tmp_path)
    monkeypatch.setattr(module, "embed_names", Refuse())
    assert torch.equal(class_embeddings(encoder, NAMES, cache=tmp_path), first)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_cache_knows_weights_names_and_templates_apart(encoder: TextEncoder, tmp_path: Path) -> None:
    class_embeddings(encoder, NAMES, cache=tmp_path)
    class_embeddings(encoder, NAMES[::-1], cache=tmp_path)
    class_embeddings(encoder, NAMES, templates=("{}.",), cache=tmp_path)
    with torch.no_grad():
        encoder.ln_final.bias[0] += 1e-6
    class_embeddings(encoder, NAMES, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "other shape"])
def test_damaged_cache_is_written_anew(
    encoder: TextEncoder, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = class_embeddings(encoder, NAMES, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    if damage == "other shape":
        module._write(file, first[:2])
    else:
        file.write_bytes({"truncated": data[:-9], "zeros": data[:-64] + bytes(64), "empty": b""}[damage])
    assert torch.equal(class_embeddings(encoder, NAMES, cache=tmp_path), first)
    assert "again" in caplog.text
    assert file.read_bytes() == data


def test_cache_that_cannot_be_written_is_only_slower(
    encoder: TextEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert class_embeddings(encoder, NAMES, cache=blocked / "cache").shape == (3, 16)
    assert "cannot be" in caplog.text


def test_cache_is_bounded(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_VOCABULARIES", 3)
    for i in range(6):
        class_embeddings(encoder, [f"name {i}"], templates=("{}.",), cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == min(i + 1, 3)


def test_cache_folder_follows_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "seem-vos" / "class-embeddings"
