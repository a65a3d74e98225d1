"""Reading ahead and writing behind: order, bounds, and who gets which exception. Injected faults: tests/faults."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from vos.prefetch import WriteBehind, prefetch


def test_prefetch_keeps_order_and_count() -> None:
    with prefetch(range(1000), depth=3) as numbers:
        assert list(numbers) == list(range(1000))
        assert list(numbers) == []


def test_prefetch_of_nothing_ends_at_once() -> None:
    assert list(prefetch([])) == []


def test_prefetch_runs_the_iterable_on_another_thread() -> None:
    def names() -> Iterator[str]:
        yield threading.current_thread().name

    assert list(prefetch(names())) == ["vos-reader"]


def test_prefetch_reads_nothing_before_it_is_used() -> None:
    started = threading.Event()

    def items() -> Iterator[int]:
        started.set()
        yield 1

    waiting = prefetch(items())
    assert not started.is_set()
    assert next(waiting) == 1
    waiting.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_reads_ahead_by_its_depth_and_no_more(depth: int) -> None:
    made: list[int] = []
    full = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if len(made) == depth + 1:
                full.set()
            yield number

    with prefetch(items(), depth=depth):
        assert full.wait(10)
        assert len(made) == depth + 1  # depth in the queue, one waiting to get in


def test_prefetch_holds_no_item_that_was_consumed() -> None:
    class Item:
        pass

    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def items() -> Iterator[Item]:
        for _ in range(200):
            item = Item()
            alive.add(item)
            yield item
            del item

    most = 0
    with prefetch(items(), depth=2) as stream:
        for _item in stream:
            most = max(most, len(alive))
    assert most <= 2 + 2  # in the queue, in the making, in our hands


def test_prefetch_closes_a_generator_on_the_reader_thread() -> None:
    closed_on: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed_on.append(threading.current_thread().name)

    with prefetch(items()) as stream:
        next(stream)
    assert closed_on == ["vos-reader"]


def test_prefetch_abandoned_without_close_ends_its_thread() -> None:
    stream = prefetch(iter(int, 1), depth=1)
    next(stream)
    thread = stream._thread
    assert thread is not None
    del stream
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("depth", [0, -1])
def test_a_queue_without_room_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        prefetch([], depth=depth)
    with pytest.raises(ValueError, match="at least one"):
        WriteBehind(print, depth=depth)


def test_write_behind_writes_everything_in_order_before_it_closes() -> None:
    written: list[int] = []
    with WriteBehind(written.append, depth=2) as writer:
        for number in range(500):
            writer.put(number)
    assert written == list(range(500))


def test_write_behind_lags_by_its_depth_and_no_more() -> None:
    go, taken, put = threading.Event(), threading.Event(), []

    def write(_: int) -> None:
        taken.set()
        go.wait(10)

    writer = WriteBehind(write, depth=3)

    def fill() -> None:
        for number in range(10):
            writer.put(number)
            put.append(number)

    filler = threading.Thread(target=fill)
    filler.start()
    assert taken.wait(10)
    filler.join(0.05)
    assert len(put) <= 3 + 1
    go.set()
    filler.join(10)
    writer.close()
    assert len(put) == 10


def test_write_behind_abort_drops_what_waits() -> None:
    go, taken = threading.Event(), threading.Event()
    written: list[int] = []

    def write(number: int) -> None:
        taken.set()
        go.wait(10)
        written.append(number)

    writer = WriteBehind(write, depth=4)
    for number in range(4):
        writer.put(number)
    assert taken.wait(10)
    threading.Timer(0.01, go.set).start()
    writer.abort()
    assert written == [0]
    writer.close()


def test_write_behind_refuses_items_after_close() -> None:
    writer = WriteBehind(print)
    writer.close()
    with pytest.raises(ValueError, match="after close"):
        writer.put(1)


def test_write_behind_close_twice_is_fine() -> None:
    written: list[int] = []
    writer = WriteBehind(written.append)
    writer.put(1)
    writer.close()
    writer.close()
    assert written == [1]
