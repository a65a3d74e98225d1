"""The fast settings of trackers by label propagation: a smaller image, and for some fewer frames in memory.

docs/models/lite.md has its cost and its J&F beside those of the usual setting, and what else was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trackers.propagation import PropagationConfig


@dataclass(frozen=True)
class FastSetting:
    """What is set otherwise. max_recent: frames remembered besides the prompted ones."""

    config: PropagationConfig
    max_recent: int

    def options(self) -> dict[str, Any]:
        """As keyword arguments of trackers that follow by label propagation."""
        return {"config": self.config, "max_recent": self.max_recent}


_LITE = FastSetting(PropagationConfig(), max_recent=7)
FAST = {
    "propagate": FastSetting(PropagationConfig(pixels=320 * 576, window=5.0), max_recent=4),
    "lite": _LITE,
    "fused": _LITE,
}
