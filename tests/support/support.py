"""Small helpers for tests; this folder is on the import path of pytest."""

from __future__ import annotations

import os

import pytest


def require(condition: bool, reason: str) -> None:
    """Skip with a reason where something is missing; fail where CI promised it."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {reason}")
    pytest.skip(reason)
