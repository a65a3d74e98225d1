"""Trackers: keep the identity of each object from frame to frame.

>>> tracker = build_tracker("propagate", device="cpu")

`TRACKERS` lists the names. Nothing heavy is imported before a tracker is built.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from seem_core.errors import InputError
from trackers.base import Image, Labels, ObjectMasks, Tracker, Traits

if TYPE_CHECKING:
    from seem_core.segmenter_types import Segmenter

__all__ = ["TRACKERS", "Image", "Labels", "ObjectMasks", "Tracker", "TrackerClass", "Traits", "build_tracker"]

DecoderUse: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrackerClass:
    """Where a tracker's class is, and what it is made from.

    device   whether it computes on a device of its own (one that only has a model computes where the model is)
    model    whether it needs a SEEM model, can use one, or has no use for one
    decoder  whether it can be told to use the model's decoder or not
    memory   whether it can begin with the memory of another video, and save its own
    fast     whether it has a fast setting
    """

    module: str
    name: str
    device: bool = False
    model: Literal["needed", "optional", "unused"] = "unused"
    decoder: bool = False
    memory: bool = False
    fast: bool = False

    @property
    def computes(self) -> bool:
        """Whether it has a network, so that the device matters."""
        return self.device or self.model != "unused"


TRACKERS: dict[str, TrackerClass] = {
    "propagate": TrackerClass(
        "trackers.propagate", "PropagateTracker", device=True, model="optional", memory=True, fast=True
    ),
    "lite": TrackerClass("trackers.refined", "LiteTracker", device=True, model="optional", memory=True, fast=True),
    "fused": TrackerClass(
        "trackers.fused", "FusedTracker", device=True, model="optional", decoder=True, memory=True, fast=True
    ),
    "prompt-memory": TrackerClass("trackers.prompt_memory", "PromptMemoryTracker", model="needed", memory=True),
    "reference": TrackerClass("trackers.reference", "ReferenceTracker", model="needed", memory=True),
    "flow": TrackerClass("trackers.baselines", "FlowTracker"),
    "copy": TrackerClass("trackers.baselines", "CopyTracker"),
}


def build_tracker(
    name: str,
    *,
    device: str = "cpu",
    model: str | os.PathLike[str] | Segmenter | None = None,
    decoder: DecoderUse = "auto",
    fast: bool = False,
    **options: Any,
) -> Tracker:
    """A fresh tracker for one video.

    name     one of `TRACKERS`
    device   "cpu", "cuda", "mps"; ignored by trackers without a network
    model    a SEEM model: its name or file (loaded on ``device``), or a `Segmenter` that is there already
    decoder  whether a tracker that can do without uses the model's decoder; auto: where the decoder is trained
    fast     the fast setting (`trackers.fast`), of trackers that have one
    options  keyword arguments of the tracker's class; they go before the fast setting

    Raises ValueError for an unknown name, InputError where a model is needed and missing, or given and of no use, or
    where there is no fast setting, CheckpointError for a model that cannot be loaded.
    """
    try:
        kind = TRACKERS[name]
    except KeyError:
        raise ValueError(f"unknown tracker {name!r}; there are {', '.join(TRACKERS)}") from None
    _check_use(name, kind, model, decoder)
    if fast:
        options = fast_options(name) | options
    if kind.device:
        options["device"] = device
    if kind.decoder:
        options["decoder"] = decoder
    if model is not None:
        options["segmenter"] = _segmenter(model, device)
    return cast(Tracker, getattr(import_module(kind.module), kind.name)(**options))


def _check_use(name: str, kind: TrackerClass, model: object, decoder: DecoderUse) -> None:
    if model is None and kind.model == "needed":
        raise InputError(
            f"tracker {name} needs a SEEM model; give --model with a file or a name ('vos models get' fetches one), or"
            " use tracker propagate"
        )
    if model is not None and kind.model == "unused":
        raise InputError(f"tracker {name} has no use for a model; leave out --model, or use another tracker")
    if decoder not in ("auto", "on", "off"):
        raise InputError(f"decoder {decoder!r} is unknown; use auto, on or off")
    if decoder != "auto" and not kind.decoder:
        able = ", ".join(n for n, k in TRACKERS.items() if k.decoder) or "none"
        raise InputError(f"tracker {name} cannot switch its decoder {decoder}; trackers that can: {able}")


def fast_options(name: str) -> dict[str, Any]:
    """Keyword arguments of a tracker's class for its fast setting. Raises InputError where it has none."""
    if not TRACKERS[name].fast:
        able = ", ".join(n for n, kind in TRACKERS.items() if kind.fast)
        raise InputError(f"tracker {name} has no fast setting; trackers that have one: {able}")
    from trackers.fast import FAST

    return FAST[name].options()


def _segmenter(model: str | os.PathLike[str] | Segmenter, device: str) -> Segmenter:
    if not isinstance(model, str | os.PathLike):
        return model
    from seem_core.segmenter import load_segmenter

    return load_segmenter(os.fspath(model), device=device)
