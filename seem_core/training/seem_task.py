"""How SEEM is trained: marks, rounds of clicks, words and classes on pictures; optionally masks followed through clips.

Paper: arXiv:2304.06718 sections 3.2-3.4 and supplement; SPEC §9. Whatever backbone the model has, its features are all
that the task sees of it. Each picture of a batch counts the same (the published code counts each object the same).

The first rounds run without a gradient: the model answers, a user clicks into the larger error, and the answer goes
back in as the memory prompt. The round after them is learned from, at every decoder layer.

Shapes: S input side, N objects marked on one picture, Q queries, h w cells at stride 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.class_embeddings import class_logits, clean_name
from seem_core.decoder import DecoderOutput, DecoderPrompts, TextTokens
from seem_core.errors import InputError, MissingExtraError
from seem_core.geometry import InputSize
from seem_core.image_features import ImageFeatures
from seem_core.model import Seem
from seem_core.segmenter import SeemSegmenter
from seem_core.segmenter_types import Prediction
from seem_core.selection import MAX_TEXT_SCALE, choose_by_marks
from seem_core.templates import CLASS_TEMPLATES
from seem_core.text import byte_pairs
from seem_core.training.answers import Masks, corrected, one_image, overlaps, paint_marks, without_gradient
from seem_core.training.clicks import ClickMarks
from seem_core.training.loop import Stage
from seem_core.training.losses import (
    CODE,
    PAPER,
    LossSettings,
    LossWeights,
    TaskLoss,
    marks_loss,
    mask_losses,
    segmentation_loss,
    total,
    words_loss,
)
from seem_core.training.mask_points import PointSampling
from seem_core.training.pack import Pack
from seem_core.training.picture_batches import PicturePlan, PicturePlanner
from seem_core.training.picture_store import PictureStore
from seem_core.training.plan_queue import PlanQueue
from seem_core.training.pseudo_clips import ClipBatch, ClipPlanner, render
from seem_core.training.sample_sheet import Sample
from seem_core.training.seem_task_config import SeemTaskConfig
from seem_core.visual_sampler import VisualTokens
from seem_core.vocabulary import Vocabulary

ClipFunction = Callable[[SeemSegmenter, Sequence[Tensor], Tensor], Sequence[Prediction]]
"""Segmenter, T frames (3, H, W) uint8, (N, H, W) bool masks on the first -> predictions on the T - 1 others."""

PARTS = ("marks", "segmentation", "words", "video", "iou")
LOSSES: Mapping[str, LossWeights] = {"paper": PAPER, "code": CODE}
SAMPLES = 6  # pictures on a page
SAMPLE_NUMBER = 10**9  # of their batch: no step of a run gets so far
_NO_DECAY_NAMES = ("query_content", "query_position", "memory_content", "memory_position", "level_embedding", "signs")
_NO_DECAY_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.Embedding)


@dataclass(frozen=True, eq=False)
class SeemBatch:
    """Pictures, or a batch of clips instead. images: (B, 3, S, S) float32 in 0..255 on the device."""

    images: Tensor | None
    pictures: tuple[PicturePlan, ...]
    clips: ClipBatch | None = None


class SeemTask:
    """A `loop.Task`: a SEEM, its parameter groups, batches and loss."""

    def __init__(
        self,
        model: Seem,
        pack: Pack,
        device: torch.device,
        config: SeemTaskConfig | None = None,
        *,
        vocabulary: Vocabulary | None = None,
        workers: int = 0,
        precision: torch.dtype = torch.float32,
        clip_function: ClipFunction | None = None,
    ) -> None:
        """vocabulary: that holds every class of the pack, for segmentation; None leaves it out.

        Raises InputError for the routing `demo`, which cannot be trained in rounds, and for a loss on clips without a
        clip function; MissingExtraError for words without a tokenizer.
        """
        self.config = config or SeemTaskConfig()
        self.device, self.precision = device, precision
        if not model.decoder.routing.has_query_groups:
            raise InputError(f"{model.config.name} with routing demo cannot be trained; use routing v0 or v1")
        if self.config.video is not None and clip_function is None:
            raise InputError("learning from clips needs a tracker; train with: vos train, or leave out video")
        # no layer of SEEM drops anything, and statistics of batch norms stay as they were trained
        self.model = model.to(device).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in self._trained():
            parameter.requires_grad_(True)
        self.settings = LossSettings(sampling=PointSampling(points=self.config.points))
        self.weights = LOSSES[self.config.losses]
        self.fingerprint = pack.fingerprint
        self.classes = pack.classes
        encoder = model.text_encoder
        self.vocabulary: Vocabulary | None = None
        if vocabulary is not None and self.config.segmentation and encoder is not None:
            embeddings = vocabulary.embeddings.to(device).clone()  # made in inference mode, which autograd refuses
            self.vocabulary = Vocabulary(vocabulary.names, embeddings, vocabulary.things)
        words = self.config.words and bool(pack.classes) and encoder is not None
        if words:
            _check_tokenizer()
        self.class_rows = _class_rows(pack.classes, self.vocabulary)
        self.plans = PlanQueue(
            PicturePlanner(pack, self.config.pictures, fill=model.config.pixel_mean, words=words), workers
        )
        self.clip_function = clip_function
        self.clips: ClipPlanner | None = None
        if self.config.video is not None:
            self.clips, self.store = ClipPlanner(pack, self.config.video.clip), PictureStore.of(pack, device)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `loop.Task`."""
        return {"task": "seem", "model": asdict(self.model.config), "training": asdict(self.config)}

    def parameter_groups(self, rate: float) -> Iterator[dict[str, Any]]:
        """Norms and embeddings do not decay (biases do, as published); the backbone learns more slowly."""
        backbone = {id(p) for p in self.model.backbone.parameters()}
        plain = {
            id(p)
            for module in self.model.modules()
            if isinstance(module, _NO_DECAY_MODULES)
            for p in module.parameters(recurse=False)
        }
        plain |= {id(p) for n, p in self.model.named_parameters() if n.rsplit(".", 1)[-1] in _NO_DECAY_NAMES}
        trained = self._trained()
        for in_backbone in (True, False):
            for decays in (True, False):
                chosen = [p for p in trained if (id(p) in backbone) == in_backbone and (id(p) not in plain) == decays]
                scale = self.config.backbone_rate if in_backbone else 1.0
                decay = self.config.weight_decay if decays else 0.0
                yield {"params": chosen, "lr": rate * scale, "weight_decay": decay}

    def _trained(self) -> list[nn.Parameter]:
        rooms: list[nn.Module] = [self.model.decoder]
        if self.config.setting == "all-but-text":
            rooms = [self.model.backbone, self.model.pixel_decoder, self.model.decoder]
        return [p for room in rooms for p in room.parameters()]

    # --- batches ---

    def batch(self, seed: int, step: int, stage: Stage) -> SeemBatch:
        """Batch number ``step``."""
        video = self.config.video
        if video is not None and self.clips is not None and step % video.every == video.every - 1:
            plan = self.clips.plan(seed, step, video.clips, video.frames)
            return SeemBatch(None, (), render(plan, self.store, stage.size, seed=seed * 1_000_003 + step))
        return self._on_device(self.plans.get(seed, step, stage))

    def _on_device(self, pictures: tuple[PicturePlan, ...]) -> SeemBatch:
        stacked = torch.from_numpy(np.stack([p.image for p in pictures])).permute(0, 3, 1, 2)
        return SeemBatch(stacked.to(self.device).float(), pictures)

    def close(self) -> None:
        self.plans.close()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    # --- loss ---

    def loss(self, batch: SeemBatch, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the pictures, or of the clips, and its weighted parts; `iou` is of the final masks."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        if batch.clips is not None:
            return self._clip_loss(batch.clips, generator)
        assert batch.images is not None
        features = self._encode(batch.images)
        parts: dict[str, Tensor] = {}
        for b, picture in enumerate(batch.pictures):
            for name, value in self._picture_loss(one_image(features, b), picture, generator).items():
                parts[name] = parts.get(name, torch.zeros_like(value)) + value / len(batch.pictures)
        loss = parts["marks"] + parts["segmentation"] + parts["words"]
        return loss, self._all_parts(parts)

    def _all_parts(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same names at every step, so that they can be columns."""
        zero = torch.zeros((), device=self.device)
        return {name: parts.get(name, zero).detach().float() for name in PARTS}

    def _encode(self, images: Tensor) -> ImageFeatures:
        learns = self.config.setting != "decoder"
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), self.autocast():
            return self.model.encode_image(images)

    def _picture_loss(
        self, features: ImageFeatures, picture: PicturePlan, generator: torch.Generator
    ) -> dict[str, Tensor]:
        truth = picture.masks(picture.marked)
        marks = [ClickMarks(mark, np.zeros_like(mark)) for mark in picture.marks]
        previous: Tensor | None = None
        with torch.no_grad():
            frozen = without_gradient(features)
            for _ in range(picture.rounds):
                tokens = self._sample(frozen, marks, generator)
                with self.autocast():
                    output = self.model.decode(frozen, self._prompts(tokens, previous), objects=False)
                    previous = self.answer(frozen, output, tokens)
                marks = corrected(marks, previous, truth)
        tokens = self._sample(features, marks, generator)
        named = picture.complete and self.vocabulary is not None
        text = self._words(picture)
        joint = self.model.decoder.routing.separate_objects
        with self.autocast():
            prompts = self._prompts(tokens, previous, text if joint else None)
            output = self.model.decode(features, prompts, objects=joint and named, earlier=True)
            other = output
            if not joint and (named or text is not None):  # objects are a batch here, the picture is one
                other = self.model.decode(features, DecoderPrompts(text=text), objects=named, earlier=True)
        zero = torch.zeros((), device=self.device)
        with torch.no_grad():
            found = F.interpolate(self.answer(features, output, tokens)[None].float(), size=truth.shape[1:])[0] > 0
            iou = overlaps(found, torch.from_numpy(truth).to(self.device))
        return {
            "marks": self._marks_loss(output, tokens, truth, generator),
            "segmentation": self._segmentation_loss(other, picture, generator) if named else zero,
            "words": zero if text is None else self._words_loss(other, text, picture, generator),
            "iou": iou.mean(),
        }

    def _sample(self, features: ImageFeatures, marks: Sequence[ClickMarks], generator: torch.Generator) -> VisualTokens:
        positive, negative = (
            torch.from_numpy(np.stack([getattr(m, sign) for m in marks])).to(self.device)
            for sign in ("positive", "negative")
        )
        with self.autocast():
            return self.model.sample(features, positive, negative, generator=generator)

    def _prompts(self, tokens: VisualTokens, previous: Tensor | None, text: TextTokens | None = None) -> DecoderPrompts:
        """previous: (N, h, w) logits of the round before."""
        if previous is not None:
            previous = previous[None] if self.model.decoder.routing.separate_objects else previous[:, None]
        return DecoderPrompts(stroke=tokens, previous_mask=previous, text=text)

    def answer(self, features: ImageFeatures, output: DecoderOutput, tokens: VisualTokens) -> Tensor:
        """(N, h, w) float32 logits of the queries that agree most with the marks."""
        assert output.spatial is not None
        own = self.model.decoder.routing.separate_objects
        each = self.model.config.decoder.queries_per_object if own else None
        choice = choose_by_marks(output.spatial, tokens.positive.to(output.spatial.mask_embeddings.dtype), each)
        return features.mask_features.logits(choice.mask_embeddings).flatten(0, 1).float()

    def _marks_loss(
        self, output: DecoderOutput, tokens: VisualTokens, truth: Masks, generator: torch.Generator
    ) -> Tensor:
        masks = torch.from_numpy(truth).to(self.device)
        joint = self.model.decoder.routing.separate_objects
        allowed = None
        if joint:
            owner = torch.arange(len(masks), device=self.device).repeat_interleave(
                self.model.config.decoder.queries_per_object
            )
            allowed = [owner[None] == torch.arange(len(masks), device=self.device)[:, None]]
        layers: list[TaskLoss] = []
        for layer in (*output.earlier, output):
            spatial = layer.spatial
            assert spatial is not None
            assert spatial.masks is not None
            similarity = tokens.positive.float() @ spatial.mask_embeddings.float().transpose(1, 2)  # (B, N, Q)
            of_pictures = [masks] if joint else list(masks[:, None])
            layers.append(
                marks_loss(
                    list(similarity), spatial.masks, of_pictures, allowed=allowed, settings=self.settings,
                    generator=generator,
                )
            )  # fmt: skip
        return total(layers, self.weights.marks)

    def _segmentation_loss(self, output: DecoderOutput, picture: PicturePlan, generator: torch.Generator) -> Tensor:
        assert self.vocabulary is not None
        assert self.model.text_encoder is not None
        classes = self.class_rows[torch.from_numpy(picture.categories)].to(self.device)
        masks = torch.from_numpy(picture.masks()).to(self.device)
        layers = []
        for layer in (*output.earlier, output):
            objects = layer.objects
            assert objects is not None
            assert objects.masks is not None
            logits = class_logits(
                objects.class_vectors, self.vocabulary.embeddings, self.model.text_encoder.logit_scale
            )
            layers.append(
                segmentation_loss(
                    logits, objects.masks, [classes], [masks], no_object=self.weights.no_object,
                    settings=self.settings, generator=generator,
                )
            )  # fmt: skip
        return total(layers, self.weights.segmentation)

    def _words(self, picture: PicturePlan) -> TextTokens | None:
        """The picture's class names, each in a random template; the encoder itself does not learn."""
        if not picture.words:
            return None
        texts = [
            CLASS_TEMPLATES[number % len(CLASS_TEMPLATES)].format(clean_name(self.classes[c]))
            for c, number in picture.words
        ]
        with torch.no_grad():
            return self.model.encode_text(texts)

    def _words_loss(
        self, output: DecoderOutput, text: TextTokens, picture: PicturePlan, generator: torch.Generator
    ) -> Tensor:
        """Every object of a named class is an answer to its name."""
        assert self.model.text_encoder is not None
        named = {c: t for t, (c, _) in enumerate(picture.words)}
        of = np.flatnonzero([int(c) in named for c in picture.categories])
        rows = torch.tensor([named[int(c)] for c in picture.categories[of]], device=self.device)
        masks = torch.from_numpy(picture.masks(of)).to(self.device)
        scale = self.model.text_encoder.logit_scale.exp().clamp(max=MAX_TEXT_SCALE)
        sentences = F.normalize(text.sentences.float(), dim=-1)[rows]
        layers = []
        for layer in (*output.earlier, output):
            grounding = layer.grounding
            assert grounding is not None
            assert grounding.masks is not None
            similarity = scale * sentences @ F.normalize(grounding.class_vectors[0].float(), dim=-1).T  # (N, Q)
            layers.append(
                words_loss(
                    [similarity], grounding.masks, [masks], same=[rows], factors=[self.weights.class_name],
                    settings=self.settings, generator=generator,
                )
            )  # fmt: skip
        return total(layers, self.weights.words)

    def _clip_loss(self, clips: ClipBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Masks of the frames after the first, as the tracker finds them, against the truth."""
        assert self.config.video is not None
        assert self.clip_function is not None
        size = clips.images.shape[-1]
        segmenter = SeemSegmenter(self.model, input_size=InputSize(size), gradients=True)
        losses, measured = [], []
        for b in range(clips.images.shape[1]):
            slots = clips.valid[b].nonzero()[:, 0]
            if not len(slots):
                continue
            masks = clips.labels[:, b, None] == (slots + 1)[:, None, None].to(clips.labels.dtype)  # (T, N, S, S)
            frames = list(clips.images[:, b].round().clamp(0, 255).byte())
            with self.autocast():
                found = self.clip_function(segmenter, frames, masks[0])
            for prediction, truth in zip(found, masks[1:], strict=True):
                bce, dice = mask_losses(prediction.logits, truth, self.settings.sampling, generator)
                losses.append(self.weights.marks.bce * bce + self.weights.marks.dice * dice)
                larger = F.interpolate(prediction.logits.detach()[None], size=(size, size), mode="bilinear")[0]
                measured.append(overlaps(larger > 0, truth).mean())
        if not losses:  # no object was visible on a first frame
            nothing = sum((p.sum() * 0 for p in self._trained()), torch.zeros((), device=self.device))
            return nothing, self._all_parts({})
        loss = self.config.video.weight * torch.stack(losses).mean()
        return loss, self._all_parts({"video": loss, "iou": torch.stack(measured).mean()})

    # --- samples ---

    def samples(self, seed: int, stage: Stage) -> list[Sample]:
        """First answers to marks on a few pictures; the objects' colours are in the order in which they are marked."""
        planner = self.plans.planner
        pictures = planner.plan(seed, SAMPLE_NUMBER, SAMPLES, 1, stage.size)
        samples = []
        for picture in pictures:
            batch = self._on_device((picture,))
            assert batch.images is not None
            features = self._encode(batch.images)
            marks = [ClickMarks(mark, np.zeros_like(mark)) for mark in picture.marks]
            tokens = self._sample(features, marks, torch.Generator().manual_seed(seed))
            with self.autocast():
                output = self.model.decode(features, self._prompts(tokens, None), objects=False)
                logits = self.answer(features, output, tokens)
            side = picture.labels.shape
            larger = F.interpolate(logits[None], size=side, mode="bilinear")[0]
            found = F.pad(larger, (0, 0, 0, 0, 1, 0)).argmax(0).byte().cpu().numpy()
            truth = picture.masks(picture.marked)
            iou = float(overlaps(larger > 0, torch.from_numpy(truth).to(self.device)).mean())
            samples.append(
                Sample(picture.image, paint_marks(picture.marks), paint_marks(truth), found, f"IoU {iou:.2f}")
            )
        return samples


def _class_rows(classes: Sequence[str], vocabulary: Vocabulary | None) -> Tensor:
    """(K,) int64: where in the vocabulary each class of the pack is."""
    if vocabulary is None:
        return torch.full((len(classes),), -1)
    names = {clean_name(name): i for i, name in enumerate(vocabulary.names)}
    return torch.tensor([names[clean_name(name)] for name in classes], dtype=torch.int64)


def _check_tokenizer() -> None:
    try:
        byte_pairs()
    except MissingExtraError as error:
        raise MissingExtraError(f'{error}; or set "words": false under training') from error
