"""Shared fixtures: where real data lies, and what must be there in CI."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: spinning threads starve a busy machine

from pathlib import Path

import pytest
from support import require

# Background jobs of a shell ignore Ctrl-C, and processes that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real videos and masks: ``$VOS_DATA``, by default ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("VOS_DATA", ROOT.parent / "shared" / "data"))
    require(root.is_dir(), f"no real data at {root}; set VOS_DATA")
    return root


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests of minutes out unless ``-m`` names them."""
    if "long" in str(config.getoption("markexpr")):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
