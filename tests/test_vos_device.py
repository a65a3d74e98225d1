"""How a process computes on its CPU."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FAULTS = """
import resource, sys
import numpy as np
from vos.device import tune_process
if sys.argv[1] == "tuned":
    tune_process(None)
for turn in range(20):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.empty(40 << 20, np.uint8)
    block[:: 4096] = 1
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how: str, **variables: str) -> int:
    """How many pages a process asks the system for when it takes and frees 40 MB eighteen times."""
    told = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env={"PYTHONPATH": str(ROOT), **variables}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_freed_memory_is_used_again() -> None:
    assert new_pages("plain") > 18 * 20  # some systems hand out pages of 2 MB
    assert new_pages("tuned") < 18
    assert new_pages("tuned", MALLOC_MMAP_THRESHOLD_="131072") > 18 * 20  # the user's word counts


def test_threads_are_set() -> None:
    code = (
        "import torch, cv2; from vos.device import tune_process; tune_process(1); tune_process(None); "
        "print(torch.get_num_threads(), cv2.getNumThreads())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1"]
