"""Two thousand damaged files: each is read or refused by a sentence; none hangs, ends the process or shows a traceback.

Videos, masks, files of prompts, memory and states, weights, and what results folders hold, each with bytes changed or
with its content changed and its checksums right. The files are numbered and every number is the same file everywhere;
`tests/support/fuzz_child.py` reads them, in processes with bounded memory that are watched here.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fuzz_child
import pytest

COUNTS = {"video": 500, "mask": 450, "prompts": 450, "memory": 250, "weights": 100, "results": 250}
FAST = {"video": 40, "mask": 50, "prompts": 50, "memory": 30, "weights": 10, "results": 30}
PATIENCE = 90  # seconds without a word, on a busy machine; a file takes milliseconds
CHILD = Path(fuzz_child.__file__)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz_child.write_seeds(folder)
    return folder


@dataclass
class Outcome:
    """What became of the files: how many of each outcome, and what must not be."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def fuzz(cases: list[str], folder: Path) -> Outcome:
    """Have the files read; a process that dies or stands still costs one file, the next process goes on after it."""
    outcome = Outcome()
    left = list(cases)
    while left:
        command = [sys.executable, str(CHILD), ",".join(left), str(folder)]
        places = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHILD.parent)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=places
        ) as process:
            begun, hung = _watch(process, left, outcome)
            if hung or begun is not None:
                process.kill()
        if begun is not None:
            left.remove(begun)
            word = "hung" if hung else "died"
            outcome.counts[word] += 1
            outcome.faults.append(f"{begun}: the process {word} (exit code {process.returncode})")
        elif left:
            raise AssertionError(f"the process ended with code {process.returncode} before it began with {left[0]}")
    return outcome


def _watch(process: subprocess.Popen[str], left: list[str], outcome: Outcome) -> tuple[str | None, bool]:
    """Take what is done out of ``left``; the case at work when the process ended or stood still, and which it was."""
    begun: str | None = None
    try:
        for line in _lines(process):
            word, case, text = line.split(" ", 2)
            if word == "begin":
                begun = case
                continue
            left.remove(case)
            begun = None
            outcome.counts[word] += 1
            if word == "fault":
                outcome.faults.append(f"{case}: {json.loads(text)}")
    except TimeoutError:
        return begun, True
    return begun, False


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What the process says, line by line. Raises TimeoutError when it says nothing for too long."""
    said: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line)
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = said.get(timeout=PATIENCE)
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield line


def check(cases: list[str], folder: Path) -> None:
    outcome = fuzz(cases, folder)
    print(dict(outcome.counts))
    assert not outcome.faults, "\n\n".join(outcome.faults[:10])
    assert sum(outcome.counts.values()) == len(cases)
    assert outcome.counts["refused"] >= len(cases) // 5  # the damage is damage
    assert outcome.counts["good"] >= len(cases) // 50  # and some of it is none


def test_some_damaged_files_are_read_or_refused(seeds: Path) -> None:
    check([f"{kind}-{i * COUNTS[kind] // most + i % 5}" for kind, most in FAST.items() for i in range(most)], seeds)


@pytest.mark.long
@pytest.mark.parametrize("kind", COUNTS)
def test_two_thousand_damaged_files_are_read_or_refused(kind: str, seeds: Path) -> None:
    assert sum(COUNTS.values()) == 2000
    check([f"{kind}-{number}" for number in range(COUNTS[kind])], seeds)


def test_the_watch_sees_a_process_that_dies_hangs_or_shows_a_traceback(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would say if a reader did one of these."""
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys, time\n"
        "for n in sys.argv[1].split(','):\n"
        "    print('begin', n, '\"\"', flush=True)\n"
        "    if n == 'm-1': os.abort()\n"
        "    if n == 'm-2': time.sleep(600)\n"
        "    print('fault' if n == 'm-3' else 'good', n, '\"oh\"', flush=True)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "CHILD", child)
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE", 5)
    outcome = fuzz([f"m-{n}" for n in range(5)], seeds)
    assert outcome.counts == {"good": 2, "died": 1, "hung": 1, "fault": 1}
    assert [fault.split(":")[0] for fault in outcome.faults] == ["m-1", "m-2", "m-3"]
