"""Videos in, masks and scores out. The front door for Python users; a name is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seem_core.errors import (
        CheckpointError,
        DatasetError,
        DeviceError,
        DiskFullError,
        InputError,
        LimitError,
        MaskError,
        MissingExtraError,
        OutputError,
        PromptError,
        VideoError,
        VosError,
    )
    from seem_core.prompts import (
        BoxPrompt,
        MaskPrompt,
        PointPrompt,
        Prompt,
        ReferencePrompt,
        ScribblePrompt,
        TextPrompt,
    )
    from trackers.base import ObjectMasks, Tracker
    from vos.frames import Frame, FrameResult, VideoInfo, VideoSource
    from vos.masks import read_labels, read_prompt_mask, write_labels
    from vos.pipeline import TrackOptions, track
    from vos.prompts import FramePrompt, Seconds, TimedPrompt
    from vos.to_folder import TrackSummary, track_to_folder
    from vos.video import open_video

_HOMES = {
    "seem_core.errors": (
        "CheckpointError", "DatasetError", "DeviceError", "DiskFullError", "InputError", "LimitError", "MaskError",
        "MissingExtraError", "OutputError", "PromptError", "VideoError", "VosError",
    ),
    "seem_core.prompts": (
        "BoxPrompt", "MaskPrompt", "PointPrompt", "Prompt", "ReferencePrompt", "ScribblePrompt", "TextPrompt",
    ),
    "trackers.base": ("ObjectMasks", "Tracker"),
    "vos.frames": ("Frame", "FrameResult", "VideoInfo", "VideoSource"),
    "vos.masks": ("read_labels", "read_prompt_mask", "write_labels"),
    "vos.pipeline": ("TrackOptions", "track"),
    "vos.prompts": ("FramePrompt", "Seconds", "TimedPrompt"),
    "vos.to_folder": ("TrackSummary", "track_to_folder"),
    "vos.video": ("open_video",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BoxPrompt",
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DiskFullError",
    "Frame",
    "FramePrompt",
    "FrameResult",
    "InputError",
    "LimitError",
    "MaskError",
    "MaskPrompt",
    "MissingExtraError",
    "ObjectMasks",
    "OutputError",
    "PointPrompt",
    "Prompt",
    "PromptError",
    "ReferencePrompt",
    "ScribblePrompt",
    "Seconds",
    "TextPrompt",
    "TimedPrompt",
    "TrackOptions",
    "TrackSummary",
    "Tracker",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VosError",
    "open_video",
    "read_labels",
    "read_prompt_mask",
    "track",
    "track_to_folder",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vos' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
