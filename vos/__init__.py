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
        PolygonPrompt,
        Prompt,
        ReferencePrompt,
        ScribblePrompt,
        TextPrompt,
    )
    from seem_core.segmenter import SeemSegmenter, load_segmenter
    from trackers.base import ObjectMasks, Tracker
    from vos.benchmarks.davis import TrackerRun, run_davis
    from vos.benchmarks.layouts import Layout, open_layout
    from vos.benchmarks.scores import Scores
    from vos.benchmarks.scoring import score_predictions
    from vos.editor import Editor, EditorPrompt
    from vos.editor_export import export_results
    from vos.frames import Frame, FrameResult, VideoInfo, VideoSource
    from vos.masks import read_labels, read_prompt_mask, write_labels
    from vos.output import FrameRecord, ObjectRecord, ResultFolder, RunRecord, read_frames, read_run
    from vos.pipeline import TrackOptions, track
    from vos.prompt_file import PromptFile, prompts_schema, read_prompts, write_prompts
    from vos.prompt_sources import ReferenceFile
    from vos.prompts import Forget, FramePrompt, Seconds, TimedPrompt
    from vos.to_folder import TrackSummary, track_to_folder
    from vos.video import open_video

_HOMES = {
    "seem_core.errors": (
        "CheckpointError", "DatasetError", "DeviceError", "DiskFullError", "InputError", "LimitError", "MaskError",
        "MissingExtraError", "OutputError", "PromptError", "VideoError", "VosError",
    ),
    "seem_core.prompts": (
        "BoxPrompt", "MaskPrompt", "PointPrompt", "PolygonPrompt", "Prompt", "ReferencePrompt", "ScribblePrompt",
        "TextPrompt",
    ),
    "seem_core.segmenter": ("SeemSegmenter", "load_segmenter"),
    "trackers.base": ("ObjectMasks", "Tracker"),
    "vos.benchmarks.davis": ("TrackerRun", "run_davis"),
    "vos.benchmarks.layouts": ("Layout", "open_layout"),
    "vos.benchmarks.scores": ("Scores",),
    "vos.benchmarks.scoring": ("score_predictions",),
    "vos.editor": ("Editor", "EditorPrompt"),
    "vos.editor_export": ("export_results",),
    "vos.frames": ("Frame", "FrameResult", "VideoInfo", "VideoSource"),
    "vos.masks": ("read_labels", "read_prompt_mask", "write_labels"),
    "vos.output": ("FrameRecord", "ObjectRecord", "ResultFolder", "RunRecord", "read_frames", "read_run"),
    "vos.pipeline": ("TrackOptions", "track"),
    "vos.prompt_file": ("PromptFile", "prompts_schema", "read_prompts", "write_prompts"),
    "vos.prompt_sources": ("ReferenceFile",),
    "vos.prompts": ("Forget", "FramePrompt", "Seconds", "TimedPrompt"),
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
    "Editor",
    "EditorPrompt",
    "Forget",
    "Frame",
    "FramePrompt",
    "FrameRecord",
    "FrameResult",
    "InputError",
    "Layout",
    "LimitError",
    "MaskError",
    "MaskPrompt",
    "MissingExtraError",
    "ObjectMasks",
    "ObjectRecord",
    "OutputError",
    "PointPrompt",
    "PolygonPrompt",
    "Prompt",
    "PromptError",
    "PromptFile",
    "ReferenceFile",
    "ReferencePrompt",
    "ResultFolder",
    "RunRecord",
    "Scores",
    "ScribblePrompt",
    "Seconds",
    "SeemSegmenter",
    "TextPrompt",
    "TimedPrompt",
    "TrackOptions",
    "TrackSummary",
    "Tracker",
    "TrackerRun",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VosError",
    "export_results",
    "load_segmenter",
    "open_layout",
    "open_video",
    "prompts_schema",
    "read_frames",
    "read_labels",
    "read_prompt_mask",
    "read_prompts",
    "read_run",
    "run_davis",
    "score_predictions",
    "track",
    "track_to_folder",
    "write_labels",
    "write_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vos' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
