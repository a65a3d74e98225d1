"""SEEM as a `Segmenter`: pictures and prompts as people have them in, masks, scores and class names out.

    picture -> resize, normalise, pad -> Seem.encode_image -> SeemFeatures
    marks -> canvas -> visual sampler --+
    other picture + its mask -> tokens -+-> one request per object -> Seem.decode -> choose a query -> Prediction
    words -> text encoder --------------+
    mask of the round before -----------+

Paper: Zou et al., "Segment Everything Everywhere All at Once" (arXiv:2304.06718) section 3; SPEC §5-§8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.checkpoint import load_seem
from seem_core.class_embeddings import class_logits
from seem_core.decoder import TextTokens
from seem_core.errors import CheckpointError, InputError, MaskError, PromptError
from seem_core.geometry import Geometry, InputSize, resize_image
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.object_decoder import decode_objects
from seem_core.object_requests import ObjectRequest, OutputQuery
from seem_core.object_tokens import split_objects
from seem_core.postprocess import (
    Panoptic,
    instance_segmentation,
    panoptic_segmentation_of,
    semantic_segmentation,
)
from seem_core.prompt_canvas import draw_marks, mask_on_canvas
from seem_core.prompts import Prompt, ReferencePrompt, TextPrompt
from seem_core.segmenter_types import ObjectTokens, Prediction, Trained
from seem_core.vocabulary import Vocabulary, stored_vocabulary

LONGEST_SIDE = 2048
"""Cap on the long side where a configuration names none: only pictures more than four times as long as high meet it."""

OBJECTS_PER_PASS = 16
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: Mapping[str, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_TEXTS_KEPT = 64


@dataclass(frozen=True, eq=False)
class SeemFeatures:
    """One encoded picture. image: what the model reads. geometry: where the picture lies in the model's input."""

    image: ImageFeatures
    geometry: Geometry

    def __repr__(self) -> str:
        (H, W), (h, w) = self.geometry.source, self.geometry.image
        return f"SeemFeatures(source={W}x{H}, encoded={w}x{h})"


class SeemSegmenter:
    """Has a `Seem`; keeps nothing of the pictures that it was given, besides the tokens of words and references.

    vocabulary: gives every mask a class name, and is what `panoptic`, `semantic` and `instances` tell apart.
    input_size: how large pictures are encoded; by default as the configuration says, with the long side at most
    `LONGEST_SIDE`. output_query: which queries answer where an object has marks *and* words, see `OutputQuery`.
    trained: what of the weights has seen training data. gradients: whether results can be differentiated.
    objects_per_pass: more objects are decoded in several passes, so that memory does not grow with their number.
    """

    def __init__(
        self,
        model: Seem,
        *,
        vocabulary: Vocabulary | None = None,
        input_size: InputSize | None = None,
        output_query: OutputQuery = "auto",
        trained: Trained = "none",
        gradients: bool = False,
        objects_per_pass: int = OBJECTS_PER_PASS,
    ) -> None:
        if objects_per_pass < 1:
            raise InputError(f"at least one object is decoded per pass, not {objects_per_pass}")
        self.model = model
        self.input_size = input_size or model.config.input_size
        self.output_query: OutputQuery = output_query
        self._trained: Trained = trained
        self._gradients = gradients
        self._per_pass = objects_per_pass
        self._texts: OrderedDict[str, TextTokens] = OrderedDict()
        self._references: WeakKeyDictionary[ReferencePrompt, ObjectTokens] = WeakKeyDictionary()
        self.vocabulary: Vocabulary | None = None
        if vocabulary is not None:
            self.use_vocabulary(vocabulary)

    def __repr__(self) -> str:
        return f"SeemSegmenter({self.name}, routing {self.model.config.routing}, trained: {self.trained})"

    @property
    def name(self) -> str:
        """Name of the configuration."""
        return self.model.config.name

    @property
    def trained(self) -> Trained:
        """See `Segmenter.trained`."""
        return self._trained

    @property
    def device(self) -> torch.device:
        """Where the model is, and where tokens and masks come to lie."""
        return self.model.device

    @property
    def reads_previous_mask(self) -> bool:
        """Whether the routing has memory tokens; `demo` has none and goes by the marks alone."""
        return self.model.decoder.routing.has_query_groups

    @property
    def reads_words(self) -> bool:
        """Whether the model has a text encoder, so that objects can be given in words."""
        return self.model.text_encoder is not None

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Tell these classes apart from now on.

        Raises PromptError where the model has no text encoder, CheckpointError for embeddings of another model.
        """
        encoder = self.model.text_encoder
        if encoder is None:
            raise PromptError(f"model {self.name} has no text encoder and tells no classes apart; leave out vocabulary")
        if vocabulary.embeddings.shape[1] != encoder.config.projected:
            raise CheckpointError(
                f"class embeddings are {vocabulary.embeddings.shape[1]} wide, model {self.name} needs "
                f"{encoder.config.projected}; make them with this model"
            )
        self.vocabulary = vocabulary.to(self.model.decoder.query_content)

    def at(self, input_size: InputSize) -> SeemSegmenter:
        """The same model and vocabulary, reading pictures at another size."""
        other = SeemSegmenter(
            self.model,
            input_size=input_size,
            output_query=self.output_query,
            trained=self._trained,
            gradients=self._gradients,
            objects_per_pass=self._per_pass,
        )
        other.vocabulary = self.vocabulary
        return other

    # --- pictures ---

    def plan(self, source: tuple[int, int]) -> Geometry:
        """How a picture of (H, W) pixels is encoded. Raises LimitError where it would become too large."""
        size = self.input_size
        if size.longest is None:
            size = replace(size, longest=max(LONGEST_SIDE, size.short))
        return Geometry.plan(source, size, self.model.config.divisor)

    def encode(self, image: Tensor) -> SeemFeatures:
        """Features of one (3, H, W) uint8 RGB picture. Raises InputError for anything else."""
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or image.dtype != torch.uint8:
            raise InputError(f"a picture is (3, H, W) uint8 RGB, not {tuple(image.shape)} {image.dtype}")
        geometry = self.plan((image.shape[1], image.shape[2]))
        pixels = resize_image(image.permute(1, 2, 0).cpu().numpy(), geometry.image)  # (h, w, 3)
        with torch.set_grad_enabled(self._gradients):
            features = self.model.encode_image(torch.tensor(pixels).permute(2, 0, 1)[None])
        return SeemFeatures(features, geometry)

    # --- prompted objects ---

    def segment(
        self,
        features: SeemFeatures,
        prompts: Sequence[Prompt],
        previous: Prediction | None = None,
        *,
        output_query: OutputQuery | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Masks of all objects that `prompts` name, in ascending order of their ids.

        previous: masks of the round before, read through the memory prompt (`v0` and `v1`) by objects that have marks
        or a reference. `prompts` are all prompts so far: SEEM's rounds accumulate them (SPEC §8).
        output_query: instead of the segmenter's own. generator: a CPU generator that draws which of more than 512
        marked pixels are read; by default one with a fixed seed, so that the same input gives the same masks.
        Raises PromptError for no prompt, a place outside, an object without a positive mark, words without a text
        encoder, previous masks in the routing `demo`; MaskError for a mask of another size.
        """
        if not prompts:
            raise PromptError("nothing says what to segment; give a point, a box, a mask, a reference or words")
        if previous is not None and not self.reads_previous_mask:
            raise PromptError(
                f"model {self.name} with routing demo does not read a previous mask; use routing v0 or v1, or leave it"
            )
        requests = self._requests(features, prompts, previous)
        return self._answer(features, requests, output_query or self.output_query, generator)

    def remember(self, features: SeemFeatures, masks: Tensor, ids: Sequence[int] | None = None) -> list[ObjectTokens]:
        """Tokens of N objects, each sampled on its own: what `recall` finds them by on other pictures.

        masks: (N, H, W) bool at source size. ids: by default 1..N. Raises MaskError for another size or number, and
        PromptError for an empty mask.
        """
        ids = range(1, len(masks) + 1) if ids is None else ids
        if masks.ndim != 3 or len(ids) != len(masks):
            raise MaskError(f"{len(ids)} objects need as many masks (N, H, W), not {tuple(masks.shape)}")
        return [self._sample_one(features, mask, object_id) for object_id, mask in zip(ids, masks, strict=True)]

    def recall(
        self, features: SeemFeatures, memory: Sequence[ObjectTokens], prior: Prediction | None = None
    ) -> Prediction:
        """Masks of the remembered objects on this picture, in ascending order of their ids.

        memory: any number of views of each object. Together they give the decoder at most as many tokens as one mask
        does (512), in `v1` for all objects of a pass. prior: masks read through the memory prompt, of these objects or
        some of them, for example those of the frame before; a routing without memory tokens (`demo`) leaves it unread.
        """
        if not memory:
            raise PromptError("the memory is empty; remember at least one object first")
        expected = self._previous_rows(features, prior) if self.reads_previous_mask else {}
        requests = [
            ObjectRequest(i, references=tuple(m for m in memory if m.object_id == i), previous=expected.get(i))
            for i in sorted({tokens.object_id for tokens in memory})
        ]
        return self._answer(features, requests, "auto", None)

    # --- everything in the picture ---

    def panoptic(
        self, features: SeemFeatures, *, object_threshold: float | None = None, overlap_threshold: float = 0.8
    ) -> Panoptic:
        """Every pixel of the picture to one region or none; ids (H, W) are at source size.

        object_threshold: least class probability of a region; by default the official 0.8, in `demo` 0.4. Class
        indices are those of `vocabulary`. Raises PromptError without a vocabulary.
        """
        if object_threshold is None:
            object_threshold = 0.8 if self.reads_previous_mask else 0.4
        vocabulary, logits, masks = self._everything(features)
        geometry = features.geometry
        return panoptic_segmentation_of(
            logits,
            lambda query: geometry.logits_to_source(masks[query][None], "panoptic")[0],
            vocabulary.things,
            geometry.source,
            object_threshold=object_threshold,
            overlap_threshold=overlap_threshold,
        )

    def semantic(self, features: SeemFeatures) -> Tensor:
        """(H, W) int64 class index of every pixel at source size: the class with the largest sum over queries.

        Computed at the size of the encoded picture, where that is smaller (100 classes of a 4K picture are 3 GB).
        """
        _, logits, masks = self._everything(features)
        geometry = features.geometry
        shrunk = geometry.image[0] < geometry.source[0]
        full = geometry.logits_to_image(masks) if shrunk else geometry.logits_to_source(masks)
        classes = semantic_segmentation(logits, full).argmax(0)
        return F.interpolate(classes[None, None].double(), size=geometry.source, mode="nearest")[0, 0].long()

    def instances(self, features: SeemFeatures, top: int = 100) -> Prediction:
        """The `top` most certain countable things as objects 1, 2, ..., most certain first; they may overlap.

        How sure a mask is, is measured at stride 4.
        """
        vocabulary, logits, masks = self._everything(features)
        h, w = (-(-side // 4) for side in features.geometry.image)
        found = instance_segmentation(logits, masks[:, :h, :w], top=top, things=vocabulary.things)
        order = found.scores.argsort(descending=True, stable=True)
        queries = found.queries[order]
        names = tuple(vocabulary.name(int(c)) for c in found.classes[order])
        ids = tuple(range(1, len(order) + 1))
        return Prediction(ids, masks[queries], found.scores[order].clamp(0, 1), features.geometry, names)

    # --- from prompts to requests ---

    def _requests(
        self, features: SeemFeatures, prompts: Sequence[Prompt], previous: Prediction | None
    ) -> list[ObjectRequest]:
        canvases = draw_marks(prompts, features.geometry)
        before = self._previous_rows(features, previous)
        requests = []
        for i in sorted({prompt.object_id for prompt in prompts}):
            references = tuple(self._refer(p) for p in prompts if isinstance(p, ReferencePrompt) and p.object_id == i)
            text = ", ".join(p.text.strip() for p in prompts if isinstance(p, TextPrompt) and p.object_id == i)
            marks = None
            if i in canvases.ids:
                row = canvases.ids.index(i)
                marks = (canvases.positive[row], canvases.negative[row])
            request = ObjectRequest(i, marks, references, self._words(text) if text else None, before.get(i))
            request.check()
            requests.append(request)
        return requests

    def _previous_rows(self, features: SeemFeatures, previous: Prediction | None) -> dict[int, Tensor]:
        """(h, w) logits by object id, on the grid of this picture."""
        if previous is None:
            return {}
        fitting = previous.on(features.geometry)
        return dict(zip(fitting.ids, fitting.logits.to(self.model.device), strict=True))

    def _refer(self, prompt: ReferencePrompt) -> ObjectTokens:
        """Tokens of the object on the other picture; computed once per prompt object."""
        found = self._references.get(prompt)
        if found is None:
            if not prompt.mask.any():
                raise PromptError(f"the reference mask of object {prompt.object_id} is empty; mark the object on it")
            other = self.encode(torch.tensor(prompt.image).permute(2, 0, 1))
            found = self._sample_one(other, torch.tensor(prompt.mask), prompt.object_id)
            if not self._gradients:
                self._references[prompt] = found
        return found

    def _sample_one(self, features: SeemFeatures, mask: Tensor, object_id: int) -> ObjectTokens:
        """Tokens under one (H, W) bool mask at source size."""
        if not mask.any():
            raise PromptError(f"the mask of object {object_id} is empty; there is nothing to remember")
        canvas = mask_on_canvas(mask[None], features.geometry).to(self.model.device)
        with torch.set_grad_enabled(self._gradients):
            return split_objects(self.model.sample(features.image, canvas), [object_id], [True])[0]

    def _words(self, text: str) -> TextTokens:
        """Encoded words; the last few are kept, so that a tracker's words are encoded once and not per frame."""
        if text not in self._texts:
            with torch.set_grad_enabled(self._gradients):
                words = self.model.encode_text([text])
            if self._gradients:
                return words
            self._texts[text] = words
            if len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        self._texts.move_to_end(text)
        return self._texts[text]

    # --- from requests to masks ---

    def _answer(
        self,
        features: SeemFeatures,
        requests: Sequence[ObjectRequest],
        output_query: OutputQuery,
        generator: torch.Generator | None,
    ) -> Prediction:
        """Decode objects of like prompts together, and put the answers in order of their ids."""
        with torch.set_grad_enabled(self._gradients):
            answers = decode_objects(
                self.model,
                features.image,
                requests,
                output_query=output_query,
                vocabulary=self.vocabulary,
                generator=generator,
                most=self._per_pass,
            )
        ids = tuple(sorted(answers))
        logits = torch.stack([answers[i].logits for i in ids])
        if not bool(logits.isfinite().all()):
            raise CheckpointError(
                f"model {self.name} gives masks that are not numbers; its weights are damaged, or its precision too low"
            )
        names = tuple(answers[i].class_name for i in ids) if self.vocabulary else ()
        return Prediction(ids, logits, torch.stack([answers[i].score for i in ids]), features.geometry, names)

    def _everything(self, features: SeemFeatures) -> tuple[Vocabulary, Tensor, Tensor]:
        """The vocabulary, class logits (Q, K + 1) and mask logits (Q, h, w) of all object queries."""
        if self.vocabulary is None:
            raise PromptError("segmenting everything needs a vocabulary; give class names")
        with torch.set_grad_enabled(self._gradients):
            objects = self.model.decode(features.image).objects
            assert objects is not None  # without prompts these are the only queries
            masks = features.image.mask_features.logits(objects.mask_embeddings)[0].float()
            encoder = self.model.text_encoder
            assert encoder is not None  # a vocabulary needs one
            logits = class_logits(objects.class_vectors, self.vocabulary.embeddings, encoder.logit_scale)[0]
            return self.vocabulary, logits, masks


def load_segmenter(
    path_or_name: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    input_size: InputSize | None = None,
    output_query: OutputQuery = "auto",
) -> SeemSegmenter:
    """The model of a converted file or of a name such as ``seem-focal-t-v0``, with the vocabulary that it holds.

    Raises CheckpointError for a model that is not there or damaged, InputError for an unknown precision, DeviceError.
    """
    dtype = PRECISIONS.get(precision)
    if dtype is None:
        raise InputError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    loaded = load_seem(path_or_name, device=device, dtype=dtype)
    embeddings, classes = loaded.class_embeddings, loaded.metadata.classes
    return SeemSegmenter(
        loaded.model,
        vocabulary=None if embeddings is None else stored_vocabulary(classes, embeddings),
        input_size=input_size,
        output_query=output_query,
        trained=loaded.metadata.trained,
    )
