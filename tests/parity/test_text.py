"""Text encoder, tokenizer and class embeddings against the official code; the same weights in every configuration."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pytest
import torch
from seem_fixtures import load_golden
from seem_modules import load_part
from support import require

from seem_core.class_embeddings import class_embeddings, class_logits
from seem_core.coco import BACKGROUND, COCO_PANOPTIC, COCO_THINGS, is_thing
from seem_core.templates import CLASS_TEMPLATES
from seem_core.text import TextConfig, TextEncoder, tokenize

TEXT_ENCODER = "sem_seg_head.predictor.lang_encoder."
GOLDENS = ("focalt_demo", "focalt_v0", "focalt_v1", "focall_demo", "davitd3_demo", "davitd3_v1", "samvitb_demo")
CLASSES = ("zebra", "person", "vase", "dog", "background")
SENTENCE = "the zebra on the left."


@pytest.fixture(scope="module", autouse=True)
def tokenizer() -> None:
    require(find_spec("instant_clip_tokenizer") is not None, "the extra `text` is not installed")


@pytest.fixture(scope="module")
def encoder(reference_root: Path) -> TextEncoder:
    """Filled by the names of one manifest; they are the same in all."""
    return cast(TextEncoder, load_part(reference_root / "manifest_focalt_demo.json", TEXT_ENCODER, TextConfig().build))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-7)


@pytest.mark.parametrize("name", GOLDENS)
@torch.inference_mode()
def test_text_encoder(reference_root: Path, encoder: TextEncoder, name: str) -> None:
    golden = load_golden(reference_root / f"golden_{name}.npz")
    states = encoder(torch.from_numpy(golden["in_text_ids"]))  # padded to 77, as recorded
    golden.compare("text_last_hidden", states)
    golden.compare("text_token_emb", states @ encoder.projection)
    golden.compare("text_class_emb", encoder.ground([SENTENCE]).sentences)
    ids, lengths = tokenize([f"a photo of a {name}." for name in CLASSES])
    golden.compare("text_class_emb_norm", unit(encoder.sentences(ids, lengths)))
    assert golden["in_text_ids"][0, : int(golden["in_text_attn"].sum())].tolist() == tokenize([SENTENCE])[0][0].tolist()
    assert golden["in_class_ids"][:, : ids.shape[1]].tolist() == ids.tolist()


@torch.inference_mode()
def test_longest_of_the_batch_is_as_good_as_77(encoder: TextEncoder) -> None:
    """The encoder is causal: what stands after END, and how much of it, changes nothing up to END."""
    texts = [SENTENCE, "zebra.", "a low resolution photo of the traffic light."]
    ids, lengths = tokenize(texts)
    full = torch.cat((ids, torch.full((3, 77 - ids.shape[1]), 49407)), dim=1)
    short, long = encoder(ids), encoder(full)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(short[i, :length], long[i, :length], atol=2e-5, rtol=0)
    torch.testing.assert_close(encoder.sentences(ids, lengths), encoder.sentences(full, lengths), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_ground_concatenates_texts(encoder: TextEncoder) -> None:
    both = encoder.ground([SENTENCE, "zebra."])
    first, second = encoder.ground([SENTENCE]), encoder.ground(["zebra."])
    assert both.tokens.shape == (1, 8 + 4, 512)
    torch.testing.assert_close(both.tokens, torch.cat((first.tokens, second.tokens), dim=1), atol=2e-5, rtol=0)
    torch.testing.assert_close(both.sentences, torch.cat((first.sentences, second.sentences)), atol=2e-5, rtol=0)


def test_tokens(reference_root: Path) -> None:
    phrases = json.loads((reference_root / "tokens.json").read_text())["phrases"]
    for phrase, recorded in phrases.items():
        ids, lengths = tokenize([phrase])
        assert ids[0].tolist() == recorded["input_ids"], phrase
        assert lengths.tolist() == [len(recorded["input_ids"])]


def test_templates_and_names(reference_root: Path) -> None:
    recorded = json.loads((reference_root / "text_templates.json").read_text())
    assert list(CLASS_TEMPLATES) == recorded["templates"]
    assert list(COCO_PANOPTIC) == recorded["coco_panoptic_133"]
    assert recorded["no_object_extra_class"] == BACKGROUND
    assert [is_thing(i) for i in range(133)] == [i < len(COCO_THINGS) for i in range(133)]


def test_class_embeddings_and_scores(reference_root: Path, encoder: TextEncoder) -> None:
    golden = load_golden(reference_root / "golden_textclass.npz")
    embeddings = class_embeddings(encoder, ["traffic light", "tree-merged", "water-other"])
    golden.compare("class_emb_3x512", embeddings)
    scores = class_logits(torch.from_numpy(golden["v_emb"]), embeddings, encoder.logit_scale)
    golden.compare("similarity", scores)
