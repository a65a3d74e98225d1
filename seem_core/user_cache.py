"""Where this project keeps what can be made or fetched again: one folder of the user's, `$VOS_CACHE` if that is set."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """``$VOS_CACHE``, else ``seem-vos`` below ``$XDG_CACHE_HOME`` or where the system keeps such files.

    The folder need not exist.
    """
    if chosen := os.environ.get("VOS_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "seem-vos"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "seem-vos"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "seem-vos"
    return Path.home() / ".cache" / "seem-vos"
