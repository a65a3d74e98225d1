"""A small decoder of borders: it makes a sharp mask out of a worn one and the picture's features.

Label propagation reads masks from memory that it wrote there itself, and they blur a little with every frame. Memory
holds two versions of each mask: as it was read, and as the refiner made it. Neither is good alone: the first wears
out, in the second a mistake of the refiner lasts. The refiner sees what is read of both at stride 4, the strongest
other claim on each cell, and shallow features of the frame; what it answers, at stride 2, is added to the log-odds of
the first. Before training it adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

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
    keys of label propagation); cues: of what is made of them once per frame; finest, fine, coarse: of the maps of one
    object at strides 2, 4 and 8. blocks: at stride 8."""

    half: int = 16
    quarter: int = 24
    eighth: int = 152
    cues: int = 40
    finest: int = 12
    fine: int = 48
    coarse: int = 80
    blocks: int = 3

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise InputError(f"every number of channels and blocks is at least 1: {self}")

    def build(self) -> BorderRefiner:
        return BorderRefiner(self)


@dataclass(frozen=True, eq=False)
class Cues:
    """What the refiner sees of B pictures, whatever the object. finest (B, Q, 2 h, 2 w) at stride 2, fine (B, P, h, w),
    coarse (B, P, h / 2, w / 2)."""

    finest: Tensor
    fine: Tensor
    coarse: Tensor

    def of(self, picture: Tensor) -> Cues:
        """Those of the pictures with these (R,) indices."""
        return Cues(self.finest[picture], self.fine[picture], self.coarse[picture])

    def crop(self, rows: slice, columns: slice) -> Cues:
        """A part; both slices start and end at even cells of stride 4."""
        twice = [slice(s.start * 2, s.stop * 2) for s in (rows, columns)]
        half = [slice(s.start // 2, s.stop // 2) for s in (rows, columns)]
        finest = self.finest[:, :, twice[0], twice[1]]
        return Cues(finest, self.fine[:, :, rows, columns], self.coarse[:, :, half[0], half[1]])


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(_relu(self.first(x)))
        return _relu(x + y)


class BorderRefiner(nn.Module):
    """The network. `look` once per picture, `forward` for objects; `refine` does all that for one picture, in crops."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        p, finest, fine, coarse = config.cues, config.finest, config.fine, config.coarse
        self.see_half = nn.Conv2d(config.half, p, 2, stride=2)
        self.see_quarter = nn.Conv2d(config.quarter, p, 1)
        self.see_eighth = nn.Conv2d(config.eighth, p, 1)
        self.see_finest = nn.Conv2d(config.half, finest, 1)
        self.enter = nn.Conv2d(p + 8, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.enter_coarse = nn.Conv2d(p, coarse, 1)
        self.context = nn.Sequential(*(Residual(coarse) for _ in range(config.blocks)))
        self.up = nn.Conv2d(coarse, fine, 1)
        self.sharpen = Residual(fine)
        self.divide = nn.Conv2d(fine, 4 * finest, 1)
        self.sharpen_finest = Residual(finest)
        self.leave = nn.Conv2d(finest, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]  # there is one

    @torch.no_grad()
    def calibrate(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> None:
        """Scale the first layers so that features like these, (B, C, h, w) each, come out with mean 0 and spread 1."""
        seen = ((self.see_half, half), (self.see_finest, half), (self.see_quarter, quarter), (self.see_eighth, eighth))
        for layer, features in seen:
            flat = features.float().transpose(0, 1).flatten(1)  # (C, ...)
            layer.weight /= flat.std(1).clamp(min=1e-4)[:, None, None]
            layer.bias -= (layer.weight.sum((2, 3)) * flat.mean(1)).sum(1)  # type: ignore[operator]

    def look(self, half: Tensor, quarter: Tensor, eighth: Tensor) -> Cues:
        """Features (B, C, 2 h, 2 w), (B, C, h, w) and (B, C, h / 2, w / 2) of B pictures."""
        coarse = self.see_eighth(eighth)
        deep = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        fine = _relu(self.see_half(half) + self.see_quarter(quarter) + deep)
        return Cues(self.see_finest(half), fine, F.relu(coarse))

    def forward(self, cues: Cues, own: Tensor, other: Tensor) -> Tensor:
        """Log-odds (R, 2 h, 2 w) of R objects, h and w even. own: (R, 3, h, w) probabilities of the object, read from
        masks as they were read and as they were made sharp, and how much it looks like it (see
        `seem_core.appearance`); other: the same, each of the strongest other object; cues: of the picture that each
        is on."""
        prior = log_odds(own[:, 0])
        odds = torch.stack([prior, log_odds(own[:, 1]), log_odds(other[:, 0])], 1) / 4
        seen = torch.cat([odds, own, other[:, 1:]], 1).to(cues.fine.dtype)
        x = _relu(self.enter(torch.cat([cues.fine, seen], 1)))  # (R, F, h, w)
        context = _relu(self.down(x) + self.enter_coarse(cues.coarse))
        context = F.interpolate(self.up(self.context(context)), scale_factor=2, mode="bilinear")
        x = self.sharpen(_relu(x + context))
        x = _relu(F.pixel_shuffle(self.divide(x), 2) + cues.finest)  # (R, Q, 2 h, 2 w)
        change: Tensor = self.leave(self.sharpen_finest(x))
        return F.interpolate(prior[:, None], scale_factor=2, mode="bilinear")[:, 0] + change[:, 0].float()

    def refine(self, cues: Cues, read: Tensor) -> Tensor:
        """(N, 2 h, 2 w) probabilities of the objects of one picture, each on its own, from what is known of them,
        (N, 3, h, w), see `forward`. Each is changed near itself only, and where there is none of it, there will be
        none."""
        n, _, h, w = read.shape
        refined = read.new_zeros(n, 2 * h, 2 * w)
        for i, (rows, columns) in crops(read[:, :2].amax(1)):
            near = read[:, :, rows, columns]
            logits = self(cues.crop(rows, columns), near[i : i + 1], strongest_other(near, i)[None])
            place = (i, slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop))
            refined[place] = bounded(logits[0].sigmoid(), near[i, :2].amax(0))
        return refined


def _relu(x: Tensor) -> Tensor:
    """Of what nobody else needs."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


def log_odds(p: Tensor) -> Tensor:
    """Of probabilities, which count as at least `SURE` from 0 and 1; float32."""
    return torch.logit(p.float(), SURE)


def bounded(refined: Tensor, prior: Tensor) -> Tensor:
    """(2 h, 2 w) refined probabilities, no larger than the (h, w) prior `REACH` cells or more from the largest part of
    the object; faint ones are 0. What looks alike and stands apart must not become sure of itself."""
    side = 2 * REACH - 1
    near = F.max_pool2d(largest_part(prior > 0.5).float()[None], side, 1, REACH - 1)
    most = F.interpolate(torch.where(near > 0, 1.0, prior)[None], scale_factor=2)[0, 0]
    refined = torch.minimum(refined, most)
    return refined * (refined > PRESENT)


def largest_part(mask: Tensor) -> Tensor:
    """The largest 8-connected part of a (h, w) bool mask."""
    count, parts, facts, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    return torch.from_numpy(parts == largest).to(mask.device)


def strongest_other(masks: Tensor, n: int) -> Tensor:
    """The largest of (N, ...) numbers besides the n-th; 0 where there is no other."""
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
