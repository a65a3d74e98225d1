"""File permissions that count, also where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user for whom file permissions count (root passes all of them)."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def let_through(folder: Path) -> None:
    """Let everybody enter the folders of the tests that lead to ``folder``."""
    for parent in (folder, *list(folder.parents)[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path(parent.anchor):
            parent.chmod(parent.stat().st_mode | 0o055)
