"""What is packed, and how, as a configuration says it: sources, and changes to the options that suit the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from seem_core.errors import InputError
from seem_core.training.data_sources import DataSpec
from seem_core.training.json_fields import parse_value, read_json
from seem_core.training.pack import PackOptions

CLIPS = PackOptions()
PICTURES = PackOptions(
    still_side=640, clip_side=480, max_side=1333, still_quality=90, clip_quality=90, min_area=0.0005, exclude=()
)
DEFAULTS: Mapping[str, PackOptions] = MappingProxyType({"reader": CLIPS, "seem": PICTURES})
"""By task: the dense reader sees small crops of many clips, SEEM whole pictures."""


@dataclass(frozen=True)
class Packing:
    """Options of `PackOptions` that are to be others than the task's; None leaves them."""

    still_side: int | None = None
    clip_side: int | None = None
    max_side: int | None = None
    still_quality: int | None = None
    clip_quality: int | None = None
    thinning: int | None = None
    min_area: float | None = None
    exclude: tuple[str, ...] | None = None

    def on(self, options: PackOptions) -> PackOptions:
        """The options with these changes. Raises InputError for values that cannot be."""
        return replace(options, **{name: value for name, value in asdict(self).items() if value is not None})


def read_sources(path: Path) -> tuple[tuple[DataSpec, ...], PackOptions]:
    """What to pack, and how: a folder or an instance file as it is, or a JSON file with `data` and maybe `packing` and
    `task`, such as a run's.

    Raises InputError for a file that is neither.
    """
    if path.suffix != ".json" or not path.is_file():
        return (DataSpec(path),), CLIPS
    content = read_json(path)
    if not isinstance(content, dict) or "data" not in content:
        if isinstance(content, dict) and "annotations" in content:
            return (DataSpec(path, "coco"),), CLIPS
        raise InputError(f'{path} has no list "data" of sources to pack')
    specs = parse_value(tuple[DataSpec, ...], content["data"], f"{path}: data")
    packing = parse_value(Packing, content.get("packing") or {}, f"{path}: packing")
    return specs, packing.on(DEFAULTS.get(str(content.get("task")), CLIPS))
