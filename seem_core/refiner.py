"""A small decoder of borders: it makes a sharp mask out of a worn one and the picture's features.

Label propagation reads masks from memory that it wrote there itself, and they blur a little with every frame. The
refiner sees that prior at stride 4, the strongest other claim on each cell, and shallow features of the frame; what it
answers is added to the prior's log-odds. Before training it adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.errors import InputError

SURE = 0.005  # probabilities are read as at least this far from 0 and 1
PRESENT = 0.02  # a cell with a lower probability does not count to an object
MARGIN = 10  # cells around an object that may become its own
REACH = 6  # cells from an object where it may grow
STEP = 24  # crops have sides of multiples of it: kernels are compiled and cached for every size they meet


@dataclass(frozen=True)
class RefinerConfig:
    """Channels. half, quarter, eighth: of the features at strides 2, 4 and 8 (those of Lite0's blocks 0 and 2, and the
    keys of label propagation); cues: of what is made of them once per frame; fine, coarse: of the maps of one object at
    strides 4 and 8."""

    half: int = 16
    quarter: int = 24
    eighth: int = 152
    cues: int = 32
    fine: int = 40
    coarse: int = 64

    def __post_init__(self) -> None:
        if min(self.half, self.quarter, self.eighth, self.cues, self.fine, self.coarse) < 1:
            raise InputError(f"every number of channels is at least 1: {self}")

    def build(self) -> BorderRefiner:
        return BorderRefiner(self)


@dataclass(frozen=True, eq=False)
class Cues:
    """What the refiner sees of B pictures, whatever the object. fine (B, P, h, w) at stride 4, coarse (B, P, h / 2,
    w / 2)."""

    fine: Tensor
    coarse: Tensor

    def of(self, picture: Tensor) -> Cues:
        """Those of the pictures with these (R,) indices."""
        return Cues(self.fine[picture], self.coarse[picture])

    def crop(self, rows: slice, columns: slice) -> Cues:
        """A part; both slices start and end at even cells of stride 4."""
        half = [slice(s.start // 2, s.stop // 2) for s in (rows, columns)]
        return Cues(self.fine[:, :, rows, columns], self.coarse[:, :, half[0], half[1]])


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(x)))
        return F.relu(x + y)


class BorderRefiner(nn.Module):
    """The network. `look` once per picture, `forward` for objects; `refine` does all that for one picture, in crops."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        p, fine, coarse = config.cues, config.fine, config.coarse
        self.see_half = nn.Conv2d(config.half, p, 2, stride=2)
        self.see_quarter = nn.Conv2d(config.quarter, p, 1)
        self.see_eighth = nn.Conv2d(config.eighth, p, 1)
        self.enter = nn.Conv2d(p + 3, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.enter_coarse = nn.Conv2d(p, coarse, 1)
        self.context = nn.Sequential(Residual(coarse), Residual(coarse))
        self.up = nn.Conv2d(coarse, fine, 1)
        self.sharpen = Residual(fine)
        self.leave = nn.Conv2d(fine, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # there is one

    @torch.no_grad()
    def calibrate(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> None:
        """Scale the first layers so that features like these, (B, C, h, w) each, come out with mean 0 and spread 1."""
        for layer, features in ((self.see_half, half), (self.see_quarter, quarter), (self.see_eighth, eighth)):
            flat = features.float().transpose(0, 1).flatten(1)  # (C, ...)
            layer.weight /= flat.std(1).clamp(min=1e-4)[:, None, None]
            layer.bias -= (layer.weight.sum((2, 3)) * flat.mean(1)).sum(1)  # type: ignore[operator]

    def look(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Cues:
        """Features (B, C, 2 h, 2 w), (B, C, h, w) and (B, C, h / 2, w / 2) of B pictures."""
        coarse = self.see_eighth(eighth)
        deep = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        return Cues(F.relu(self.see_half(half) + self.see_quarter(quarter) + deep), F.relu(coarse))

    def forward(self, cues: Cues, own: Tensor, other: Tensor) -> Tensor:
        """Log-odds (R, h, w) of R objects, h and w even. own, other: (R, h, w) probabilities of the object and of the
        strongest other one; cues: of the picture that each is on."""
        prior = log_odds(own)
        seen = torch.stack([prior / 4, log_odds(other) / 4, own], 1).to(cues.fine.dtype)
        x = F.relu(self.enter(torch.cat([cues.fine, seen], 1)))  # (R, F, h, w)
        context = F.relu(self.down(x) + self.enter_coarse(cues.coarse))
        context = F.interpolate(self.up(self.context(context)), scale_factor=2, mode="bilinear")
        change: Tensor = self.leave(self.sharpen(F.relu(x + context)))
        return prior + change[:, 0].float()

    def refine(self, cues: Cues, masks: Tensor) -> Tensor:
        """(N, h, w) probabilities of the objects of one picture, each on its own, made sharp. Each is changed near
        itself only, and where there is none of it, there will be none."""
        refined = torch.zeros_like(masks)
        for n, (rows, columns) in crops(masks):
            near = masks[:, rows, columns]
            logits = self(cues.crop(rows, columns), near[n : n + 1], strongest_other(near, n)[None])
            refined[n, rows, columns] = bounded(logits[0].sigmoid(), near[n])
        return refined


def log_odds(p: Tensor) -> Tensor:
    """Of probabilities, which count as at least `SURE` from 0 and 1; float32."""
    return torch.logit(p.float(), SURE)


def bounded(refined: Tensor, prior: Tensor) -> Tensor:
    """(h, w) refined probabilities, no larger than the prior `REACH` cells or more from the largest part of the object;
    faint ones are 0. What looks alike and stands apart must not become sure of itself."""
    side = 2 * REACH - 1
    near = F.max_pool2d(largest_part(prior > 0.5).float()[None], side, 1, REACH - 1)[0] > 0
    refined = torch.where(near, refined, torch.minimum(refined, prior))
    return refined * (refined > PRESENT)


def largest_part(mask: Tensor) -> Tensor:
    """The largest 8-connected part of a (h, w) bool mask."""
    count, parts, facts, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    return torch.from_numpy(parts == largest).to(mask.device)


def strongest_other(masks: Tensor, n: int) -> Tensor:
    """(h, w) largest of (N, h, w) probabilities besides the n-th; 0 where there is no other."""
    others = torch.cat([masks[:n], masks[n + 1 :]])
    return others.amax(0) if len(others) else torch.zeros_like(masks[0])


def crops(masks: Tensor) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Rows and columns around each object of (N, h, w), `MARGIN` cells or more on all sides; objects that are nowhere
    have none."""
    there = masks > PRESENT
    rows, columns = there.any(2).cpu(), there.any(1).cpu()
    for n in range(len(masks)):
        r, c = rows[n].nonzero(), columns[n].nonzero()
        if len(r):
            yield n, (_around(int(r[0]), int(r[-1]), masks.shape[1]), _around(int(c[0]), int(c[-1]), masks.shape[2]))


def _around(first: int, last: int, size: int) -> slice:
    """Even bounds of a side that holds first..last with a margin, inside 0..size (which is even)."""
    wanted = last - first + 1 + 2 * MARGIN
    side = min(size, -(-wanted // STEP) * STEP)
    start = min(max(0, (first + last + 1 - side) // 2), size - side)
    start -= start % 2
    return slice(start, start + side)
