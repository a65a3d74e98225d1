"""How far two opinions of one object are to be believed, frame by frame: propagation's and a decoder's.

Nobody says which of the two is right, so that is hidden: on each frame *both* are, or only one of them. What is seen is
how well their masks agree, and by that the three cases are weighed (two raters of unknown reliability; Dawid and Skene,
"Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 1979). Carried on are

    followed      the probability that propagation is on the object: its errors last from frame to frame
    here, absent  how often the decoder was right, as a function of the score that it gave, apart for "it is here" and
                  "it is not here": its errors do not last, every frame is decoded anew
    alarms        how often it said "here" while the object was away: one that kept silent then is believed when it
                  finds the object again, one that always sees something is not

Hence a decoder that contradicts a propagation which was right so far loses its say, one that agrees with it gains, and
one that was found reliable overrules a propagation that it contradicts on a few frames in a row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Source = Literal["both", "propagation", "decoder"]
Pair = tuple[float, float]

PRIOR_ANSWERS = 3.0
"""What is assumed of a decoder weighs as much as this many answers."""

_LEAST_SIZE_ODDS = 0.05
_EDGE = 0.02  # no agreement is taken for more certain than this


@dataclass(frozen=True)
class TrustConfig:
    """What is assumed before anything is seen; probabilities are per frame.

    strays, recovers  that a right propagation goes wrong, that a wrong one comes right again
    returns           that an object which is rightly believed absent appears
    here, absent      that a decoder which says so is right, at score 0 and at score 1
    sharpness         the IoU of two right masks is distributed like a^sharpness, of others like (1 - a)^sharpness
    size_change       standard deviation of the logarithm of a right mask's area about its running median
    memory            weight of what was learned a frame ago, against what is learned now
    areas             how many right areas the median is taken of
    """

    strays: float = 0.02
    recovers: float = 0.1
    returns: float = 0.1
    here: Pair = (0.35, 0.65)
    absent: Pair = (0.35, 0.35)
    sharpness: float = 2.0
    size_change: float = 0.5
    memory: float = 0.97
    areas: int = 15


@dataclass(frozen=True)
class Opinion:
    """What a decoder says of an object on a frame. area: 0 for "not here", in the unit of all areas of that object.
    score: 0..1."""

    area: float
    score: float


@dataclass(frozen=True)
class Verdict:
    """source: whose mask is the most probable; ``both``: they differ in shape alone. right: the probability that it is
    on the object."""

    source: Source
    right: float


@dataclass(frozen=True)
class Rate:
    """How often an answer was right, as a linear function of its score.

    prior: the rates at score 0 and 1 that are assumed. right, asked: what was counted at score 0 and 1; an answer with
    a score between counts in part at both.
    """

    prior: Pair
    right: Pair = (0.0, 0.0)
    asked: Pair = (0.0, 0.0)

    def at(self, score: float) -> float:
        """Probability that an answer with this score is right."""
        low, high = (
            (right + prior * PRIOR_ANSWERS) / (asked + PRIOR_ANSWERS)
            for prior, right, asked in zip(self.prior, self.right, self.asked, strict=True)
        )
        return (1 - score) * low + score * high

    def learned(self, score: float, right: float, memory: float) -> Rate:
        """With one answer more, that was right with probability ``right``; older ones count ``memory`` times less."""
        low, high = 1 - score, score
        return replace(
            self,
            right=(self.right[0] * memory + low * right, self.right[1] * memory + high * right),
            asked=(self.asked[0] * memory + low, self.asked[1] * memory + high),
        )


@dataclass(frozen=True)
class Trust:
    """What was learned about one object's two sources. As long as no mask of it is known, neither is believed more.

    areas: of its masks that were right, old to new. alarms: "here" and all answers of the decoder while it was away.
    """

    config: TrustConfig = field(default_factory=TrustConfig)
    followed: float = 0.5
    here: Rate | None = None
    absent: Rate | None = None
    areas: tuple[float, ...] = ()
    alarms: Pair = (0.0, 0.0)

    def judge(self, area: float, decoded: Opinion, agreement: float) -> tuple[Verdict, Trust]:
        """Weigh the opinions of one frame; the verdict, and the trust that it leads to.

        area: of the propagated mask, 0 where it is empty. agreement: IoU of the two masks, 1 where both are empty.
        """
        p, d = self._propagation(area), self._decoder(decoded, area)
        alike, apart = _likelihoods(agreement, self.config.sharpness)
        cases: dict[Source, float] = {
            "both": p * d * alike,
            "propagation": p * (1 - d) * apart,
            "decoder": (1 - p) * d * apart,
        }
        total = sum(cases.values())
        both, alone, other = (weight / total for weight in cases.values())
        source = max(cases, key=lambda case: cases[case])
        right = both + max(alone, other)
        seen = decoded.area if source == "decoder" else area
        areas = (*self.areas, seen)[-self.config.areas :] if seen > 0 else self.areas
        heard = self._heard(decoded, both + other)
        if area <= 0:
            heard = replace(heard, alarms=self._alarms(decoded, both + alone))
        return Verdict(source, right), replace(heard, followed=both + alone, areas=areas)

    def corrected(self, area: float, decoded: Opinion | None = None, agreement: float = 0.0) -> Trust:
        """The true mask of a frame became known: propagation starts anew from it, and the decoder is held against it.

        decoded: what the decoder had said there, if it was asked. agreement: IoU of its mask with the true one.
        """
        heard = self
        if decoded is not None:
            alike, apart = _likelihoods(agreement, self.config.sharpness)
            heard = self._heard(decoded, alike / (alike + apart))
        return replace(heard, followed=1.0, areas=(area,) if area > 0 else ())

    def _rate(self, opinion: Opinion) -> Rate:
        if opinion.area > 0:
            return self.here or Rate(self.config.here)
        return self.absent or Rate(self.config.absent)

    def _heard(self, opinion: Opinion, right: float) -> Trust:
        rate = self._rate(opinion).learned(opinion.score, right, self.config.memory)
        return replace(self, here=rate) if opinion.area > 0 else replace(self, absent=rate)

    def _propagation(self, area: float) -> float:
        """Probability that propagation is right, before the decoder is heard."""
        ends = self.config.strays if area > 0 else self.config.returns
        expected = self.followed * (1 - ends) + (1 - self.followed) * self.config.recovers
        return _with_odds(expected, self._size_odds(area))

    def _decoder(self, opinion: Opinion, propagated_area: float) -> float:
        """Probability that the decoder is right, before propagation is heard."""
        odds = self._size_odds(opinion.area)
        if opinion.area > 0 and propagated_area <= 0:
            claims, asked = self.alarms
            odds *= 0.5 * (asked + 2) / (claims + 1)  # what is assumed of a decoder that was never asked, over its rate
        return _with_odds(self._rate(opinion).at(opinion.score), odds)

    def _alarms(self, opinion: Opinion, away: float) -> Pair:
        """With one answer more on an object that is away with this probability."""
        claims, asked = (count * self.config.memory for count in self.alarms)
        return claims + away * (opinion.area > 0), asked + away

    def _size_odds(self, area: float) -> float:
        """1 for the usual area and for "not here", less the further from it."""
        if area <= 0 or not self.areas:
            return 1.0
        change = math.log(area / statistics.median(self.areas)) / self.config.size_change
        return max(_LEAST_SIZE_ODDS, math.exp(-change * change / 2))

    def state_dict(self) -> dict[str, Any]:
        """What was learned, as plain numbers."""
        rates = {name: rate and [*rate.right, *rate.asked] for name, rate in self._rates()}
        return {"followed": self.followed, "areas": list(self.areas), "alarms": list(self.alarms), **rates}

    @staticmethod
    def from_state_dict(state: Mapping[str, Any], config: TrustConfig) -> Trust:
        """The trust that `state_dict` was taken of."""
        rates = {
            name: state[name] and Rate(prior, tuple(state[name][:2]), tuple(state[name][2:]))
            for name, prior in (("here", config.here), ("absent", config.absent))
        }
        areas, alarms = tuple(state["areas"]), (float(state["alarms"][0]), float(state["alarms"][1]))
        return Trust(config, float(state["followed"]), areas=areas, alarms=alarms, **rates)

    def _rates(self) -> tuple[tuple[str, Rate | None], ...]:
        return ("here", self.here), ("absent", self.absent)

    def __repr__(self) -> str:
        here, absent = (self._rate(Opinion(area, 0.5)).at(0.5) for area in (1.0, 0.0))
        return f"Trust(followed {self.followed:.2f}, decoder right when it says here {here:.2f}, absent {absent:.2f})"


def _likelihoods(agreement: float, sharpness: float) -> tuple[float, float]:
    """Of an IoU, if the two masks show the same object, and if they do not."""
    a = min(max(agreement, _EDGE), 1 - _EDGE)
    return float(a**sharpness), float((1 - a) ** sharpness)


def _with_odds(probability: float, odds: float) -> float:
    return probability * odds / (probability * odds + 1 - probability)
