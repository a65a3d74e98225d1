"""Prompts that lie in picture files: the mask of objects on a frame, and other pictures that show an object."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seem_core.errors import MaskError, PromptError
from seem_core.prompts import MaskPrompt, ReferencePrompt
from trackers.base import Image
from vos.images import IMAGE_SUFFIXES, read_image
from vos.masks import MaskFormat, PromptMask, read_prompt_mask
from vos.prompts import Origin, Seconds, TimedPrompt, When, frame_at
from vos.wording import some


@dataclass(frozen=True)
class MaskFile:
    """A mask file and when it applies; ``object_id`` is given only where the file holds one object."""

    path: Path
    when: When = None
    object_id: int | None = None


@dataclass(frozen=True)
class ReferenceFile:
    """Another picture that shows objects, and their mask there.

    picture    an image, a video or a folder of images
    mask       of the picture's size; ids as in a `MaskFile`
    shown      which frame of a video; None: its first one, or the image itself
    when       from which frame of the video that is tracked it applies
    object_id  given only where the mask holds one object
    """

    picture: Path
    mask: Path
    shown: When = None
    when: When = None
    object_id: int | None = None


def read_mask_file(
    file: MaskFile, size: tuple[int, int], mask_format: MaskFormat = "auto"
) -> tuple[tuple[TimedPrompt, ...], tuple[str, ...]]:
    """One prompt per object of a mask on a frame of ``size`` (H, W), and warnings. Raises MaskError."""
    found = read_prompt_mask(file.path, size=size, mask_format=mask_format)
    objects = _objects(found, file.path, file.object_id)
    return tuple(TimedPrompt(MaskPrompt(mask, i), file.when) for i, mask in objects), found.warnings


def read_reference(
    file: ReferenceFile, mask_format: MaskFormat = "auto"
) -> tuple[tuple[TimedPrompt, ...], tuple[str, ...]]:
    """One prompt per object that a picture shows, and warnings. Raises VideoError, PromptError, MaskError."""
    pixels, frame = read_picture(file.picture, file.shown)
    found = read_prompt_mask(file.mask, size=(pixels.shape[0], pixels.shape[1]), mask_format=mask_format)
    origin = Origin(picture=file.picture, frame=frame)
    objects = _objects(found, file.mask, file.object_id)
    return tuple(
        TimedPrompt(ReferencePrompt(pixels, mask, i), file.when, origin) for i, mask in objects
    ), found.warnings


def read_picture(path: Path, shown: When = None) -> tuple[Image, int | None]:
    """(H, W, 3) RGB of an image, or of one frame of a video and that frame's number. Raises VideoError, PromptError."""
    if shown is None and path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        return read_image(path), None
    from vos.video import open_video

    with closing(open_video(path)) as video:
        try:
            frame = frame_at(shown, video, range(len(video)))
        except PromptError as error:
            end = video.seconds(len(video) - 1)
            raise PromptError(
                f"{path} has frames 0..{len(video) - 1}, 0s to {end:.2f}s, and not {_word(shown)}"
            ) from error
        return video[frame].image, frame


def _word(shown: When) -> str:
    return f"{shown.seconds:g}s" if isinstance(shown, Seconds) else f"frame {shown}"


def one_object(found: PromptMask, path: Path, object_id: int, value: int | None = None) -> npt.NDArray[np.bool_]:
    """(H, W) bool of one object of a mask file: that of ``value``, else the only one, else that of its own id."""
    wanted = value if value is not None else found.ids[0] if len(found.ids) == 1 else object_id
    if wanted not in found.ids:
        raise MaskError(f'{path} holds the values {some(found.ids)} and not {wanted}; say which one with "value"')
    return np.asarray(found.labels == wanted)


def _objects(found: PromptMask, path: Path, object_id: int | None) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    if object_id is not None and len(found.ids) > 1:
        raise MaskError(f"{path} holds {len(found.ids)} objects; leave out #{object_id}, they have ids of their own")
    return [(i if object_id is None else object_id, np.asarray(found.labels == i)) for i in found.ids]
