"""Every key of every golden file of the official code, through the plain path and through the one that ships."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from seem_fixtures import Golden, load_golden
from seem_resolution import Miss, misses, remaining_misses
from seem_scenarios import Bench, forget_models
from seem_standalone import STANDALONE, Parts


@pytest.fixture(scope="module")
def _one_configuration_in_memory(golden_path: Path) -> Iterator[None]:
    yield
    forget_models()


@pytest.mark.timeout(3600)  # the search for ties repeats a scenario
@pytest.mark.usefixtures("_one_configuration_in_memory")
@pytest.mark.parametrize("path", ["plain", "fast"])
def test_every_key(golden_path: Path, folders: tuple[Path, ...], path: str) -> None:
    golden = load_golden(golden_path)
    if golden.name in STANDALONE:
        if path == "plain":  # there is only one path
            assert_all(golden, misses(golden, Parts(golden, folders).results))
        return
    bench = Bench(golden, folders, plain=path == "plain")
    failures = [miss for scenario in bench.scenarios for miss in remaining_misses(bench, scenario)]
    assert_all(golden, failures, () if bench.plain else ("panoptic_aux*",))  # which only the plain path computes


def assert_all(golden: Golden, failures: list[Miss], left_out: tuple[str, ...] = ()) -> None:
    """Nothing failed, and every key was looked at; all that is wrong is told at once."""
    messages = [miss.message for miss in failures]
    unknown = [key for key in golden.unseen if not any(fnmatch(key, pattern) for pattern in left_out)]
    messages += [f"{golden.name}: nothing here makes {key}" for key in unknown]
    assert not messages, "\n".join(messages)


@pytest.mark.parametrize("key", ["mystery_logits", "stroke_pred_mystery", "click_mystery", "loss_mystery"])
def test_an_unknown_key_fails(key: str) -> None:
    golden = Golden("golden_focalt_demo", {key: np.zeros(1)})
    failures = misses(golden, {"stroke_pred_masks": np.zeros(1)})
    with pytest.raises(AssertionError, match=f"nothing here makes {key}"):
        assert_all(golden, failures)


def test_a_wrong_value_fails() -> None:
    golden = Golden("golden_focalt_demo", {"stroke_pred_masks": np.zeros((1, 2, 3, 3), np.float32)})
    value = np.zeros((1, 2, 3, 3), np.float32)
    value[0, 1, 2, 2] = 0.01
    (miss,) = misses(golden, {"stroke_pred_masks": value})
    assert miss.size == pytest.approx(10.0)  # tolerances
    with pytest.raises(AssertionError, match="stroke_pred_masks"):
        assert_all(golden, [miss])
