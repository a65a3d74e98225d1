"""The curve of mean IoU over rounds as a picture; needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path

from seem_core.errors import MissingExtraError
from vos.benchmarks.interactive import InteractiveRun
from vos.label_files import write_whole
from vos.metrics.interactive import THRESHOLDS


def check_plotting() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib; install it with pip install matplotlib") from error


def plot_rounds(run: InteractiveRun, path: Path) -> None:
    """Write a PNG: mean IoU after each round, with the thresholds of NoC as thin lines.

    Raises MissingExtraError without matplotlib, OutputError or DiskFullError where `path` cannot be written.
    """
    check_plotting()
    from matplotlib.figure import Figure

    scores = run.scores
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color="0.85", linewidth=0.8)
    axes.plot(range(1, scores.rounds + 1), scores.per_round, marker="o", markersize=3)
    axes.set(xlabel="round", ylabel=f"mean IoU of {scores.objects} objects", ylim=(0, 1.02))
    axes.set_title(f"{run.predictor}, first mark: {run.kind.value}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())
