"""Which objects a job's prompts name, and whether they fit, before its video is opened: `PromptedObjects`.

The prompts are read by the very code that tracking reads them with, against what the video's header says.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from vos.batch.job import VideoJob, job_files
from vos.batch.urls import url_of
from vos.frames import Frame, VideoInfo
from vos.masks import MaskFormat, read_prompt_mask
from vos.prompt_gathering import gather
from vos.prompt_sources import ReferenceFile
from vos.saved_memory import known_objects


class DeclaredVideo:
    """A video by its header alone, in the place of a `VideoSource` for those who do not look at frames.

    size: (H, W). frames: how many there may be. images: a folder of images, not a video file.
    """

    def __init__(self, path: Path, size: tuple[int, int], frames: int, rate: Fraction, *, images: bool) -> None:
        self._frames = frames
        self._info = VideoInfo(path, *size, rate, frames, None, 0, False, "images" if images else "unknown")

    @property
    def info(self) -> VideoInfo:
        return self._info

    @property
    def gaps(self) -> tuple[int, ...]:
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: int) -> Frame:
        raise IndexError(f"frame {index} of {self._info.path} is not decoded, only its header was read")

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        return iter(())

    def seconds(self, index: int) -> float:
        return float(index / self._info.rate)

    def close(self) -> None:
        """Nothing is open."""


class PromptedObjects:
    """Reads prompts for their objects' ids; what holds for many videos is read once."""

    def __init__(self) -> None:
        self._references: dict[tuple[Path, MaskFormat], frozenset[int]] = {}
        self._memories: dict[str, frozenset[int]] = {}

    def of(self, job: VideoJob, video: DeclaredVideo) -> frozenset[int] | None:
        """Ids of all objects; None where a prompt lies at a URL. Raises what tracking would raise for these prompts."""
        if any(url_of(path) is not None for _, path in job_files(job)):
            return None
        options = job.options
        known = set(self._remembered(options.memory))
        for prompt in job.prompts:
            if isinstance(prompt, ReferenceFile):
                known |= self._shown(prompt, options.mask_format)
        others = [prompt for prompt in job.prompts if not isinstance(prompt, ReferenceFile)]
        if not others and not job.masks:
            return frozenset(known)
        tracked = range(len(video))[options.start : options.end : options.stride_at(video.info.rate)]
        found = gather(others, job.masks, video, tracked, mask_format=options.mask_format, known=known)
        return frozenset(known | {item.prompt.object_id for item in found.placed})

    def _shown(self, file: ReferenceFile, kind: MaskFormat) -> frozenset[int]:
        if (file.mask, kind) not in self._references:
            self._references[file.mask, kind] = frozenset(read_prompt_mask(file.mask, mask_format=kind).ids)
        return self._references[file.mask, kind] if file.object_id is None else frozenset({file.object_id})

    def _remembered(self, memory: str | None) -> frozenset[int]:
        if memory is None:
            return frozenset()
        if memory not in self._memories:
            self._memories[memory] = frozenset(known_objects(memory))
        return self._memories[memory]
