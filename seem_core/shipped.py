"""The weights that come with the package: which files they are, and what each says of itself.

Their terms stand in WEIGHTS_LICENSE.md. Nothing here is loaded: `ShippedFile.card` reads a file's header alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seem_core.errors import CheckpointError

FOLDER = Path(__file__).parent / "weights"

_TECHNICAL = frozenset({"format", "config", "sha256"})  # what a header says to programs, not to people


@dataclass(frozen=True)
class ShippedCard:
    """A shipped file at a glance. facts: what its header says of source, data, terms and so on, by name."""

    path: Path
    purpose: str
    format: str
    parameters: int
    dtype: str
    bytes: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ShippedFile:
    """One file of weights in the package. purpose: what it is for, in words."""

    name: str
    purpose: str

    @property
    def path(self) -> Path:
        return FOLDER / self.name

    @property
    def is_there(self) -> bool:
        return self.path.is_file()

    def require(self) -> Path:
        """The file's path. Raises CheckpointError where it is missing."""
        if not self.is_there:
            raise CheckpointError(f"{self.path} ({self.purpose}) is missing; install the package again")
        return self.path

    def card(self) -> ShippedCard:
        """Raises CheckpointError where the file is missing or damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.require()
        try:
            with safe_open(os.fspath(path), "pt") as file:
                header = file.metadata() or {}
                slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - no mapping
                parameters = sum(math.prod(part.get_shape()) for part in slices)
                dtypes = sorted({str(part.get_dtype()) for part in slices})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; install the package again") from error
        facts = {name: header[name] for name in sorted(header.keys() - _TECHNICAL)}
        form = header.get("format", "unknown")
        return ShippedCard(path, self.purpose, form, parameters, ", ".join(dtypes), path.stat().st_size, facts)


TRUNK = ShippedFile("lite0_trunk.safetensors", "the features that trackers lite, propagate and fused match by")
BORDERS = ShippedFile("lite.safetensors", "the sharp borders of tracker lite")
MARKS = ShippedFile("seem_lite.safetensors", "reads clicks, scribbles, polygons and boxes where no model is given")

SHIPPED = (TRUNK, BORDERS, MARKS)
