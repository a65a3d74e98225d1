"""How the border refiner is trained: over clips, its own masks going back into the memory that it reads from.

The tracker itself gives the masks that are to be made sharp, in both versions that it remembers, so that they wear out
just as they do in use. No gradient runs through time, and the features are those of a frozen trunk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.refiner import PRESENT, BorderRefiner, bounded
from seem_core.training.loop import Stage
from seem_core.training.pack import Pack
from seem_core.training.picture_store import PictureStore
from seem_core.training.plan_queue import PlanQueue
from seem_core.training.pseudo_clips import ClipBatch, ClipConfig, ClipPlanner, render
from seem_core.training.reader_task import mean_iou
from seem_core.training.sample_sheet import Sample

SAMPLES = 6  # clips on a page
SAMPLE_NUMBER = 10**9  # of their batch: no step of a run gets so far
LEAST_SHARE = 1e-3  # of the first frame, that an object covers
Features = tuple[Tensor, Tensor, Tensor]  # (C, h, w) at strides 2, 4 and 8


class PriorClip(Protocol):
    """A tracker without a refiner, on one clip of size x size pixels, h = w = size / 4; masks are in 0..1."""

    def begin(self, image: npt.NDArray[np.uint8], masks: Tensor) -> None:
        """Remember for ever how N objects look on the first frame, (H, W, 3) RGB; masks (N, h, w)."""
        ...

    def read(self, image: npt.NDArray[np.uint8]) -> tuple[Features, Tensor, Tensor]:
        """Features of the next frame, (N, 2, h, w) masks on it: read from those that were read, and from those that
        were made sharp, and (N, h, w) how much it looks like the objects of the first frame."""
        ...

    def write(self, masks: Tensor) -> None:
        """Remember (N, 2, h, w) masks of the frame that was read."""
        ...


OpenPrior = Callable[[int], PriorClip]
"""From the size of a clip's frames to a fresh clip."""


@dataclass(frozen=True)
class RefinerTaskConfig:
    """How clips are unrolled and judged.

    spoilt      share of clips whose first mask is a little too large, too small or blurred
    blind       share of clips whose objects have no model of their appearance, as in a memory from elsewhere
    band        cells of stride 4 from a border, true or believed, within which cells count in full
    elsewhere   how much the others count
    dice        weight of the dice loss
    frames      of a step's clips, which may be long, that it learns from
    replay      earlier frames that each step learns from besides; making frames is what takes time
    kept        how many frames they are drawn from; a run that goes on begins with none
    """

    clips: ClipConfig = field(default_factory=lambda: ClipConfig(real=0.5))
    spoilt: float = 0.2
    blind: float = 0.1
    band: int = 4
    elsewhere: float = 0.1
    dice: float = 0.5
    frames: int = 8
    replay: int = 8
    kept: int = 256


@dataclass(eq=False)
class Example:
    """One frame with N objects: features, masks that were read, the strongest other ones, true shares of cells at
    stride 2, and the masks that were made of those that were read, at stride 2."""

    features: Features
    own: Tensor  # (N, 3, h, w), as they were read and as they were made sharp; appearance
    other: Tensor  # (N, 3, h, w)
    truth: Tensor  # (N, 2 h, 2 w)
    found: Tensor = field(default_factory=lambda: torch.zeros(0))  # (N, 2 h, 2 w)

    @classmethod
    def of_nothing(cls, masks: Tensor) -> Example:
        """Of a clip without objects, with (0, h, w) masks."""
        nothing = masks.new_zeros(0)
        return cls((nothing, nothing, nothing), masks, masks, masks, masks)  # whatever their shapes


class RefinerTask:
    """A `loop.Task`: the refiner, batches of clips, and the loss."""

    def __init__(
        self,
        model: BorderRefiner,
        pack: Pack,
        device: torch.device,
        open_prior: OpenPrior,
        config: RefinerTaskConfig | None = None,
        workers: int = 0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.config = config or RefinerTaskConfig()
        self.device, self.precision, self.open_prior = device, precision, open_prior
        self.model: BorderRefiner = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fingerprint = pack.fingerprint
        self.plans = PlanQueue(ClipPlanner(pack, self.config.clips), workers)
        self.store = PictureStore.of(pack, device)
        self._kept: list[Example] = []
        self._rendered: tuple[tuple[int, int, Stage], ClipBatch] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"task": "refiner", "model": asdict(self.model.config), "training": asdict(self.config)}

    def parameter_groups(self, rate: float) -> Iterator[dict[str, object]]:
        """Convolutions decay, biases do not."""
        for decays in (True, False):
            chosen = [p for p in self.model.parameters() if (p.ndim > 1) == decays]
            yield {"params": chosen, "lr": rate, "weight_decay": 0.01 if decays else 0.0}

    def batch(self, seed: int, step: int, stage: Stage) -> ClipBatch:
        """Rendering takes as long as a step: every clip is used twice, forwards and as `turned_round`."""
        number = seed, step // 2, stage
        if self._rendered is None or self._rendered[0] != number:
            plan = self.plans.get(*number)
            self._rendered = number, render(plan, self.store, stage.size, seed=seed * 1_000_003 + step // 2)
        return turned_round(self._rendered[1]) if step % 2 else self._rendered[1]

    def calibrate(self, seed: int, stage: Stage) -> None:
        """Fit the first layers to the features of a few frames; before the first step."""
        batch = self.batch(seed, SAMPLE_NUMBER, Stage(1.0, stage.size, SAMPLES, 2))
        clip = self.open_prior(stage.size)
        seen = []
        for images in batch.images.transpose(0, 1):
            clip.begin(as_picture(images[0]), torch.ones(1, stage.size // 4, stage.size // 4, device=self.device))
            seen.append(clip.read(as_picture(images[1]))[0])
        self.model.calibrate(*(torch.stack(f).float() for f in zip(*seen, strict=True)))

    def loss(self, batch: ClipBatch, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the objects of all frames after the first and of some earlier frames; what it is made of."""
        rng = random.Random(seed * 1_000_003 + step)
        new = [example for examples in self.unroll(batch, rng) for example in examples if len(example.own)]
        taken = rng.sample(new, min(len(new), self.config.frames))
        size = batch.images.shape[-1] // 4
        old = [example for example in self._kept if example.own.shape[-1] == size]
        parts = self._judge(taken + rng.sample(old, min(len(old), self.config.replay)))
        self._kept = [*old, *new][-self.config.kept :]
        return parts["border"] + self.config.dice * parts["dice"], {k: v.detach() for k, v in parts.items()}

    @torch.no_grad()
    def unroll(self, batch: ClipBatch, rng: random.Random) -> Iterator[list[Example]]:
        """Follow clips and yield, for each frame after the first, what is there to learn from each clip."""
        frames, b = batch.images.shape[:2]
        truth = cell_shares(batch)
        slots = [valid.nonzero()[:, 0] for valid in batch.valid]
        clips = {i: self.open_prior(batch.images.shape[-1]) for i in range(b) if len(slots[i])}
        blind = [rng.random() < self.config.blind for _ in range(b)]
        for i, clip in clips.items():
            first = F.avg_pool2d(truth[0, i, slots[i]], 2)
            spoilt = rng.random() < self.config.spoilt
            clip.begin(as_picture(batch.images[0, i]), self._spoil(first, rng) if spoilt else first)
        for t in range(1, frames):
            seen = [Example.of_nothing(truth[t, i, slots[i]]) for i in range(b)]
            for i, clip in clips.items():
                features, masks, looks = clip.read(as_picture(batch.images[t, i]))
                own = torch.cat([masks, (looks * (not blind[i]))[:, None]], 1)
                seen[i] = Example(features, own, strongest_others(own), truth[t, i, slots[i]])
                seen[i].found = self._sharpen(seen[i])
                clip.write(torch.stack([masks[:, 0], F.avg_pool2d(seen[i].found, 2)], 1))
            yield seen

    def _sharpen(self, example: Example) -> Tensor:
        masks = self._logits([example]).sigmoid()
        priors = example.own[:, :2].amax(1)
        return torch.stack([bounded(refined, prior) for refined, prior in zip(masks, priors, strict=True)])

    def _logits(self, examples: Sequence[Example]) -> Tensor:
        """(R, 2 h, 2 w) of all objects of all examples."""
        counts = torch.tensor([len(e.own) for e in examples])
        picture = torch.arange(len(examples)).repeat_interleave(counts).to(self.device)
        features = [torch.stack(level).float() for level in zip(*(e.features for e in examples), strict=True)]
        own, other = torch.cat([e.own for e in examples]), torch.cat([e.other for e in examples])
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            cues = self.model.look(*features)
            logits: Tensor = self.model(cues.of(picture), own, other)
        return logits

    def _judge(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Losses and measures over all objects of the examples."""
        if not examples:
            nothing = sum(p.sum() for p in self.model.parameters()) * torch.zeros((), device=self.device)
            return dict.fromkeys(("border", "dice", "iou", "prior_iou"), nothing)
        own, truth = torch.cat([e.own for e in examples]), torch.cat([e.truth for e in examples])
        logits = self._logits(examples)
        prior = F.interpolate(own[:, :1], scale_factor=2, mode="bilinear")[:, 0]
        measures = {"iou": iou(logits.detach() > 0, truth > 0.5), "prior_iou": iou(prior > 0.5, truth > 0.5)}
        return self._losses(logits, prior, truth) | measures

    def _losses(self, logits: Tensor, own: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Of (R, h, w) log-odds against shares of cells; objects that the prior lost do not count."""
        there = is_there(own).float()
        near = torch.maximum(border_band(truth, 2 * self.config.band), border_band(own, 2 * self.config.band))
        weight = self.config.elsewhere + (1 - self.config.elsewhere) * near
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        # the least that is possible where a cell is shared is not 0: only what is above it can be learned
        least = F.binary_cross_entropy(truth, truth, reduction="none")
        border = ((entropy - least) * weight).sum((1, 2)) / weight.sum((1, 2))
        found = logits.sigmoid()
        dice = 1 - (2 * (found * truth).sum((1, 2)) + 1) / ((found**2).sum((1, 2)) + (truth**2).sum((1, 2)) + 1)
        count = there.sum().clamp(min=1)
        return {"border": (border * there).sum() / count, "dice": (dice * there).sum() / count}

    def _spoil(self, masks: Tensor, rng: random.Random) -> Tensor:
        """(N, h, w) masks as a hasty user gives them."""
        kind = rng.randrange(3)
        if kind == 0:
            return F.max_pool2d(masks, 3, 1, 1)
        blurred = F.avg_pool2d(masks, 3, 1, 1, count_include_pad=False)
        smaller = -F.max_pool2d(-masks, 3, 1, 1)
        return smaller if kind == 1 and (smaller > 0.5).any(2).any(1).all() else blurred

    def samples(self, seed: int, stage: Stage) -> list[Sample]:
        """The last frame of a few clips, its prompt being the mask on the first frame."""
        batch = self.batch(seed, SAMPLE_NUMBER, Stage(stage.until, stage.size, SAMPLES, stage.frames))
        *_, seen = self.unroll(batch, random.Random(seed))
        samples, last = [], batch.images.shape[0] - 1
        for b, example in enumerate(seen):
            given = self._label_map(example.found, batch.valid[b], stage.size)
            prompt, wanted = (batch.labels[t, b].cpu().numpy() for t in (0, last))
            note = f"frame 1 to {last + 1}, IoU {mean_iou(wanted, given):.2f}"
            images = [as_picture(batch.images[t, b]) for t in (0, last)]
            samples.append(Sample(images[1], prompt, wanted, given, note, prompted=images[0]))
        return samples

    @staticmethod
    def _label_map(masks: Tensor, valid: Tensor, size: int) -> npt.NDArray[np.uint8]:
        if not len(masks):
            return np.zeros((size, size), np.uint8)
        large = F.interpolate(masks[None], size=(size, size), mode="bilinear")[0]
        owner = large.argmax(0)
        label = valid.nonzero()[:, 0][owner] + 1
        return np.asarray((label * (large.amax(0) > 0.5)).to(torch.uint8).cpu().numpy())

    def close(self) -> None:
        self.plans.close()


def turned_round(batch: ClipBatch) -> ClipBatch:
    """The clips backwards and mirrored; objects that are not there at the end do not count."""
    labels = batch.labels.flip(0, 3)
    n = batch.valid.shape[1]
    share = torch.stack([(labels[0] == i + 1).float().mean((1, 2)) for i in range(n)], 1)
    return ClipBatch(batch.images.flip(0, 4), labels, batch.valid & (share > LEAST_SHARE))


def as_picture(image: Tensor) -> npt.NDArray[np.uint8]:
    """(3, S, S) in 0..255 -> (S, S, 3) uint8."""
    return np.ascontiguousarray(image.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).cpu().numpy())


def cell_shares(batch: ClipBatch) -> Tensor:
    """True masks as shares of cells of stride 2: (T, B, N, S/2, S/2) float32 in 0..1."""
    t, b, size, _ = batch.labels.shape
    n = batch.valid.shape[1]
    masks = torch.stack([batch.labels == i + 1 for i in range(n)], 2).float()
    return F.avg_pool2d(masks.flatten(0, 2)[:, None], 2).view(t, b, n, size // 2, size // 2)


def strongest_others(masks: Tensor) -> Tensor:
    """(N, ...): for each object the largest of the others' probabilities, 0 where there is no other."""
    if len(masks) < 2:
        return torch.zeros_like(masks)
    best = masks.topk(2, dim=0)
    each = torch.arange(len(masks), device=masks.device).view(-1, *[1] * (masks.dim() - 1))
    return torch.where(each == best.indices[0], best.values[1], best.values[0])


def border_band(masks: Tensor, cells: int) -> Tensor:
    """(R, h, w) 1 within ``cells`` of where a mask crosses one half, else 0."""
    inside, width = (masks > 0.5).float()[:, None], 2 * cells + 1
    grown, shrunk = F.max_pool2d(inside, width, 1, cells), -F.max_pool2d(-inside, width, 1, cells)
    return (grown - shrunk)[:, 0]


def is_there(masks: Tensor) -> Tensor:
    """(R,) bool: whether (R, h, w) masks show anything."""
    return (masks > PRESENT).flatten(1).any(1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Mean IoU of R pairs of (h, w) bool masks; 1 where both are empty."""
    both, either = (x.sum((1, 2)).float() for x in (a & b, a | b))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()
