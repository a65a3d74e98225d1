"""Which device to compute on: `pick_device`, and how the process computes on its CPU: `tune_process`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from seem_core.errors import DeviceError

_LARGEST_BLOCK = 64 << 20  # bytes that are taken from the C library's own memory instead of fresh pages
_KEPT = 128 << 20  # bytes of freed memory that it may keep
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


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


def tune_process(threads: int | None) -> None:
    """Let torch and OpenCV use ``threads`` CPU threads each (None leaves them as they are), and the C library keep what
    every frame frees and takes again. Holds for the process.

    Call it when the model is built: torch is not loaded for the sake of a tracker that does without.
    """
    _keep_freed_memory()
    if threads is None:
        return
    import cv2

    cv2.setNumThreads(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _keep_freed_memory() -> None:
    """glibc gives large blocks back at once, so that every frame would pay for thousands of new pages.

    mallopt(3). Nothing happens where another C library is at work, or where the user has set its variables.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _MALLOC_VARIABLES):
        return
    import ctypes

    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, _LARGEST_BLOCK)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, _KEPT)  # M_TRIM_THRESHOLD
