"""Fixtures of the parity tests: where the reference lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from seem_fixtures import find_reference_root


@pytest.fixture(scope="session")
def reference_root() -> Path:
    """Folder of manifests and golden files of the official code."""
    return find_reference_root()
