"""Faults injected into the threads that read and write: no hang, no thread left, nothing after a failed write."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seem_core.errors import VideoError
from vos.images import ImageSequence
from vos.prefetch import WriteBehind, prefetch

pytestmark = pytest.mark.timeout(60)

REPEATS = 60


class Fault(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    for thread in _our_threads():
        thread.join(5)  # only after Ctrl-C, between two steps of entering or leaving a "with", is one still ending
    assert _our_threads() == []


def _our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vos-")]


def failing(after: int) -> Iterator[int]:
    yield from range(after)
    raise Fault("the reader broke")


def run(
    reader: Iterator[int], write: object, depth: int, stop: int | None = None, fail: int | None = None
) -> list[int]:
    """The shape of a pipeline: read ahead, work on the main thread, write behind."""
    done = []
    with prefetch(reader, depth) as items, WriteBehind(write, depth) as writer:  # type: ignore[arg-type]
        for item in items:
            if item == stop:
                break
            if item == fail:
                raise Fault("the work broke")
            writer.put(item)
            done.append(item)
    return done


def run_and_check(*args: Any, **options: Any) -> list[int]:
    """`run`, and no thread is left the moment it returns or raises."""
    try:
        return run(*args, **options)
    finally:
        assert _our_threads() == []


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_consumer_stops_early(repeat: int) -> None:
    written: list[int] = []
    stop = repeat % 13
    assert run_and_check(iter(range(10**9)), written.append, repeat % 4 + 1, stop=stop) == list(range(stop))
    assert written == list(range(stop))


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_reader_raises_after_what_came_before_it(repeat: int) -> None:
    written: list[int] = []
    after = repeat % 11
    with pytest.raises(Fault, match="reader") as caught:
        run_and_check(failing(after), written.append, repeat % 4 + 1)
    assert written == list(range(after))
    assert "in failing" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_work_raises_and_finished_items_are_kept(repeat: int) -> None:
    written: list[int] = []
    fail = repeat % 11
    with pytest.raises(Fault, match="work"):
        run_and_check(iter(range(10**9)), written.append, repeat % 4 + 1, fail=fail)
    assert written == list(range(fail))


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_writer_raises_and_nothing_later_is_written(repeat: int) -> None:
    written: list[int] = []
    bad = repeat % 11

    def write(item: int) -> None:
        if item == bad:
            raise Fault("the writer broke")
        written.append(item)

    with pytest.raises(Fault, match="writer") as caught:
        run_and_check(iter(range(10**9 if repeat % 2 else bad + 1)), write, repeat % 4 + 1)
    assert written == list(range(bad))
    assert "in write" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_reader_and_writer_raise(repeat: int) -> None:
    def write(item: int) -> None:
        raise Fault("the writer broke")

    with pytest.raises(Fault) as caught:
        run_and_check(failing(repeat % 5 + 1), write, repeat % 4 + 1)
    texts = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert any("the writer broke" in text for text in texts)


def test_every_put_after_a_failed_write_raises_it() -> None:
    def write(item: int) -> None:
        raise Fault("the writer broke")

    writer = WriteBehind(write, depth=1)

    def put_many() -> None:
        for item in range(10):
            writer.put(item)

    with pytest.raises(Fault):
        put_many()
    with pytest.raises(Fault):
        writer.put(11)
    writer.close()  # it was raised already


def test_a_failed_last_write_is_raised_by_close_once() -> None:
    def write(item: int) -> None:
        raise Fault("the writer broke")

    writer = WriteBehind(write)
    writer.put(1)
    with pytest.raises(Fault):
        writer.close()
    writer.close()


@pytest.mark.parametrize("repeat", range(20))
def test_ctrl_c_while_waiting_for_the_reader(repeat: int) -> None:
    asked = threading.Event()

    def stalled() -> Iterator[int]:
        yield from range(repeat % 3)
        asked.set()
        interrupted.wait(20)
        yield 99

    interrupted = threading.Event()

    def interrupt() -> None:
        asked.wait(10)
        _thread.interrupt_main(signal.SIGINT)
        interrupted.set()

    written: list[int] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(stalled(), written.append, 2)
    thread.join()
    assert written == list(range(len(written)))  # what was handed over before the signal, in order


_CHILD = """
import os, signal, sys, threading
from vos.prefetch import WriteBehind, prefetch

def endless():
    number = 0
    while True:
        yield number
        number += 1

written = []
try:
    with prefetch(endless(), 2) as items, WriteBehind(written.append, 2) as writer:
        print("ready", flush=True)
        for item in items:
            writer.put(item)
except KeyboardInterrupt:
    assert written == list(range(len(written))), "order"
    assert threading.active_count() == 1, threading.enumerate()
    sys.exit(130)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a process")
@pytest.mark.parametrize("repeat", range(5))
def test_a_real_ctrl_c_ends_a_pipeline(repeat: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(20) == 130, child.stderr.read().decode()
        finally:
            child.kill()


def test_an_image_that_vanishes_while_it_is_read_is_a_gap(tmp_path: Path) -> None:
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    source = ImageSequence(tmp_path)
    (tmp_path / "3.png").unlink()
    with prefetch(source) as frames:
        assert [frame.index for frame in frames] == [0, 1, 2, 4, 5]
    assert source.gaps == (3,)
    with pytest.raises(VideoError, match=r"3\.png"):
        source[3]
