"""Trackers: keep the identity of each object from frame to frame.

>>> tracker = build_tracker("propagate", device="cpu")

`TRACKERS` lists the names. Nothing heavy is imported before a tracker is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from trackers.base import Image, Labels, ObjectMasks, Tracker, Traits

__all__ = ["TRACKERS", "Image", "Labels", "ObjectMasks", "Tracker", "Traits", "build_tracker"]

# name -> (module, class, whether it takes a device)
TRACKERS: dict[str, tuple[str, str, bool]] = {
    "propagate": ("trackers.propagate", "PropagateTracker", True),
    "flow": ("trackers.baselines", "FlowTracker", False),
    "copy": ("trackers.baselines", "CopyTracker", False),
}


def build_tracker(name: str, *, device: str = "cpu", **options: Any) -> Tracker:
    """A fresh tracker for one video.

    ``name`` is one of `TRACKERS`; ``device`` ("cpu", "cuda", "mps") is ignored by trackers without a network;
    ``options`` are keyword arguments of the tracker's class. Raises ValueError for an unknown name.
    """
    try:
        module, cls, takes_device = TRACKERS[name]
    except KeyError:
        raise ValueError(f"unknown tracker {name!r}; there are {', '.join(TRACKERS)}") from None
    if takes_device:
        options["device"] = device
    return cast(Tracker, getattr(import_module(module), cls)(**options))
