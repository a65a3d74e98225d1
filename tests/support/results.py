"""Made-up results to write: a record of a run, and frames with objects on them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from trackers.base import ObjectMasks
from vos.frames import Frame, FrameResult, VideoInfo, VideoSource
from vos.output import ResultFolder, RunRecord

HEIGHT, WIDTH = 48, 64


def run_record(
    path: Path = Path("clip.mp4"), *, frames: int = 10, step: int = 1, ids: Sequence[int] = (1, 3)
) -> RunRecord:
    """What `ResultFolder.begin` takes."""
    info = VideoInfo(path, HEIGHT, WIDTH, Fraction(30000, 1001), frames, None, 0, False, "h264")
    return RunRecord(info, (0, frames, step), tuple(ids), options={"tracker": "copy", "end": None})


def frame_result(index: int, *, name: str | None = None, ids: Sequence[int] = (1, 3)) -> FrameResult:
    """A frame with one square per object, 8 x 6 pixels, the second one lost from frame 5 on."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16 if max(ids, default=0) > 255 else np.uint8)
    lost = np.array([i % 2 == 1 and index >= 5 for i in range(len(ids))], np.bool_)
    for i, object_id in enumerate(ids):
        if not lost[i]:
            labels[10 * i : 10 * i + 6, index : index + 8] = object_id
    scores = np.where(lost, 0, 0.9).astype(np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 10 * index % 256, np.uint8)
    return FrameResult(Frame(index, index / 25, image, name), ObjectMasks(tuple(ids), labels, scores, lost))


def write_results(
    out: Path, source: VideoSource, *, tracked: range | None = None, ids: Sequence[int] = (1, 2), finish: bool = True
) -> None:
    """A results folder for a real source: one disc per object, which moves to the right."""
    info = source.info
    tracked = range(len(source)) if tracked is None else tracked
    with ResultFolder.create(out, overwrite=True) as folder:
        folder.begin(
            RunRecord(info, (tracked.start, tracked.stop, tracked.step), tuple(ids), options={"tracker": "disc"})
        )
        for frame in source.frames(tracked.start, tracked.stop, tracked.step):
            labels = np.zeros((info.height, info.width), np.uint16 if max(ids) > 255 else np.uint8)
            ys, xs = np.ogrid[: info.height, : info.width]
            radius = min(info.height, info.width) / 5
            for i, object_id in enumerate(ids):
                x = info.width * (i + 1) / (len(ids) + 1) + frame.index
                labels[np.hypot(xs - x, ys - info.height / 2) < radius] = object_id
            lost = np.zeros(len(ids), np.bool_)
            folder.add(FrameResult(frame, ObjectMasks(tuple(ids), labels, np.full(len(ids), 0.75, np.float32), lost)))
        if finish:
            folder.finish(gaps=source.gaps)
