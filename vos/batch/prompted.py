"""Which objects a job's prompts name, before its video is opened: `PromptedObjects`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seem_core.errors import InputError, VosError
from vos.batch.job import VideoJob, job_files
from vos.batch.urls import url_of
from vos.images import list_images
from vos.masks import MaskFormat, read_prompt_mask
from vos.prompt_file import PromptFile, PromptTarget, frame_number, read_prompts, stem
from vos.prompt_gathering import GivenPrompt
from vos.prompt_json import Numbering
from vos.prompt_sources import MaskFile, ReferenceFile
from vos.saved_memory import known_objects


@dataclass(frozen=True)
class Target:
    """The video that prompts are for. size: (H, W) as it is stored; shown, it may be turned by a quarter."""

    size: tuple[int, int]
    video: Path

    def prompt_target(self, size: tuple[int, int]) -> PromptTarget:
        if not self.video.is_dir():
            return PromptTarget(size, frame_number)
        numbers = {file.stem: i for i, file in enumerate(list_images(self.video))}
        return PromptTarget(size, lambda name: numbers.get(stem(name)))


class PromptedObjects:
    """Reads prompts for their objects' ids; what holds for many videos is read once."""

    def __init__(self) -> None:
        self._references: dict[tuple[Path, MaskFormat], frozenset[int]] = {}
        self._memories: dict[str, frozenset[int]] = {}

    def of(self, job: VideoJob, target: Target) -> frozenset[int] | None:
        """Ids of all objects; None where a prompt lies at a URL. Raises what tracking would raise for these prompts."""
        if any(url_of(path) is not None for _, path in job_files(job)):
            return None
        try:
            return self._of(job, target, target.size)
        except InputError as error:
            try:  # as a video that is shown upright
                return self._of(job, target, target.size[::-1])
            except VosError:
                raise error from None

    def _of(self, job: VideoJob, target: Target, size: tuple[int, int]) -> frozenset[int]:
        kind, numbering = job.options.mask_format, Numbering()
        found = set(self._remembered(job.options.memory))
        for mask in job.masks:
            file = mask if isinstance(mask, MaskFile) else MaskFile(Path(mask))
            ids = read_prompt_mask(file.path, size=size, mask_format=kind).ids
            found |= set(ids) if file.object_id is None else {file.object_id}
        for prompt in job.prompts:
            if isinstance(prompt, ReferenceFile):
                found |= self._shown(prompt, kind)
            elif isinstance(prompt, (str, Path)):
                read = read_prompts(prompt, target.prompt_target(size), mask_format=kind, numbering=numbering)
                found |= {_object_id(item) for item in read.prompts}
            elif isinstance(prompt, PromptFile):
                found |= {_object_id(item) for item in prompt.prompts}
            else:
                found.add(_object_id(prompt))
        return frozenset(found)

    def _shown(self, file: ReferenceFile, kind: MaskFormat) -> frozenset[int]:
        if file.object_id is not None:
            return frozenset({file.object_id})
        if (file.mask, kind) not in self._references:
            self._references[file.mask, kind] = frozenset(read_prompt_mask(file.mask, mask_format=kind).ids)
        return self._references[file.mask, kind]

    def _remembered(self, memory: str | None) -> frozenset[int]:
        if memory is None:
            return frozenset()
        if memory not in self._memories:
            self._memories[memory] = frozenset(known_objects(memory))
        return self._memories[memory]


def _object_id(given: GivenPrompt) -> int:
    prompt: Any = getattr(given, "prompt", given)
    return int(prompt.object_id)
