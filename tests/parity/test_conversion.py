"""All ten configurations as files: a filled official checkpoint on disk -> convert -> load -> the recorded outputs.

Files are up to 2 GB; each is removed as soon as the next step has been taken. Names and shapes of all of them are held
against each other without any weights, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from seem_fixtures import fill_official, fill_value, load_golden, read_manifest
from seem_resolution import remaining_misses
from seem_scenarios import Bench, forget_models, parse_name

from seem_core.checkpoint import load_seem
from seem_core.config import PRESETS
from seem_core.convert import convert_key, rename_keys
from seem_core.convert_file import convert_file, find_configuration
from seem_core.errors import CheckpointError

PRESETS_OF = {  # parameters do not tell demo, v0 and v1 apart; the first is the one that a file is taken for
    "focalt": ("seem-focal-t-v0", "seem-focal-t-v1"),
    "focall": ("seem-focal-l-v0", "seem-focal-l-v1"),
    "davitd3": ("seem-davit-d3-v1",),
    "davitd5": ("seem-davit-d5-v1",),
    "samvitb": ("seem-sam-b-v1",),
    "samvitl": ("seem-sam-l-v1",),
}
FILES = (  # manifest, routing to convert for, golden file of that routing
    ("focalt_demo", "demo", "focalt_demo"),
    ("focalt_v0", "v0", "focalt_v0"),
    ("focalt_v1", "v1", "focalt_v1"),
    ("focall_demo", "demo", "focall_demo"),
    ("focall_v0", "v0", None),
    ("focall_v1", "v1", None),
    ("davitd3_v1", "v1", "davitd3_v1"),
    ("davitd5_v1", "v1", None),
    ("samvitb_v1", "demo", "samvitb_demo"),
    ("samvitl_v1", "v1", None),
)
EVERY = 29  # parameters that are held against their rule; drawing all of them again would take as long as the rest


@pytest.fixture(autouse=True)
def _free_the_weights() -> Iterator[None]:
    yield
    forget_models()


@pytest.mark.timeout(3600)
@pytest.mark.parity_full
@pytest.mark.parametrize(("name", "routing", "golden"), FILES, ids=[name for name, _, _ in FILES])
def test_a_file_is_converted_loaded_and_right(
    reference_root: Path, folders: tuple[Path, ...], tmp_path: Path, name: str, routing: str, golden: str | None
) -> None:
    manifest = reference_root / f"manifest_{name}.json"
    source = tmp_path / f"seem_{name}.pt"
    torch.save(fill_official(manifest), source)
    done = convert_file(source, tmp_path / "c.safetensors", routing=routing, classes=False)  # type: ignore[arg-type]
    source.unlink()
    loaded = load_seem(done.path)
    done.path.unlink()  # what is mapped stays
    assert done.metadata.configuration in PRESETS_OF[name.split("_")[0]]
    assert loaded.config.routing == routing
    weights = loaded.model.state_dict()
    for key, shape in list(read_manifest(manifest).items())[::EVERY]:
        if (ours := convert_key(key)) is not None:
            assert torch.equal(weights[ours], torch.from_numpy(fill_value(key, shape))), key
    if golden is not None:
        assert parse_name(f"golden_{golden}")[1] == routing
        bench = Bench(load_golden(reference_root / f"golden_{golden}.npz"), folders, plain=False, model=loaded.model)
        failures = [miss.message for scenario in bench.scenarios for miss in remaining_misses(bench, scenario)]
        assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", [name for name, _, _ in FILES])
def test_every_wrong_pairing_is_refused_with_the_right_suggestion(reference_root: Path, name: str) -> None:
    shapes = read_manifest(reference_root / f"manifest_{name}.json")
    weights, origin = rename_keys({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    right = PRESETS_OF[name.split("_")[0]]
    assert find_configuration(Path("x.pt"), weights, origin, None).name == right[0]
    for asked in PRESETS:
        if asked in right:
            assert find_configuration(Path("x.pt"), weights, origin, asked).name == asked
        else:
            suggestion = f"do not fit {asked}: .*; its shapes are those of {' and '.join(right)}$"
            with pytest.raises(CheckpointError, match=suggestion):
                find_configuration(Path("x.pt"), weights, origin, asked)
