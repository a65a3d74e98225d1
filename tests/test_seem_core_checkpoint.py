"""Official files to checkpoints of ours and back into a model: configuration, routing, header, classes, the store."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import WIDER, official_key, tiny_official, tiny_presets, use_tiny_presets
from seem_fixtures import fill_official, fill_value, read_manifest
from support import require
from tiny_seem import tiny_seem
from torch import Tensor

import seem_core.convert_file as convert_file_module
from seem_core.checkpoint import CheckpointMetadata, load_seem, read_card, save_seem, verify_checkpoint
from seem_core.class_embeddings import class_embeddings
from seem_core.config import PRESETS
from seem_core.convert import rename_keys
from seem_core.convert_file import COCO_CLASSES, convert_file, find_configuration
from seem_core.errors import CheckpointError, DeviceError, OutputError
from seem_core.model import Seem
from seem_core.model_store import locate, shipped_path, stored_names, stored_path
from seem_core.published import LICENCE, PUBLISHED, UNKNOWN_LICENCE, routing_of_file
from seem_core.text import byte_pairs

MANIFESTS = Path(__file__).parent / "parity" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official file of a small model, in a world where only small models are known."""
    use_tiny_presets(monkeypatch)
    path = tmp_path / "seem_tiny_v0.pt"
    torch.save(tiny_official(), path)
    return path


def assert_same_weights(model: Seem, expected: Mapping[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


# --- round trip ------------------------------------------------------------------------------------------------------


def test_round(source: Path, tmp_path: Path) -> None:
    done = convert_file(source, tmp_path / "out" / "tiny.safetensors", classes=False)
    loaded = load_seem(done.path)
    assert_same_weights(loaded.model, tiny_seem("v0").state_dict())
    assert not loaded.model.training
    assert loaded.class_embeddings is None
    assert loaded.config == loaded.model.config == tiny_presets()["tiny-v0"]
    assert loaded.metadata == done.metadata
    assert (done.metadata.configuration, done.metadata.routing, done.metadata.trained) == ("tiny-v0", "v0", "full")
    assert done.metadata.source == "seem_tiny_v0.pt"
    assert done.metadata.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert done.metadata.licence == UNKNOWN_LICENCE
    assert done.metadata.converter.startswith("seem-vos ")
    assert [file.name for file in done.path.parent.iterdir()] == ["tiny.safetensors"]


def test_card_and_verification(source: Path, tmp_path: Path) -> None:
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    card = read_card(done.path)
    assert card.metadata == done.metadata
    assert card.parameters == sum(p.numel() for p in tiny_seem("v0").parameters())
    assert (card.dtype, card.bytes) == ("F32", done.path.stat().st_size)
    seen: list[tuple[int, int]] = []
    assert verify_checkpoint(done.path, lambda done, total: seen.append((done, total))) == card
    assert seen[-1] == (card.tensors, card.tensors)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"module": weights},
        lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {f"model.{k}": v for k, v in weights.items()},
        lambda weights: {"module": {"model": {f"module.model.{k}": v for k, v in weights.items()}}},
        lambda weights: {k: torch.nn.Parameter(v) for k, v in weights.items()},
    ],
    ids=["module", "model", "state_dict", "prefix", "nested", "parameters"],
)
def test_what_trainers_wrap_around_weights(
    source: Path, tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(tiny_official()), source)
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    assert_same_weights(load_seem(done.path).model, tiny_seem("v0").state_dict())


def test_the_format_before_zip(source: Path, tmp_path: Path) -> None:
    torch.save(tiny_official(), source, _use_new_zipfile_serialization=False)
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    assert_same_weights(load_seem(done.path).model, tiny_seem("v0").state_dict())


def test_tensors_that_share_memory_or_are_views(source: Path, tmp_path: Path) -> None:
    weights = tiny_official()
    key, other = official_key("decoder.query_content"), official_key("decoder.query_position")
    weights[key], weights[other] = torch.stack((weights[key], weights[other])).unbind()
    across = official_key("decoder.class_projection")
    weights[across] = weights[across].t().contiguous().t()
    torch.save(weights, source)
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    assert_same_weights(load_seem(done.path).model, tiny_seem("v0").state_dict())
    weights[other] = weights[key]
    torch.save(weights, source)
    done = convert_file(source, tmp_path / "tied.safetensors", classes=False)
    model = load_seem(done.path).model
    assert torch.equal(model.decoder.query_content, model.decoder.query_position)


def test_half_precision_is_kept_in_the_file_and_widened_in_memory(source: Path, tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in tiny_official().items()}, source)
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    assert read_card(done.path).dtype == "F16"
    assert_same_weights(
        load_seem(done.path).model, {k: v.half().float() for k, v in tiny_seem("v0").state_dict().items()}
    )


def test_precision_and_device(source: Path, tmp_path: Path) -> None:
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    model = load_seem(done.path, dtype=torch.bfloat16).model
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert model.decoder.query_content.dtype == torch.float32
    with pytest.raises(DeviceError, match="cuda:99"):
        load_seem(done.path, device="cuda:99")


def test_changing_a_loaded_model_leaves_the_file_alone(source: Path, tmp_path: Path) -> None:
    done = convert_file(source, tmp_path / "tiny.safetensors", classes=False)
    with torch.no_grad():
        for parameter in load_seem(done.path).model.parameters():
            parameter.zero_()
    verify_checkpoint(done.path)


def test_nothing_is_replaced_unasked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    out.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        convert_file(source, out, classes=False)
    assert out.read_text() == "mine"
    convert_file(source, out, classes=False, overwrite=True)
    load_seem(out)
    with pytest.raises(OutputError, match="is a folder"):
        convert_file(source, tmp_path, classes=False, overwrite=True)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_another_configuration_is_suggested(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"do not fit wider-v0: .*of another shape.*those of tiny-v0 and tiny-v1"):
        convert_file(source, tmp_path / "o", configuration="wider-v0", classes=False)
    with pytest.raises(CheckpointError, match="no configuration 'large'; known are tiny-v0, tiny-v1, wider-v0"):
        convert_file(source, tmp_path / "o", configuration="large", classes=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.surprise": torch.ones(1)}, r"nearest: 1 not expected \(backbone.surprise\)"),
        ({"sem_seg_head.predictor.class_embed": None}, r"nearest: 1 missing \(decoder.class_projection\)"),
        (
            {"sem_seg_head.predictor.class_embed": torch.ones(3, 32)},
            r"1 of another shape \(sem_seg_head.predictor.class_embed \[3, 32\] instead of \[32, 32\]\)",
        ),
        (
            {f"extra.{i}": torch.ones(1) for i in range(7)},
            r"7 not expected \(extra.0, extra.1, extra.2, extra.3, ...\)",
        ),
        ({"module.criterion.empty_weight": torch.ones(134)}, r"criterion.empty_weight twice"),
    ],
)
def test_misfits_are_named(source: Path, tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    torch.save({k: v for k, v in (tiny_official() | change).items() if v is not None}, source)
    with pytest.raises(CheckpointError, match=message):
        convert_file(source, tmp_path / "o", classes=False)
    with pytest.raises(CheckpointError, match=message.removeprefix("nearest: ")):
        convert_file(source, tmp_path / "o", classes=False, configuration="tiny-v0")
    assert not (tmp_path / "o").exists()


def test_an_xdecoder_is_recognised(source: Path, tmp_path: Path) -> None:
    predictor = "sem_seg_head.predictor."
    marks = tuple(predictor + name for name in ("pn_indicator", "mask_sptial_embed", "spatial_"))
    weights = {k: v for k, v in tiny_official().items() if not k.startswith(marks)}
    weights |= {
        predictor + "caping_embed": torch.ones(32, 32),
        predictor + "pos_embed_caping.weight": torch.ones(77, 32),
    }
    torch.save({"model." + key: value for key, value in weights.items()}, source)
    with pytest.raises(CheckpointError, match=r"holds an X-Decoder.*xdecoder/SEEM"):
        convert_file(source, tmp_path / "o", classes=False)


@pytest.mark.parametrize(
    ("manifest", "preset"),
    [
        ("focalt_v0", "seem-focal-t-v0"),
        ("focall_v0", "seem-focal-l-v0"),
        ("davitd3_v1", "seem-davit-d3-v1"),
        ("davitd5_v1", "seem-davit-d5-v1"),
        ("samvitb_v1", "seem-sam-b-v1"),
        ("samvitl_v1", "seem-sam-l-v1"),
    ],
)
def test_official_names_find_their_configuration(manifest: str, preset: str) -> None:
    shapes = read_manifest(MANIFESTS / f"manifest_{manifest}.json")
    weights, origin = rename_keys({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert find_configuration(Path("x.pt"), weights, origin, None) is PRESETS[preset]
    wrong = "seem-focal-t-v1" if manifest != "focalt_v0" else "seem-focal-l-v1"
    with pytest.raises(CheckpointError, match=f"do not fit {wrong}: .*; its shapes are those of {preset}"):
        find_configuration(Path("x.pt"), weights, origin, wrong)


# --- routing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "routing"),
    [
        *((p.file, name[-2:]) for name, p in PUBLISHED.items()),
        ("seem_davitd3_v1.pt", "v1"),
        ("focal_demo.pth", "demo"),
        ("SEEM-FocalT-V0.pt", "v0"),
        ("seem_focalt_v2.pt", "v0"),  # the old name of v0
        ("model.pt", None),
        ("v0_and_v1.pt", None),
        ("seem_focalt_v10.pt", None),
        ("env1.pt", None),
    ],
)
def test_routing_in_a_file_name(name: str, routing: str | None) -> None:
    found, remark = routing_of_file(Path("v1") / name)
    assert found == routing
    assert (name in remark) == (routing is not None)


def test_a_name_given_twice_is_doubted() -> None:
    assert "before v1.0 holds v0 weights" in routing_of_file(Path("seem_focall_v1.pt"))[1]


def test_routing_is_guessed_with_a_warning_or_asked_for(source: Path, tmp_path: Path) -> None:
    def convert(name: str, **options: Any) -> tuple[str, str, tuple[str, ...]]:
        path = source.rename(source.with_name(name)) if name != source.name else source
        try:
            done = convert_file(path, tmp_path / "o.safetensors", classes=False, overwrite=True, **options)
        finally:
            path.rename(source)
        loaded = load_seem(done.path)
        assert loaded.config.routing == loaded.metadata.routing
        return loaded.metadata.configuration, loaded.metadata.routing, done.warnings

    configuration, routing, warnings = convert("seem_tiny_v1.pt")
    assert (configuration, routing) == ("tiny-v1", "v1")
    assert "routing v1 was taken from the file name" in warnings[0]
    assert convert("seem_tiny_v1.pt", routing="v1") == ("tiny-v1", "v1", ())
    assert convert("seem_tiny_v0.pt", routing="demo") == ("tiny-v0", "demo", ())
    assert convert("model.pt", routing="v1") == ("tiny-v1", "v1", ())
    assert convert("model.pt", configuration="tiny-v1") == ("tiny-v1", "v1", ())
    assert convert("model.pt", configuration="tiny-v1", routing="v0") == ("tiny-v0", "v0", ())
    *_, warnings = convert("seem_tiny_v1.pt", configuration="tiny-v0")
    assert "speaks of v1" in warnings[0]
    with pytest.raises(CheckpointError, match=r"model\.pt does not say which routing.*--routing"):
        convert("model.pt")


def test_a_published_file_name_brings_its_licence(source: Path, tmp_path: Path) -> None:
    done = convert_file(source.rename(tmp_path / "seem_samvitb_v1.pt"), tmp_path / "o.safetensors", classes=False)
    assert done.metadata.licence == LICENCE
    assert "AFL-3.0" in LICENCE
    assert "not verified" in LICENCE


# --- classes ---------------------------------------------------------------------------------------------------------


def test_coco_classes() -> None:
    assert (len(COCO_CLASSES), COCO_CLASSES[0], COCO_CLASSES[-1]) == (134, "person", "background")


def test_class_embeddings_travel_with_the_weights(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(_has_tokenizer(), "the extra `text` is not installed")
    names = ("zebra", "sky-other-merged", "background")
    monkeypatch.setattr(convert_file_module, "COCO_CLASSES", names)
    seen: list[tuple[int, int]] = []
    done = convert_file(source, tmp_path / "o.safetensors", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3 * 81, 3 * 81)
    loaded = load_seem(done.path)
    assert loaded.metadata.classes == names
    assert loaded.class_embeddings is not None
    assert loaded.model.text_encoder is not None
    assert torch.equal(loaded.class_embeddings, class_embeddings(loaded.model.text_encoder, names))
    assert verify_checkpoint(done.path).tensors == len(loaded.model.state_dict())


def test_without_tokenizer_classes_are_left_out_with_a_warning(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    byte_pairs.cache_clear()
    done = convert_file(source, tmp_path / "o.safetensors", routing="v0")
    assert len(done.warnings) == 1
    assert "pip install 'seem-vos[text]'" in done.warnings[0]
    assert load_seem(done.path).class_embeddings is None


def _has_tokenizer() -> bool:
    try:
        byte_pairs()
    except ImportError:
        return False
    return True


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_a_file_of_the_store(source: Path, cache: Path) -> None:
    assert stored_names() == ()
    done = convert_file(source, classes=False)
    assert done.path == stored_path("tiny-v0") == cache / "models" / "tiny-v0.safetensors"
    demo = convert_file(source, classes=False, routing="demo")
    assert stored_names() == ("tiny-demo", "tiny-v0")
    assert load_seem("tiny-demo").config.routing == "demo"
    assert locate("tiny-demo") == demo.path == locate(str(demo.path))
    with pytest.raises(CheckpointError, match=r"there is no model 'tiny-v2'; known are tiny-v0, .*tiny-demo"):
        load_seem("tiny-v2")


def test_a_model_that_ships_is_found_by_name_unless_the_store_has_one(cache: Path, tmp_path: Path) -> None:
    shipped = shipped_path("lite")
    assert shipped is not None
    assert locate("lite") == shipped
    loaded = load_seem("lite")
    assert (loaded.config.name, loaded.metadata.trained) == ("lite", "full")
    stored_path("lite").parent.mkdir(parents=True)
    shutil.copy(shipped, stored_path("lite"))
    assert locate("lite") == stored_path("lite")
    assert shipped_path("seem-focal-t-v0") is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("seem-focal-t-v0", "not on this machine; run: vos models get seem-focal-t-v0"),
        ("seem-davit-d3-v1", "never published.*vos models convert FILE.pt --config seem-davit-d3-v1"),
        ("nothing.safetensors", "nothing.safetensors is not there"),
        ("no/such/file", "is not there"),
    ],
)
def test_a_model_that_is_not_there(model: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_seem(model)


def test_a_file_without_suffix_can_be_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_file(source, tmp_path / "weights", classes=False)
    monkeypatch.chdir(tmp_path)
    assert load_seem("weights").config.name == "tiny-v0"


def test_saving_what_was_trained_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_tiny_presets(monkeypatch)
    model = WIDER.build()
    metadata = CheckpointMetadata(WIDER.name, "v0", "none", "a test", "", UNKNOWN_LICENCE, "a test", ("a", "b"))
    rows = torch.eye(32)[:2]
    save_seem(model.state_dict(), tmp_path / "w.safetensors", metadata, class_embeddings=rows)
    loaded = load_seem(tmp_path / "w.safetensors")
    assert loaded.metadata == metadata
    assert loaded.class_embeddings is not None
    assert torch.equal(loaded.class_embeddings, rows)
    with pytest.raises(CheckpointError, match="do not fit tiny-v0"):
        save_seem(model.state_dict(), tmp_path / "x", replace(metadata, configuration="tiny-v0"), class_embeddings=rows)
    with pytest.raises(CheckpointError, match="embeddings of 0 classes and names of 2"):
        save_seem(model.state_dict(), tmp_path / "x", metadata)
    assert not (tmp_path / "x").exists()


# --- a real size -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sam_b_of_full_size(tmp_path: Path) -> None:
    manifest = MANIFESTS / "manifest_samvitb_v1.json"
    torch.save(fill_official(manifest), tmp_path / "seem_samvitb_v1.pt")
    done = convert_file(tmp_path / "seem_samvitb_v1.pt", tmp_path / "b.safetensors", classes=False)
    (tmp_path / "seem_samvitb_v1.pt").unlink()
    model = load_seem(done.path).model
    done.path.unlink()  # a file of 860 MB; what is mapped stays
    assert done.metadata.configuration == "seem-sam-b-v1"
    for official, ours in (
        ("sem_seg_head.predictor.query_feat.weight", model.decoder.query_content),
        ("backbone.pos_embed", model.backbone.get_parameter("pos_embed")),
    ):
        assert torch.equal(ours, torch.from_numpy(fill_value(official, tuple(ours.shape))))
