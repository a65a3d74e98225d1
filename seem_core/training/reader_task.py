"""How the dense reader is trained: unrolled over short clips, its own predictions going into memory.

Gradients run through time, so that the reader learns to undo its own drift. Early on, some clips take the true mask
instead (less and less); some previous masks are shifted or dropped, so that memory and not habit decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.reader import DenseReader, FrameValues, Memory, probabilities
from seem_core.training.loop import Stage
from seem_core.training.pack import Pack
from seem_core.training.picture_store import PictureStore
from seem_core.training.plan_queue import PlanQueue
from seem_core.training.pseudo_clips import ClipBatch, ClipConfig, ClipPlanner, render
from seem_core.training.reader_losses import ABSENT, ReaderLossWeights, reader_losses, total_loss
from seem_core.training.sample_sheet import Sample

SAMPLES = 6  # clips on a page
SAMPLE_NUMBER = 10**9  # of their batch: no step of a run gets so far
LAYOUTS = ("channels_last", "mixed", "contiguous")


@dataclass(frozen=True)
class ReaderTaskConfig:
    """How clips are unrolled.

    memory          most frames read per frame: the first, the previous one, and others at random
    teacher_until   progress (0..1) at which true masks no longer help; the share falls linearly from a half
    drop, shift     share of previous masks that are emptied, or moved by up to ``max_shift`` pixels
    trunk_rate      learning rate of the trunk relative to the rest
    """

    clips: ClipConfig = field(default_factory=ClipConfig)
    weights: ReaderLossWeights = field(default_factory=ReaderLossWeights)
    memory: int = 4
    teacher_until: float = 0.25
    drop: float = 0.02
    shift: float = 0.08
    max_shift: int = 12
    trunk_rate: float = 0.1


class ReaderTask:
    """A `loop.Task`: model, its parameter groups, batches and loss."""

    def __init__(
        self,
        model: DenseReader,
        pack: Pack,
        device: torch.device,
        config: ReaderTaskConfig | None = None,
        workers: int = 0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.config = config or ReaderTaskConfig()
        self.device, self.precision = device, precision
        for parameter in model.frozen_parameters():
            parameter.requires_grad_(False)
        self.model = model.to(device)
        if device.type == "cpu" and precision != torch.float32:
            _keep_depthwise_float32(self.model)
        self.use_layout("channels_last")
        self.fingerprint = pack.fingerprint
        self.plans = PlanQueue(ClipPlanner(pack, self.config.clips), workers)
        self.store = PictureStore.of(pack, device)

    def use_layout(self, layout: str) -> None:
        """Keep weights and images in a memory format, one of LAYOUTS; in ``mixed`` only the trunk is contiguous."""
        rest = torch.contiguous_format if layout == "contiguous" else torch.channels_last
        self.memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.model.to(memory_format=rest)  # type: ignore[call-overload]
        self.model.trunk.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `loop.Task`. How many cells vote changes no weight."""
        model = {k: v for k, v in asdict(self.model.config).items() if k != "top_k"}
        return {"task": "reader", "model": model, "training": asdict(self.config)}

    def parameter_groups(self, rate: float) -> Iterator[dict[str, object]]:
        """Convolutions decay, biases and norms do not; the trunk learns more slowly."""
        trunk = {id(p) for p in self.model.trunk.parameters()}
        for is_trunk in (True, False):
            for decays in (True, False):
                chosen = [
                    p
                    for p in self.model.parameters()
                    if p.requires_grad and (id(p) in trunk) == is_trunk and (p.ndim > 1) == decays
                ]
                scale = self.config.trunk_rate if is_trunk else 1.0
                yield {"params": chosen, "lr": rate * scale, "weight_decay": 0.02 if decays and not is_trunk else 0.0}

    def batch(self, seed: int, step: int, stage: Stage) -> ClipBatch:
        plan = self.plans.get(seed, step, stage)
        return render(plan, self.store, stage.size, seed=seed * 1_000_003 + step)

    def loss(self, batch: ClipBatch, seed: int, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the frames after the first, and its parts."""
        totals: dict[str, Tensor] = {}
        frames = batch.images.shape[0]
        for losses in self.unroll(self.model, batch, random.Random(seed * 1_000_003 + step), progress):
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value / (frames - 1)
        return total_loss(totals, self.config.weights), {k: v.detach() for k, v in totals.items()}

    def samples(self, seed: int, stage: Stage) -> list[Sample]:
        """The last frame of a few clips, its prompt being the mask on the first frame."""
        size = Stage(stage.until, stage.size, SAMPLES, stage.frames)
        plan = self.plans.planner.plan(seed, SAMPLE_NUMBER, size.clips, size.frames, size.size)
        batch = render(plan, self.store, size.size, seed=seed)
        last, truth = batch.images.shape[0] - 1, shrink(batch)
        with self.autocast():
            features = self.model.encode(batch.images.flatten(0, 1).contiguous(memory_format=self.memory_format))
            known = [self.model.write(features[:SAMPLES], truth[0])]
            for t in range(1, last + 1):
                now = features[t * SAMPLES : (t + 1) * SAMPLES]
                reading = self.model.read(now, Memory.of([known[0], *known[1:][-3:]]), known[-1])
                logits = reading.logits.float().masked_fill(~batch.valid[:, :, None, None], ABSENT)
                known.append(self.model.write(now, probabilities(logits)))
        larger = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        found = F.pad(larger, (0, 0, 0, 0, 1, 0)).argmax(1)
        samples = []
        for b in range(SAMPLES):
            image = batch.images[last, b].permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
            prompt, wanted, given = (
                x.byte().cpu().numpy() for x in (batch.labels[0, b], batch.labels[last, b], found[b])
            )
            note = f"frame 1 to {last + 1}, IoU {mean_iou(wanted, given):.2f}"
            first = batch.images[0, b].permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
            samples.append(Sample(image, prompt, wanted, given, note, prompted=first))
        return samples

    def unroll(
        self, model: DenseReader, batch: ClipBatch, rng: random.Random, progress: float
    ) -> Iterator[dict[str, Tensor]]:
        """Run a clip and yield the losses of each frame after the first."""
        frames, b = batch.images.shape[:2]
        truth = shrink(batch)
        with self.autocast():
            features = model.encode(batch.images.flatten(0, 1).contiguous(memory_format=self.memory_format))
            known = [model.write(features[:b], truth[0])]
        for t in range(1, frames):
            now = features[t * b : (t + 1) * b]
            with self.autocast():
                reading = model.read(now, Memory.of(self._remembered(known, rng)), known[-1])
            yield reader_losses(reading, batch.labels[t], batch.valid)
            if t + 1 < frames:
                logits = reading.logits.float().masked_fill(~batch.valid[:, :, None, None], ABSENT)
                mask = self._disturb(probabilities(logits), truth[t], rng, progress)
                with self.autocast():
                    known.append(model.write(now, mask))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def _remembered(self, known: list[FrameValues], rng: random.Random) -> list[FrameValues]:
        """The first frame, the previous one (mostly), and others at random."""
        rest = known[1:]
        if len(rest) <= 1:
            return known
        count = min(len(rest), rng.randint(1, self.config.memory - 1))
        picked = set(rng.sample(range(len(rest)), count))
        if rng.random() < 0.8:
            picked = set(sorted(picked)[1:]) | {len(rest) - 1}
        return [known[0], *(rest[i] for i in sorted(picked))]

    def _disturb(self, mask: Tensor, truth: Tensor, rng: random.Random, progress: float) -> Tensor:
        """(B, N, h, w) masks as they go into memory: some true, some moved, some gone."""
        b = mask.shape[0]
        teacher = 0.5 * max(0.0, 1 - progress / self.config.teacher_until) if self.config.teacher_until > 0 else 0.0
        fate = [rng.random() for _ in range(b)]
        reach = self.config.max_shift // 2
        offset = (rng.randint(-reach, reach), rng.randint(-reach, reach))
        true = torch.tensor([f < teacher for f in fate])
        lost = torch.tensor([1 - self.config.drop < f for f in fate])
        moved = torch.tensor([1 - self.config.drop - self.config.shift < f <= 1 - self.config.drop for f in fate])
        true, lost, moved = (_to(x, mask.device)[:, None, None, None] for x in (true, lost, moved))
        mask = torch.where(true, truth, mask)
        mask = torch.where(moved, mask.roll(offset, (2, 3)), mask)
        return mask * (~lost)

    def close(self) -> None:
        self.plans.close()


def mean_iou(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> float:
    """Mean IoU over the ids of two label maps (H, W); 1 where there are none."""
    ids = [i for i in np.union1d(truth, found) if i]
    both = [np.count_nonzero((truth == i) & (found == i)) / np.count_nonzero((truth == i) | (found == i)) for i in ids]
    return float(np.mean(both)) if both else 1.0


def shrink(batch: ClipBatch) -> Tensor:
    """True masks as the reader holds them: (T, B, N, S/2, S/2) float32 in 0..1."""
    t, b, size, _ = batch.labels.shape
    n = batch.valid.shape[1]
    masks = torch.stack([batch.labels == i + 1 for i in range(n)], 2).float()
    return F.avg_pool2d(masks.flatten(0, 2)[:, None], 2).view(t, b, n, size // 2, size // 2)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _keep_depthwise_float32(model: nn.Module) -> None:
    """Take the depthwise convolutions out of autocast: on a CPU their backward pass in bfloat16 is five times slower
    than in float32 (PyTorch 2.13, AMX)."""

    def plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return type(conv).forward(conv, x.float())

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = partial(plain, module)  # type: ignore[method-assign]
