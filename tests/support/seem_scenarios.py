"""Recompute what a golden file of the official code holds: one small function per scenario (WEIGHT_FILL §4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from seem_fixtures import Golden, fill_official, make_image, make_mask
from torch import Tensor

from seem_core.class_embeddings import class_logits
from seem_core.config import PRESETS, SeemConfig
from seem_core.convert import convert_state_dict, load_converted
from seem_core.decoder import DecoderOutput, DecoderPrompts, QueryOutput, TextTokens
from seem_core.geometry import Geometry
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.routing import RoutingName
from seem_core.selection import Choice, choose_by_marks, choose_by_words
from seem_core.text import END, TextEncoder, tokenize
from seem_core.visual_sampler import VisualTokens

CONFIGURATIONS = {
    "focalt": "seem-focal-t-v1",
    "focall": "seem-focal-l-v1",
    "davitd3": "seem-davit-d3-v1",
    "davitd5": "seem-davit-d5-v1",
    "samvitb": "seem-sam-b-v1",
    "samvitl": "seem-sam-l-v1",
}
POS, NEG, REF, POS2 = range(4)
RECTANGLES = ((32, 48, 48, 64), (96, 104, 100, 120), (20, 36, 30, 60), (64, 80, 16, 31))
"""Rows of `in_masks_rc`: r0, r1, c0, c1."""
SENTENCE = "the zebra on the left."
CLASS_SENTENCES = [f"a photo of a {name}." for name in ("zebra", "person", "vase", "dog", "background")]
CONTEXT = 77
Named = Iterator[tuple[str, Tensor | np.ndarray]]


def parse_name(stem: str) -> tuple[str, RoutingName, str]:
    """``golden_<configuration>_<routing>[_<rest>]`` in its parts."""
    match = re.fullmatch(r"golden_([a-z0-9]+)_(demo|v0|v1)(?:_(\w+))?", stem)
    if match is None or match[1] not in CONFIGURATIONS:
        raise ValueError(f"{stem} is not a golden file of a known configuration")
    return match[1], match[2], match[3] or ""  # type: ignore[return-value]


def find_manifest(configuration: str, folders: tuple[Path, ...]) -> Path:
    """Names and shapes of a configuration; the same for all its routings."""
    for folder in folders:
        for path in sorted(folder.glob(f"manifest_{configuration}_*.json")):
            return path
    raise FileNotFoundError(f"no manifest_{configuration}_*.json in {', '.join(map(str, folders))}")


@cache
def load_model(manifest: Path, config: SeemConfig, dtype: torch.dtype) -> Seem:
    """The model as a user would get it from a file with the official names, filled."""
    weights = {key: value.to(dtype) for key, value in _filled(manifest).items()}
    model = load_converted(config, convert_state_dict(weights, config))
    assert isinstance(model, Seem)
    return model


@cache
def _filled(manifest: Path) -> dict[str, Tensor]:
    return fill_official(manifest)


def forget_models() -> None:
    """Free the weights, before another configuration is loaded."""
    load_model.cache_clear()
    _filled.cache_clear()


class Bench:
    """One golden file and the model it was made with.

    plain: decode in the order of the official code, with every layer's full masks; else the fast path.
    model: in place of the one that is filled and converted in memory.
    """

    def __init__(
        self,
        golden: Golden,
        folders: tuple[Path, ...],
        plain: bool,
        dtype: torch.dtype = torch.float32,
        model: Seem | None = None,
    ) -> None:
        self.golden = golden
        self.plain = plain
        configuration, self.routing, self.rest = parse_name(golden.name)
        self.sam = configuration.startswith("samvit")
        config = replace(PRESETS[CONFIGURATIONS[configuration]], routing=self.routing)
        self.model = model or load_model(find_manifest(configuration, folders), config, dtype)
        self.in_double = lambda: Bench(golden, folders, plain, torch.float64)
        self.made: dict[Callable[[Bench], Named], tuple[str, ...]] = {}  # keys by scenario, as far as it ran

    @property
    def scenarios(self) -> list[Callable[[Bench], Named]]:
        """The scenarios that this file has keys of."""
        whole = FILES_OF_ONE_SCENARIO.get(self.rest)
        asked = [s for pattern, s in SCENARIOS if any(re.match(pattern, key) for key in self.golden.keys)]
        return [whole] if whole else asked

    # --- inputs ---

    @cached_property
    def size(self) -> tuple[int, int]:
        if "in_size" in self.golden:
            h, w = self.golden["in_size"].tolist()
            return h, w
        return (120, 150) if "nondiv" in self.rest else (128, 160)

    @cached_property
    def image_a(self) -> ImageFeatures:
        return self.encode(make_image(12345, *self.size))

    @cached_property
    def image_b(self) -> ImageFeatures:
        return self.encode(make_image(54321, *self.size))

    @property
    def reference_image(self) -> ImageFeatures:
        """Where `ref` marks the object; the recordings of SAM models took the target itself, to save time."""
        return self.image_a if self.sam and self.routing == "demo" else self.image_b

    def encode(self, image: np.ndarray) -> ImageFeatures:
        return self.model.encode_image(torch.from_numpy(image)[None])

    def masks(self, *which: int | None) -> Tensor:
        """(N, H, W) bool of rectangles on the padded input; None marks nothing."""
        h, w = self.size
        masks = [np.zeros(self.size, bool) if i is None else make_mask(RECTANGLES[i], h, w) for i in which]
        padded = self.image_a.padded
        return Geometry(self.size, self.size, padded).pad(torch.from_numpy(np.stack(masks)))

    # --- decoding ---

    def decode(self, prompts: DecoderPrompts | None = None, features: ImageFeatures | None = None) -> DecoderOutput:
        return self.model.decode(features or self.image_a, prompts, masks=True, earlier=self.plain)

    @cached_property
    def reference(self) -> VisualTokens:
        return self.model.sample(self.reference_image, self.masks(REF))

    @cached_property
    def words(self) -> TextTokens:
        return self.model.encode_text([SENTENCE])

    @cached_property
    def vocabulary(self) -> Tensor:
        """(K, C) unit class embeddings, from one sentence each instead of from all templates."""
        vectors = self.text.sentences(*tokenize(CLASS_SENTENCES))
        return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-7)

    @property
    def text(self) -> TextEncoder:
        assert self.model.text_encoder is not None
        return self.model.text_encoder

    def class_logits(self, queries: QueryOutput) -> Tensor:
        return class_logits(queries.class_vectors, self.vocabulary, self.text.logit_scale)

    def choose(self, queries: QueryOutput | None, positive: Tensor) -> Choice:
        assert queries is not None
        per_object = self.model.config.decoder.queries_per_object if self.routing == "v1" else None
        return choose_by_marks(queries, positive, per_object)

    def round(
        self, marks: VisualTokens, previous: Tensor | None = None, features: ImageFeatures | None = None
    ) -> Tensor:
        """(B, N, h, w) mask logits of one interactive round of `v0` or `v1`."""
        features = features or self.image_a
        output = self.decode(DecoderPrompts(stroke=marks, previous_mask=previous), features)
        choice = self.choose(output.spatial, marks.positive)
        return features.mask_features.logits(choice.mask_embeddings)


def chosen(masks: Tensor | None, choice: Choice) -> Tensor:
    """(K, h, w) masks of the chosen queries of the first batch item."""
    assert masks is not None
    return masks[0, choice.indices[0]]


# --- scenarios: each yields names and values ---


def inputs(bench: Bench) -> Named:
    yield "in_imgA", make_image(12345, *bench.size)
    yield "in_imgB", make_image(54321, *bench.size)
    yield "in_size", np.array(bench.size)
    yield "in_masks_rc", np.array(RECTANGLES)
    yield "in_class_ids", _padded_ids(CLASS_SENTENCES)
    yield "in_text_ids", _padded_ids([SENTENCE])
    yield "in_text_attn", torch.arange(CONTEXT)[None] < tokenize([SENTENCE])[1][:, None]


def _padded_ids(sentences: list[str]) -> Tensor:
    """(n, 77): the official code always pads to the full context."""
    ids, _ = tokenize(sentences)
    return F.pad(ids, (0, CONTEXT - ids.shape[1]), value=END)


def features(bench: Bench) -> Named:
    normalised = bench.model.normalise(torch.from_numpy(make_image(12345, *bench.size))[None])
    padded = Geometry(bench.size, bench.size, bench.image_a.padded).pad(normalised)
    yield "padded_shape", np.array(padded.shape)
    yield "A_input_norm", padded
    for name, level in zip(("res2", "res3", "res4", "res5"), bench.model.backbone(padded), strict=True):
        yield f"A_{name}", level
    yield "A_mask_features", bench.image_a.mask_features.full()
    for i, level in enumerate(bench.image_a.levels):
        yield f"A_ms{i}", level


def panoptic(bench: Bench) -> Named:
    output = bench.decode()
    yield from _queries("panoptic_pred_", output.objects, bench)
    masks = output.objects.masks
    assert masks is not None
    yield "panoptic_maskfrac", (masks > 0).float().mean()
    if bench.plain:
        heads = [earlier.objects.masks for earlier in output.earlier] + [masks]
        yield "panoptic_aux0_pred_masks", heads[0]
        yield "panoptic_aux1_pred_masks", heads[1]
        yield "panoptic_aux_pred_masks_absmean", torch.stack([head.abs().mean() for head in heads])


def reference(bench: Bench) -> Named:
    yield from _tokens("ref_", bench.reference)


def _tokens(prefix: str, tokens: VisualTokens) -> Named:
    for kind in ("visual", "spatial"):
        yield f"{prefix}{kind}_query_pos", tokens.positive.transpose(0, 1)  # official layout: (1, B, C)
        yield f"{prefix}{kind}_query_neg", tokens.negative.transpose(0, 1)
        for i, (level, padding) in enumerate(zip(tokens.levels, tokens.padding, strict=True)):
            yield f"{prefix}src_{kind}_queries{i}", level.transpose(0, 1)  # (T, B, C)
            yield f"{prefix}src_{kind}_maskings{i}", padding


def _queries(prefix: str, queries: QueryOutput, bench: Bench) -> Named:
    yield f"{prefix}logits", bench.class_logits(queries)
    assert queries.masks is not None
    yield f"{prefix}masks", queries.masks
    yield f"{prefix}maskembs", queries.mask_embeddings
    yield f"{prefix}captions", queries.class_vectors


def _marks(prefix: str, tokens: VisualTokens, kind: str) -> Named:
    yield f"{prefix}p{kind}s", tokens.positive
    yield f"{prefix}n{kind}s", tokens.negative


def _marked(name: str, bench: Bench, prompts: DecoderPrompts, tokens: VisualTokens, kind: str) -> Named:
    """A prompt of marks in the demo routing: predictions, prompt vectors, and the chosen mask."""
    output = bench.decode(prompts)
    yield from _queries(f"{name}_pred_", output.objects, bench)
    yield from _marks(f"{name}_pred_", tokens, kind)
    choice = bench.choose(output.objects, tokens.positive)
    yield f"{name}_sel_logits", choice.similarity
    yield f"{name}_sel_idx", choice.indices[0]
    mask = chosen(output.objects.masks, choice)
    yield f"{name}_sel_mask", mask
    yield f"{name}_sel_class", bench.class_logits(output.objects)[0, choice.indices[0]].argmax(dim=-1)
    binary = Geometry(bench.size, bench.size, bench.image_a.padded).logits_to_image(mask) > 0
    yield f"{name}_binmask_packed", np.packbits(binary.numpy())
    yield f"{name}_binmask_shape", np.array(binary.shape)


def video(bench: Bench) -> Named:
    yield from _marked("video", bench, DecoderPrompts(reference=bench.reference), bench.reference, "visual")


def stroke(bench: Bench) -> Named:
    tokens = bench.model.sample(bench.image_a, bench.masks(POS))
    yield from _marked("stroke", bench, DecoderPrompts(stroke=tokens), tokens, "spatial")


def posneg(bench: Bench) -> Named:
    tokens = bench.model.sample(bench.image_a, bench.masks(POS), bench.masks(NEG))
    yield from _marked("posneg", bench, DecoderPrompts(stroke=tokens), tokens, "spatial")


def words(bench: Bench) -> Named:
    output = bench.decode(DecoderPrompts(text=bench.words))
    yield from _queries("text_pred_", output.objects, bench)
    yield from _by_words("text", output.objects, bench)


def _by_words(name: str, queries: QueryOutput, bench: Bench) -> Named:
    choice = choose_by_words(queries, bench.words.sentences, bench.text.logit_scale)
    yield f"{name}_sel_logits", choice.similarity[0]
    yield f"{name}_sel_idx", choice.indices[0]
    yield f"{name}_sel_mask", chosen(queries.masks, choice)


def combination(bench: Bench) -> Named:
    tokens = bench.model.sample(bench.image_a, bench.masks(POS))
    prompts = DecoderPrompts(stroke=tokens, reference=bench.reference, text=bench.words)
    yield from _marked("combo", bench, prompts, tokens, "spatial")


def text(bench: Bench) -> Named:
    yield "text_class_emb_norm", bench.vocabulary
    hidden = bench.text(_padded_ids([SENTENCE]))
    yield "text_last_hidden", hidden
    yield "text_token_emb", hidden @ bench.text.projection
    yield "text_class_emb", bench.words.sentences


def rounds(bench: Bench) -> Named:
    first = bench.round(bench.model.sample(bench.image_a, bench.masks(POS)))
    yield "round1_prev_mask", first
    corrected = bench.model.sample(bench.image_a, bench.masks(POS), bench.masks(NEG))
    yield "round2_prev_mask", bench.round(corrected, first)


def two_objects(bench: Bench) -> Named:
    marks = _two_marked(bench)
    first = bench.round(marks)
    yield "obj2_round1_prev_mask", first
    yield "obj2_round2_prev_mask", bench.round(marks, first)


def _two_marked(bench: Bench) -> VisualTokens:
    return bench.model.sample(bench.image_a, bench.masks(POS, POS2), bench.masks(NEG, None))


def reference_round(bench: Bench) -> Named:
    """Tokens of an earlier encoding in place of marks on this image; the recording took `pos` of the target itself."""
    yield "refimg_prev_mask", bench.round(bench.model.sample(bench.image_a, bench.masks(POS)))


def grounding(bench: Bench) -> Named:
    queries = bench.decode(DecoderPrompts(text=bench.words)).grounding
    assert queries is not None
    yield "ground_pred_gmasks", queries.masks
    yield "ground_pred_gtexts", queries.class_vectors
    yield from _by_words("ground", queries, bench)


def everything(bench: Bench) -> Named:
    """Strokes, words and the mask of a round with the same strokes, together."""
    if bench.golden.shape("all_pred_pspatials")[1] == 2:  # objects
        marks = _two_marked(bench)
    else:
        marks = bench.model.sample(bench.image_a, bench.masks(POS), bench.masks(NEG))
    output = bench.decode(DecoderPrompts(stroke=marks, text=bench.words, previous_mask=bench.round(marks)))
    yield from _queries("all_pred_", output.objects, bench)
    yield from _marks("all_pred_", marks, "spatial")
    for letter, queries in (("s", output.spatial), ("g", output.grounding)):
        assert queries is not None
        yield f"all_pred_{letter}masks", queries.masks
        yield f"all_pred_{letter}maskembs", queries.mask_embeddings
        yield f"all_pred_{letter}texts", queries.class_vectors


def batch_of_two(bench: Bench) -> Named:
    """Two referring masks as a batch, on one image that both share."""
    tokens = bench.model.sample(bench.reference_image, bench.masks(REF, POS2))
    yield from _tokens("ref_", tokens)
    output = bench.decode(DecoderPrompts(reference=tokens))
    yield from _queries("pred_", output.objects, bench)
    choice = bench.choose(output.objects, tokens.positive)
    yield "sel_idx", choice.indices[:, 0]
    assert output.objects.masks is not None
    yield "sel_mask", output.objects.masks[torch.arange(2), choice.indices[:, 0]]


def next_frame(bench: Bench) -> Named:
    """A reference followed into two frames, the second with and without the first one's mask as memory."""
    yield from _tokens("ref_", bench.reference)
    first = bench.round(bench.reference)
    yield "frame1_mask", first
    image = make_image(777, *bench.size)
    yield "frame2_image", image
    frame2 = bench.encode(image)
    yield "frame2_mask_features", frame2.mask_features.full()
    yield "frame2_mask_nomem", bench.round(bench.reference, None, frame2)
    yield "frame2_mask_mem", bench.round(bench.reference, first, frame2)


SCENARIOS: tuple[tuple[str, Callable[[Bench], Named]], ...] = (
    (r"in_", inputs),
    (r"padded_shape|A_", features),
    (r"panoptic_", panoptic),
    (r"ref_", reference),
    (r"text_(class|last|token)_", text),
    (r"video_", video),
    (r"stroke_", stroke),
    (r"posneg_", posneg),
    (r"text_(pred|sel)_", words),
    (r"combo_", combination),
    (r"round[12]_", rounds),
    (r"obj2_", two_objects),
    (r"refimg_", reference_round),
    (r"ground_", grounding),
    (r"all_", everything),
)
FILES_OF_ONE_SCENARIO: dict[str, Callable[[Bench], Named]] = {"batch2": batch_of_two, "video": next_frame}
"""Scenario that makes all of a file, by the last part of its name."""
