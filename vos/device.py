"""Which device to compute on: `pick_device`, and how many CPU threads: `set_threads`."""

from __future__ import annotations

import sys

from seem_core.errors import DeviceError


def pick_device(name: str = "auto") -> str:
    """``auto`` gives cuda, else mps, else cpu, whichever is there first; any other name is checked and given back.

    Raises DeviceError where the device that was asked for is absent, or its name is unknown.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_there in there.items() if is_there)
    kind, _, number = name.partition(":")
    if kind not in there or (number and not number.isdigit()):
        raise DeviceError(f"device {name!r} is unknown; use auto, cpu, cuda or mps")
    if not there[kind]:
        raise DeviceError(f"device {name!r} was asked for and is not there; use --device auto or cpu")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
    return name


def set_threads(threads: int | None) -> None:
    """Let torch and OpenCV use ``threads`` CPU threads each; None leaves them as they are. Holds for the process.

    Call it when the model is built: torch is not loaded for the sake of a tracker that does without.
    """
    if threads is None:
        return
    import cv2

    cv2.setNumThreads(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
