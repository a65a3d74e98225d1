"""Every official parameter has its place, in all ten recorded configurations, and no other configuration takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from seem_fixtures import read_manifest

from seem_core.config import PRESETS
from seem_core.convert import check_state_dict, convert_key
from seem_core.errors import CheckpointError

PRESET_OF = {  # parameters do not tell demo, v0 and v1 apart
    "focalt": "seem-focal-t-v0",
    "focall": "seem-focal-l-v0",
    "davitd3": "seem-davit-d3-v1",
    "davitd5": "seem-davit-d5-v1",
    "samvitb": "seem-sam-b-v1",
    "samvitl": "seem-sam-l-v1",
}
MANIFESTS = (
    *("focalt_demo", "focalt_v0", "focalt_v1", "focall_demo", "focall_v0", "focall_v1"),
    *("davitd3_v1", "davitd5_v1", "samvitb_v1", "samvitl_v1"),
)


def converted_shapes(manifest: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by our names, and the official name behind each."""
    renamed = {key: (convert_key(key), shape) for key, shape in read_manifest(manifest).items()}
    kept = {key: (ours, shape) for key, (ours, shape) in renamed.items() if ours is not None}
    return dict(kept.values()), {ours: key for key, (ours, _) in kept.items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_names_and_shapes(reference_root: Path, name: str) -> None:
    shapes, origin = converted_shapes(reference_root / f"manifest_{name}.json")
    dropped = len(read_manifest(reference_root / f"manifest_{name}.json")) - len(shapes)
    assert dropped == (1 if name.endswith("demo") else 2)  # and no two names became one
    check_state_dict(shapes, PRESETS[PRESET_OF[name.split("_")[0]]], origin)


@pytest.mark.parametrize("name", ["focalt_v0", "focall_v0", "davitd3_v1", "davitd5_v1", "samvitb_v1", "samvitl_v1"])
def test_other_configurations_refuse(reference_root: Path, name: str) -> None:
    shapes, origin = converted_shapes(reference_root / f"manifest_{name}.json")
    for stem, preset in PRESET_OF.items():
        if stem != name.split("_")[0]:
            with pytest.raises(CheckpointError, match="do not fit"):
                check_state_dict(shapes, PRESETS[preset], origin)
