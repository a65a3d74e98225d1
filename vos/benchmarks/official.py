"""Our figures beside those of the official davis2017-evaluation, where the user has it installed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seem_core.errors import DatasetError, MissingExtraError
from vos.benchmarks.layouts import Layout
from vos.benchmarks.scores import Scores
from vos.benchmarks.scoring import score_predictions


@dataclass(frozen=True)
class Difference:
    """One figure of one object: what ours says and what the official tool says."""

    figure: str
    ours: float
    official: float

    @property
    def size(self) -> float:
        return abs(self.ours - self.official)


def compare_official(
    predictions: Path, layout: Layout, names: Sequence[str], *, jobs: int = 1
) -> tuple[Difference, ...]:
    """Every figure of every object by our protocol davis2017 and by the official tool, in its order.

    Raises MissingExtraError where ``davis2017`` is not installed, DatasetError where the official tool cannot take
    this layout (no images, sparse masks), or ends without a score.
    """
    evaluation = official_evaluation()
    ours = score_predictions(predictions, layout, protocol="davis2017", names=names, jobs=jobs)
    for name in names:
        sequence = layout.sequence(name)
        if sequence.is_sparse or sequence.images is None:
            raise DatasetError(f"the official tool needs an image and a mask for every frame; {name!r} lacks some")
    official = _official_figures(evaluation, predictions, layout, names)
    return tuple(_differences(ours, official))


def official_evaluation() -> Any:
    """The official tool's class. Raises MissingExtraError where it is not installed."""
    try:
        from davis2017.evaluation import DAVISEvaluation
    except ImportError as error:
        raise MissingExtraError(
            "the official evaluation is not installed; get it with: pip install scipy pandas scikit-image "
            "git+https://github.com/davisvideochallenge/davis2017-evaluation"
        ) from error
    return DAVISEvaluation


def _official_figures(evaluation: Any, predictions: Path, layout: Layout, names: Sequence[str]) -> Any:
    """The tool's own result. It only knows 480p and the set "val", so it is shown a folder of links that has them."""
    assert layout.images is not None  # a sequence has images only then
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, target in (("JPEGImages", layout.images), ("Annotations", layout.annotations)):
            (root / kind).mkdir()
            (root / kind / "480p").symlink_to(target.resolve(), target_is_directory=True)
        (root / "ImageSets" / "2017").mkdir(parents=True)
        (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(names) + "\n")
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                tool = evaluation(davis_root=str(root), task="semi-supervised", gt_set="val")
                return tool.evaluate(str(predictions))
        except SystemExit as error:
            raise DatasetError(f"the official tool gave up: {' '.join(said.getvalue().split()) or error}") from error


def _differences(ours: Scores, official: Any) -> list[Difference]:
    objects = list(official["J"]["M_per_object"])
    if objects != [score.name for score in ours.objects]:
        raise DatasetError(f"the official tool scores {objects}, we score {[score.name for score in ours.objects]}")
    return [
        Difference(f"{score.name} {measure} {name}", getattr(own, name), float(official[measure][key][i]))
        for i, score in enumerate(ours.objects)
        for measure, own in (("J", score.region), ("F", score.contour))
        for key, name in (("M", "mean"), ("R", "recall"), ("D", "decay"))
    ]
