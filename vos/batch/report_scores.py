"""Scores for the rows of a report whose videos have ground truth: `with_scores`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from seem_core.errors import VosError
from vos.batch.report import ReportRow
from vos.benchmarks.layouts import Layout, open_layout
from vos.benchmarks.protocols import ProtocolName
from vos.benchmarks.scoring import score_predictions


def with_scores(
    rows: Sequence[ReportRow], truth: str | PathLike[str], *, protocol: ProtocolName = "strict"
) -> tuple[ReportRow, ...]:
    """The rows, those of finished videos with the J and F of their masks.

    truth: a DAVIS root or a folder of annotation folders; the one that has the name of a video's results is its ground
    truth, and it may be sparse. A video without one gets no score; one that cannot be scored gets a warning with the
    reason.

    Raises DatasetError where ``truth`` is neither.
    """
    layout = open_layout(Path(truth))
    known = set(layout.all_names())
    return tuple(
        _scored(row, row.folder, layout, protocol)
        if row.outcome == "done" and row.folder is not None and row.folder.name in known
        else row
        for row in rows
    )


def _scored(row: ReportRow, folder: Path, layout: Layout, protocol: ProtocolName) -> ReportRow:
    try:
        scores = score_predictions(folder.parent, layout, protocol=protocol, names=[folder.name])
    except VosError as error:
        return replace(row, warnings=(*row.warnings, f"no score: {error}"))
    return replace(row, scores=scores.sequences[0], warnings=(*row.warnings, *scores.warnings))
