"""Score a folder of predicted masks against ground truth: measure every frame, then apply the protocol's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seem_core.errors import DatasetError
from vos.benchmarks.layouts import (
    AnnotatedSequence,
    Layout,
    folder_of_sequences,
    mask_files,
    open_layout,
    readable,
    sequence_folders,
)
from vos.benchmarks.measure import FrameMeasures, FrameTask, Progress, measure_frames
from vos.benchmarks.protocols import PROTOCOLS, Counted, Protocol, ProtocolName
from vos.benchmarks.scores import ObjectScore, Scores
from vos.images import natural_key
from vos.label_files import VOID
from vos.run_record import MASKS_FOLDER, RUN_FILE
from vos.wording import some


def score_predictions(
    predictions: Path | str,
    truth: Path | str | Layout,
    *,
    protocol: ProtocolName = "strict",
    names: Sequence[str] | None = None,
    resolution: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    counted: Mapping[str, Counted] | None = None,
) -> Scores:
    """Score ``<predictions>/<sequence>/<frame>.png`` against ground truth.

    truth     a DAVIS root, a folder of annotation folders, one annotation folder (then ``predictions`` is one folder
              of masks), or a `Layout`; masks may be sparse, their file names say which frames
    protocol  see `vos.benchmarks.protocols`
    names     the sequences, all of which must be there; None: those that have predictions, and a warning names the rest
    jobs      processes; above 1 the calling script needs the usual ``if __name__ == "__main__":``
    progress  called with frames done and frames in all
    counted   sequence -> frames and objects that count there instead of those of the protocol

    ``predictions``, or each folder in it, may also be a results folder of `vos track`.

    Raises DatasetError for an unknown sequence or a missing frame, MaskError for a file of the wrong size or format;
    each names the path. Nothing is scored then.
    """
    if protocol not in PROTOCOLS:
        raise DatasetError(f"protocol {protocol!r} is unknown; use one of {', '.join(PROTOCOLS)}")
    layout = truth if isinstance(truth, Layout) else open_layout(Path(truth), resolution)
    warnings: list[str] = []
    folders = _prediction_folders(Path(predictions), layout, names, warnings)
    rules = PROTOCOLS[protocol]
    own = counted or {}
    plans = [_plan(layout.sequence(name), folder, rules, own.get(name)) for name, folder in folders.items()]
    tasks = [task for plan in plans for task in plan.tasks(rules)]
    measured = iter(measure_frames(tasks, jobs, progress))
    objects: list[ObjectScore] = []
    for plan in plans:
        objects += _apply(rules, plan, [next(measured) for _ in plan.sequence.frames], warnings)
    if not objects:
        raise DatasetError(f"no object of {layout.annotations} has a frame that counts; there is nothing to score")
    return Scores(protocol, tuple(objects), tuple(warnings))


@dataclass(frozen=True)
class _Plan:
    """One sequence: its truth, its predictions by frame name, and the positions that count.

    objects: ids that count, where that is not left to the protocol.
    """

    sequence: AnnotatedSequence
    predictions: dict[str, Path]
    counted: Sequence[int]
    objects: tuple[int, ...] | None = None

    def tasks(self, protocol: Protocol) -> list[FrameTask]:
        """Every annotated frame; those that do not count still say which objects there are."""
        name = self.sequence.name
        return [
            FrameTask(name, frame, truth, self.predictions[frame] if i in self.counted else None, protocol.one_object)
            for i, (frame, truth) in enumerate(self.sequence.masks.items())
        ]


@readable()
def _prediction_folders(
    root: Path, layout: Layout, names: Sequence[str] | None, warnings: list[str]
) -> dict[str, Path]:
    """Sequence name -> folder of its predictions. Raises DatasetError for sequences without one, or without truth."""
    if not root.is_dir():
        raise DatasetError(f"predictions {root} is not a folder")
    known = layout.all_names()
    if mask_files(_masks_in(root)) and not (root / known[0]).is_dir():
        if len(wanted := list(names or known)) != 1:
            name = root.name if root.name in known else known[0]
            raise DatasetError(
                f"{root} holds the masks of one sequence, the ground truth has {len(wanted)}; give the annotation "
                f"folder of that sequence, such as {layout.annotations / name}"
            )
        return {wanted[0]: _masks_in(root)}
    runs = (entry.name for entry in sorted(root.iterdir(), key=natural_key) if (entry / RUN_FILE).is_file())
    found = tuple(dict.fromkeys((*sequence_folders(root), *runs)))
    if names is None:
        names = found
        if rest := [name for name in known if name not in found]:
            warnings.append(f"{len(rest)} of {len(known)} sequences have no predictions: {some(rest)}")
    if not set(names) & set(found) and (deeper := folder_of_sequences(root, known)):
        raise DatasetError(f"predictions lie deeper, in {deeper}; give that folder instead of {root}")
    if not names:
        raise DatasetError(f"predictions {root} holds no folder of PNG masks; expected {root / known[0]} and so on")
    if unknown := [name for name in names if name not in known]:
        raise DatasetError(f"no ground truth in {layout.annotations} for {some(unknown)}")
    if missing := [name for name in names if name not in found]:
        raise DatasetError(f"predictions {root} lack {len(missing)} of {len(names)} sequences: {some(missing)}")
    return {name: _masks_in(root / name) for name in names}


def _masks_in(folder: Path) -> Path:
    """Where the masks of one sequence lie: in the folder itself, or below it where it holds results of `vos track`."""
    is_result = (folder / RUN_FILE).is_file() or not mask_files(folder)  # a result may also hold a contact sheet
    return folder / MASKS_FOLDER if is_result and mask_files(folder / MASKS_FOLDER) else folder


def _plan(sequence: AnnotatedSequence, folder: Path, protocol: Protocol, own: Counted | None) -> _Plan:
    predictions = mask_files(folder)
    counted = protocol.counted(sequence) if own is None else own.positions
    if not counted:
        raise DatasetError(
            f"sequence {sequence.name!r} has {len(sequence.frames)} annotated frames; without the first "
            "and the last none is left to score"
        )
    missing = [frame for frame in (sequence.frames[i] for i in counted) if frame not in predictions]
    if missing:
        raise DatasetError(
            f"sequence {sequence.name!r} lacks {len(missing)} of {len(counted)} predicted frames in {folder}: "
            f"{some([f'{frame}.png' for frame in missing])}"
        )
    return _Plan(sequence, predictions, counted, None if own is None else own.objects)


def _apply(protocol: Protocol, plan: _Plan, measured: list[FrameMeasures], warnings: list[str]) -> list[ObjectScore]:
    """Objects of one sequence as the protocol counts them; appends to ``warnings``."""
    name = plan.sequence.name
    first_seen = _first_seen(protocol, plan, measured, warnings)
    if not first_seen:
        hint = "; its masks hold 255, use --protocol davis2016" if any(frame.void for frame in measured) else ""
        raise DatasetError(f"sequence {name!r} has no object in its ground truth{hint}")
    _check_predicted_ids(protocol, name, [measured[i] for i in plan.counted], set(first_seen), warnings)
    if merged := sorted({i for frame in measured for i in frame.merged}):
        warnings.append(f"sequence {name!r}: ids {some(merged)} were taken as one object")
    scores = []
    for object_id in sorted(first_seen):
        positions = [i for i in plan.counted if i > first_seen[object_id]]
        if not positions:
            warnings.append(f"sequence {name!r}: object {object_id} comes too late to be scored")
            continue
        values = np.array([measured[i].values.get(object_id, (1.0, 1.0)) for i in positions], np.float64)  # (T, 2)
        frames = tuple(plan.sequence.frames[i] for i in positions)
        scores.append(ObjectScore(name, object_id, frames, values[:, 0], values[:, 1], protocol.wrapped_bins))
    return scores


def _first_seen(protocol: Protocol, plan: _Plan, measured: list[FrameMeasures], warnings: list[str]) -> dict[int, int]:
    """Object id -> position of the frame after which it counts; appends to ``warnings``."""
    first_seen: dict[int, int] = {}
    for i, frame in enumerate(measured):
        for object_id in frame.true_ids:
            first_seen.setdefault(object_id, i)
    if plan.objects is not None:
        if rest := sorted(set(first_seen) - set(plan.objects)):
            warnings.append(f"sequence {plan.sequence.name!r}: objects that do not count: {some(rest)}")
        return dict.fromkeys(plan.objects, -1)
    if protocol.ids_of_first_frame:
        return dict.fromkeys(range(1, max(measured[0].true_ids, default=0) + 1), 0)
    return first_seen


def _check_predicted_ids(
    protocol: Protocol, name: str, counted: list[FrameMeasures], objects: set[int], warnings: list[str]
) -> None:
    """Name predicted ids that are no objects, and objects that are never predicted.

    Raises DatasetError where the official tool, in its protocol, would end without a score.
    """
    predicted = {i for frame in counted for i in frame.predicted_ids}
    strange = sorted(predicted - objects)
    if strange and protocol.ids_of_first_frame:
        raise DatasetError(
            f"sequence {name!r}: predicted ids {some(strange)} are above the {len(objects)} objects of the first "
            "frame, which the official tool refuses; use --protocol strict"
        )
    if strange:
        hint = "; one object as 0 and 255 is --protocol davis2016" if strange == [VOID] else ""
        warnings.append(f"sequence {name!r}: predicted ids that the ground truth lacks: {some(strange)}{hint}")
    absent = sorted(objects - predicted)
    if absent and not protocol.ids_of_first_frame:
        warnings.append(f"sequence {name!r}: objects that no prediction has: {some(absent)}")
