"""What is learned of SEEM, and how: the settings of a `SeemTask`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from seem_core.errors import InputError
from seem_core.training.picture_batches import PictureConfig
from seem_core.training.pseudo_clips import ClipConfig

Setting = Literal["decoder", "all-but-text"]


@dataclass(frozen=True)
class VideoConfig:
    """Every n-th batch is one of clips, whose masks are followed from the first frame. weight: against the others."""

    every: int = 2
    clips: int = 1
    frames: int = 3
    weight: float = 1.0
    clip: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        if self.every < 1 or self.clips < 1 or self.frames < 2:
            raise InputError(f"video takes every >= 1, clips >= 1, frames >= 2: {self}")


@dataclass(frozen=True)
class SeemTaskConfig:
    """What is learned, and how.

    setting        decoder: all else stays, as in the published training; all-but-text: all but the text encoder learns
    losses         weights: as the paper gives them, or as the published code has them
    pictures       how pictures and prompts vary
    points         at which masks are compared
    segmentation, words   learn to name all objects of a picture, and to find what is named, where classes are known
    backbone_rate  learning rate of the backbone relative to the rest
    weight_decay   of all but norms and embeddings
    video          learn also from clips
    """

    setting: Setting = "decoder"
    losses: Literal["paper", "code"] = "paper"
    pictures: PictureConfig = field(default_factory=PictureConfig)
    points: int = 12544
    segmentation: bool = True
    words: bool = True
    backbone_rate: float = 0.1
    weight_decay: float = 0.05
    video: VideoConfig | None = None
