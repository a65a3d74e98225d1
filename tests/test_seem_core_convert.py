"""Key conversion is strict both ways, and says what does not fit. The real tables meet real names in tests/parity."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from seem_core.convert import DROPPED_KEYS, convert_key, convert_state_dict, load_converted
from seem_core.errors import CheckpointError


@dataclass(frozen=True)
class Tiny:
    """Two parameters of the text encoder, where the key rules put them."""

    def build(self) -> nn.Module:
        module = nn.Module()
        module.projection = nn.Parameter(torch.empty(2, 3))
        module.logit_scale = nn.Parameter(torch.empty(()))
        return nn.ModuleDict({"text_encoder": module})


PREFIX = "sem_seg_head.predictor.lang_encoder."


def official() -> dict[str, torch.Tensor]:
    return {
        PREFIX + "lang_proj": torch.arange(6.0).view(2, 3),
        PREFIX + "logit_scale": torch.tensor(2.0),
        "criterion.empty_weight": torch.ones(134),
    }


def test_round() -> None:
    weights = convert_state_dict(official(), Tiny())
    module = load_converted(Tiny(), weights)
    assert not module.training
    state = module.state_dict()
    assert list(state) == ["text_encoder.projection", "text_encoder.logit_scale"]
    assert torch.equal(state["text_encoder.projection"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({PREFIX + "logit_scale": None}, r"1 missing \(text_encoder.logit_scale\)"),
        ({"backbone.surprise": torch.ones(1)}, r"1 not expected \(backbone.surprise\)"),
        ({PREFIX + "lang_proj": torch.ones(3, 2)}, r"lang_proj \[3, 2\] instead of \[2, 3\]"),
        (
            {f"extra.{i}": torch.ones(1) for i in range(9)},
            r"9 not expected \(extra.0, extra.1, extra.2, extra.3, ...\)",
        ),
        ({"text_encoder.projection": torch.ones(2, 3)}, "twice"),
    ],
)
def test_misfits_are_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    weights = {k: v for k, v in (official() | change).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(weights, Tiny())


def test_every_dropped_key_says_why() -> None:
    assert all(len(reason) > 10 for _, reason in DROPPED_KEYS)
    assert convert_key("dilation_kernel") is None
    assert convert_key("criterion.empty_weight.more") is not None
