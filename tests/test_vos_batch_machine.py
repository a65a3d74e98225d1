"""Who is alive: real processes by their number and start, beats by the monotonic clock of this boot."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vos.batch.machine import Machine, boot_id, process_began


def test_this_process_is_alive_until_it_was_silent_for_too_long() -> None:
    here = Machine.here()
    now = here.monotonic()
    machine = replace(here, monotonic=lambda: now + 30)
    assert machine.is_alive(machine.myself(), now, 30)
    assert not machine.is_alive(machine.myself(), now - 0.1, 30)


def test_a_beat_from_another_boot_or_from_the_future_is_nobodys() -> None:
    here = Machine.here()
    now = here.monotonic()
    assert not here.is_alive(replace(here.myself(), boot="another"), now, 30)
    assert not here.is_alive(here.myself(), now + 1000, 30)


def test_a_process_that_ended_is_gone_also_as_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = process_began(child.pid)
    assert began is not None
    here = Machine.here()
    me = here.myself()
    assert here.is_alive(replace(me, pid=child.pid, began=began), here.monotonic(), 30)
    assert not here.is_alive(replace(me, pid=child.pid, began=began + 1), here.monotonic(), 30)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert process_began(child.pid) is None
    child.communicate()
    assert process_began(child.pid) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_on_linux_boot_start_and_space_are_known() -> None:
    me = Machine.here().myself()
    assert len(boot_id()) == 36
    assert me.boot == boot_id()
    assert me.began > 0
    assert me.space.startswith("pid:")


@pytest.mark.skipif(sys.platform == "win32", reason="there a number cannot be tried")
def test_without_proc_a_number_tells_whether_a_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(Path(str(path).replace("/proc/", "/no/such/"))))
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert process_began(os.getpid()) == 0
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_began(child.pid) is None
