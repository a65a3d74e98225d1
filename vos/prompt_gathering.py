"""Everything that was given to say what to follow, from wherever it lies, as one list in time: `gather`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from seem_core.errors import MaskError
from trackers.base import Labels
from vos.frames import VideoSource
from vos.masks import MaskFormat
from vos.prompt_file import PromptFile, PromptTarget, read_prompts
from vos.prompt_json import Numbering
from vos.prompt_sources import MaskFile, ReferenceFile, read_mask_file, read_reference
from vos.prompts import AnyPrompt, FramePrompt, mask_prompts, place

GivenPrompt: TypeAlias = AnyPrompt | ReferenceFile | PromptFile | str | Path
AnyMask: TypeAlias = str | Path | MaskFile | Labels


@dataclass(frozen=True)
class Gathered:
    """What is to be followed, checked against the video.

    placed    ordered by frame, then as given, masks first
    names     object id -> name, of objects that have one
    inputs    every file that was read, with its role: mask, prompts or reference
    warnings  one sentence for each thing that was assumed
    """

    placed: tuple[FramePrompt, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    inputs: tuple[tuple[str, Path], ...] = ()
    warnings: tuple[str, ...] = ()


def gather(
    prompts: Iterable[GivenPrompt] | GivenPrompt,
    mask: AnyMask | Sequence[str | Path | MaskFile] | None,
    source: VideoSource,
    tracked: range,
    *,
    mask_format: MaskFormat = "auto",
    known: Collection[int] = (),
) -> Gathered:
    """Read and check all prompts. Text and paths among ``prompts`` are files of prompts.

    known: objects that a saved memory knows. Raises PromptError, MaskError, VideoError, each one sentence.
    """
    collected = _Collected(source, mask_format)
    collected.add_masks(mask)
    for item in [prompts] if isinstance(prompts, GivenPrompt) else prompts:
        collected.add(item)
    placed = place(collected.prompts, source, tracked, known)
    return Gathered(placed, collected.names, tuple(collected.inputs), tuple(collected.warnings))


class _Collected:
    """What has been read so far."""

    def __init__(self, source: VideoSource, mask_format: MaskFormat) -> None:
        self.prompts: list[AnyPrompt] = []
        self.names: dict[int, str] = {}
        self.inputs: list[tuple[str, Path]] = []
        self.warnings: list[str] = []
        self._source, self._mask_format = source, mask_format
        self._numbering, self._target = Numbering(), PromptTarget.video(source)

    def add_masks(self, mask: AnyMask | Sequence[str | Path | MaskFile] | None) -> None:
        if mask is None:
            return
        if isinstance(mask, np.ndarray):
            self.prompts += mask_prompts(_as_labels(mask))
            return
        for item in [mask] if isinstance(mask, (str, Path, MaskFile)) else mask:
            file = item if isinstance(item, MaskFile) else MaskFile(Path(item))
            prompts, warnings = read_mask_file(file, self._target.size, self._mask_format)
            self._take(prompts, warnings, [("mask", file.path)])

    def add(self, item: GivenPrompt) -> None:
        if isinstance(item, ReferenceFile):
            prompts, warnings = read_reference(item, self._mask_format)
            self._take(prompts, warnings, [("reference", item.picture), ("mask", item.mask)])
        elif isinstance(item, (str, Path)):
            file = read_prompts(item, self._target, mask_format=self._mask_format, numbering=self._numbering)
            self._add_file(file)
        elif isinstance(item, PromptFile):
            self._add_file(item)
        else:
            self.prompts.append(item)

    def _add_file(self, file: PromptFile) -> None:
        files = [("prompts", file.path), *((role, path) for path, role in file.files.items())]
        self._take(file.prompts, file.warnings, files)
        self.names |= file.names
        video = self._source.info.path
        if file.video is not None and _another(file.video, video):
            self.warnings.append(f"{file.path} was made for {file.video}, and is used for {video}")

    def _take(self, prompts: Iterable[AnyPrompt], warnings: Iterable[str], files: Iterable[tuple[str, Path]]) -> None:
        self.prompts += prompts
        self.warnings += warnings
        self.inputs += [file for file in files if file not in self.inputs]


def _another(named: Path, used: Path) -> bool:
    try:
        return not os.path.samefile(named, used)
    except OSError:  # the one that is named is not there any more
        return named.name != used.name


def _as_labels(mask: Labels) -> Labels:
    """A label map from what programs hold: bool, or any integers that fit 16 bits."""
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise MaskError(f"a mask array is (H, W) of bool or integers, not {mask.shape} {mask.dtype}")
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= 65535:
        raise MaskError(f"a mask array has ids {mask.min()}..{mask.max()}; they must lie in 0..65535")
    return mask.astype(np.uint8) if mask.max(initial=0) <= 255 else mask.astype(np.uint16)
