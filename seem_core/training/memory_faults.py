"""Faults that remembered masks have after many frames, brought about early, so that short clips teach to mend them.

Over a long video two things go wrong in memory that a clip of a few frames never shows. Masks as they were read blur
away, and in those that were made sharp a part of the surroundings has become object, or a part of the object has not
come back; label propagation then carries the mistake on like anything else that it remembers.

Shapes: N objects, h w cells at stride 4.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RADII = (3.0, 14.0)  # cells around its middle that a part may take up
NEAR = 4  # cells from a border within which its middle lies
MOVES = 6  # cells that it is looked for around its last place
BOTH = 0.25  # share of parts that are wrong in the masks as they were read as well


@dataclass(eq=False)
class StrayPart:
    """A part of a picture that counts to an object by mistake, or does not count to it.

    number   of the object
    look     (C,) unit feature of its middle
    middle   row and column at stride 4, on the frame where it was last
    radius   cells around it
    alike    how like its middle a cell must be, a cosine
    adds     whether it is taken for the object, or not
    both     wrong in both versions of the mask
    """

    number: int
    look: Tensor
    middle: tuple[int, int]
    radius: float
    alike: float
    adds: bool
    both: bool

    @classmethod
    def begin(cls, versions: Tensor, keys: Tensor, rng: random.Random) -> StrayPart | None:
        """Somewhere near the border of one of (N, 2, h, w) masks; None where none has a border. keys: (C, h / 2, w / 2)
        unit features at stride 8."""
        bands = border_band(versions[:, 1], NEAR) > 0
        numbers = bands.flatten(1).any(1).nonzero()[:, 0].tolist()
        if not numbers:
            return None
        number = rng.choice(numbers)
        places = bands[number].nonzero()
        y, x = places[rng.randrange(len(places))].tolist()
        look = keys[:, y // 2, x // 2].float()
        radius = rng.uniform(*RADII)
        like = _likeness(keys, look)[_disc(bands.shape[1:], (y, x), radius).to(keys.device)]
        alike = float(like.quantile(rng.uniform(0.2, 0.6)))
        return cls(number, look, (y, x), radius, alike, rng.random() < 0.5, rng.random() < BOTH)

    def spoil(self, versions: Tensor, keys: Tensor) -> Tensor:
        """(N, 2, h, w) masks of another frame with the mistake in them; its middle moves along with the picture."""
        like = _likeness(keys, self.look)
        near = _disc(like.shape, self.middle, MOVES).to(like.device)
        best = int(torch.where(near, like, -2.0).argmax())
        self.middle = best // like.shape[1], best % like.shape[1]
        part = (like >= self.alike) & _disc(like.shape, self.middle, self.radius).to(like.device)
        spoilt = versions.clone()
        for version in (0, 1) if self.both else (1,):
            spoilt[self.number, version][part] = 1.0 if self.adds else 0.0
        return spoilt


def wear(versions: Tensor, share: float) -> Tensor:
    """(N, 2, h, w) masks of which the first version, as it was read, is blurred a little more. share: in 0..1, of the
    blurred mask in the result."""
    blurred = F.avg_pool2d(versions[:, :1], 3, 1, 1, count_include_pad=False)
    return torch.cat([versions[:, :1].lerp(blurred, share), versions[:, 1:]], 1)


def _likeness(keys: Tensor, look: Tensor) -> Tensor:
    """(h, w) cosine of every cell with ``look``; keys: (C, h / 2, w / 2)."""
    like = torch.einsum("chw,c->hw", F.normalize(keys.float(), dim=0), F.normalize(look, dim=0))
    return F.interpolate(like[None, None], scale_factor=2, mode="bilinear")[0, 0]


def _disc(size: tuple[int, ...] | torch.Size, middle: tuple[int, int], radius: float) -> Tensor:
    """(h, w) bool: cells at most ``radius`` from ``middle``."""
    y = torch.arange(size[0])[:, None] - middle[0]
    x = torch.arange(size[1])[None] - middle[1]
    return y**2 + x**2 <= radius**2


def border_band(masks: Tensor, cells: int) -> Tensor:
    """(R, h, w) 1 within ``cells`` of where a mask crosses one half, else 0."""
    inside, width = (masks > 0.5).float()[:, None], 2 * cells + 1
    grown, shrunk = F.max_pool2d(inside, width, 1, cells), -F.max_pool2d(-inside, width, 1, cells)
    return (grown - shrunk)[:, 0]
