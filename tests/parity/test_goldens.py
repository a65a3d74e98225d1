"""Every key of every golden file of the official code, through the plain path and through the one that ships."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from seem_fixtures import Golden, load_golden
from seem_scenarios import Bench, forget_models
from seem_standalone import STANDALONE, Parts
from torch import Tensor

PENDING = tuple((Path(__file__).parent / "pending.txt").read_text().split())
"""Patterns of keys in golden_misc whose code belongs to training and is not there yet."""


@pytest.fixture(scope="module")
def _one_configuration_in_memory(golden_path: Path) -> Iterator[None]:
    yield
    forget_models()


@pytest.mark.usefixtures("_one_configuration_in_memory")
@pytest.mark.parametrize("path", ["plain", "fast"])
def test_every_key(golden_path: Path, folders: tuple[Path, ...], path: str) -> None:
    golden = load_golden(golden_path)
    if golden.name in STANDALONE:
        if path == "plain":  # there is only one path
            check_all(golden, Parts(golden, folders).results)
        return
    bench = Bench(golden, folders, plain=path == "plain")
    left_out = () if bench.plain else ("panoptic_aux*",)  # what the fast path does not compute at all
    check_all(golden, bench.recompute_all(), left_out)


def check_all(golden: Golden, results: dict[str, Tensor | np.ndarray], left_out: tuple[str, ...] = ()) -> None:
    """Compare every key of the file; all failures are told at once."""
    if golden.name == "golden_misc":
        left_out += PENDING
    failures = []
    for key in golden.keys:
        if any(fnmatch(key, pattern) for pattern in left_out):
            continue
        if key not in results:
            failures.append(f"{golden.name}: nothing here makes {key}")
            continue
        try:
            golden.compare(key, results[key])
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("key", ["mystery_logits", "stroke_pred_mystery"])
def test_an_unknown_key_fails(key: str) -> None:
    with pytest.raises(AssertionError, match=f"nothing here makes {key}"):
        check_all(Golden("golden_focalt_demo", {key: np.zeros(1)}), {"stroke_pred_masks": np.zeros(1)})
