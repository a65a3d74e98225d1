"""All threads of the project: `prefetch` reads ahead, `WriteBehind` writes behind, both through a bounded channel.

    reader thread -> channel -> main thread -> channel -> writer thread

No thread outlives its ``with``, whatever happens: the consumer stops early, the reader fails, the writer fails, or
Ctrl-C arrives. A fault reaches the main thread as the very exception that was raised, with its traceback.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Prefetch", "WriteBehind", "prefetch"]

T = TypeVar("T")

# A wait is cut into pieces of this length, because on some systems Ctrl-C does not interrupt an endless one.
_PIECE_S = 0.5


class _Closed(Exception):
    """The channel is closed: nothing can be put, or nothing is left to get."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Channel(Generic[T]):
    """A bounded queue between two threads that either side can close."""

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"a queue needs room for at least one item, not {depth}")
        self._depth = depth
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add an item, waiting for room; raises _Closed if the channel is, or gets, closed."""
        with self._changed:
            while not self._closed and len(self._items) >= self._depth:
                self._changed.wait(_PIECE_S)
            if self._closed:
                raise _Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Take the oldest item, waiting for one; raises _Closed once the channel is closed and empty."""
        with self._changed:
            while not self._closed and not self._items:
                self._changed.wait(_PIECE_S)
            if not self._items:
                raise _Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, drop: bool) -> None:
        """Let nothing more in; ``drop`` also throws away what is inside."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()


class Prefetch(Generic[T]):
    """Iterator over ``iterable`` that a thread of its own runs up to ``depth`` items ahead.

    The thread starts at the first item, or at ``with``, and has ended when the iterator is exhausted, has raised, or
    is closed; leaving the ``with`` closes it. An exception of the iterable is raised here, once, after the items
    that came before it. The iterable is advanced, and closed if it is a generator, on the thread alone.

    Raises ValueError for a depth below 1.
    """

    def __init__(self, iterable: Iterable[T], depth: int = 4) -> None:
        self._iterable = iterable
        self._channel: _Channel[T | _Failure] = _Channel(depth)
        self._thread: threading.Thread | None = None
        self._done = False

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        self._start()
        try:
            item = self._channel.get()
        except _Closed:
            self.close()
            raise StopIteration from None
        if isinstance(item, _Failure):
            self.close()
            raise item.error
        return item

    def __del__(self) -> None:
        channel = getattr(self, "_channel", None)  # the constructor may have refused the depth
        if channel is not None:  # abandoned: the thread ends by itself
            channel.close(drop=True)

    def close(self) -> None:
        """Stop reading, drop what was read ahead, and wait for the thread: at most for the item it is working on."""
        self._done = True
        self._channel.close(drop=True)
        if self._thread is not None:
            _join(self._thread)

    def _start(self) -> None:
        if self._thread is None and not self._done:
            # The thread knows the channel, not this object, so that an abandoned iterator can be collected.
            self._thread = threading.Thread(
                target=_read, args=(self._iterable, self._channel), name="vos-reader", daemon=True
            )
            _begin(self._thread, self._channel)


def prefetch(iterable: Iterable[T], depth: int = 4) -> Prefetch[T]:
    """Read ahead on a thread: ``with prefetch(video) as frames: for frame in frames: ...``."""
    return Prefetch(iterable, depth)


def _read(iterable: Iterable[T], channel: _Channel[T | _Failure]) -> None:
    """Body of the reader thread. The channel is closed at the end in every case, which is the sentinel."""
    try:
        iterator = iter(iterable)
        try:
            for item in iterator:
                channel.put(item)
                del item  # an item belongs to the consumer alone: none stays alive here while the next one is made
        finally:
            if isinstance(iterator, Generator):
                iterator.close()  # on the thread that ran it: what it holds open is closed now
    except _Closed:
        return
    except BaseException as error:
        with suppress(_Closed):  # nobody is listening any more
            channel.put(_Failure(error))
    finally:
        channel.close(drop=False)


class WriteBehind(Generic[T]):
    """Calls ``write(item)`` for each item put, in order, on a thread of its own that lags at most ``depth`` items.

    The first failing write is the last one: nothing later is written, and its exception is raised by every later
    ``put``, or by ``close`` if there is none. Leaving the ``with`` writes what was put, also when an exception passes
    through (finished work is kept); that exception then wins over one of a write, which is added to it as a note.

    Raises ValueError for a depth below 1, and for a put after close.
    """

    def __init__(self, write: Callable[[T], object], depth: int = 4) -> None:
        self._channel: _Channel[T] = _Channel(depth)
        self._failures: list[BaseException] = []
        self._raised = False
        self._thread = threading.Thread(
            target=_write, args=(write, self._channel, self._failures), name="vos-writer", daemon=True
        )
        _begin(self._thread, self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception as failure:
            error.add_note(f"what was finished before could not be written either: {failure!r}")

    def __del__(self) -> None:
        channel = getattr(self, "_channel", None)
        if channel is not None:  # abandoned: the thread writes what it has and ends
            channel.close(drop=False)

    def put(self, item: T) -> None:
        """Hand over an item, waiting while the writer is ``depth`` items behind."""
        try:
            self._channel.put(item)
        except _Closed:
            _join(self._thread)
            if not self._failures:
                raise ValueError("nothing can be put after close") from None
            self._raised = True
            raise self._failures[0] from None

    def close(self) -> None:
        """Wait until everything put is written; raises the exception of a failed write that was not raised yet."""
        self._channel.close(drop=False)
        _join(self._thread)
        if self._failures and not self._raised:
            self._raised = True
            raise self._failures[0]

    def abort(self) -> None:
        """Drop what is waiting, wait for the write that is going on, and raise nothing."""
        self._channel.close(drop=True)
        _join(self._thread)
        self._raised = True


def _write(write: Callable[[T], object], channel: _Channel[T], failures: list[BaseException]) -> None:
    """Body of the writer thread."""
    try:
        while True:
            write(channel.get())
    except _Closed:
        return
    except BaseException as error:
        failures.append(error)
    finally:
        channel.close(drop=True)


def _begin(thread: threading.Thread, channel: _Channel[T]) -> None:
    """Start a thread, or leave none behind: Ctrl-C may arrive while its start is awaited."""
    try:
        thread.start()
    except BaseException:
        channel.close(drop=True)
        raise


def _join(thread: threading.Thread) -> None:
    """Wait for a thread that was told to end. Ctrl-C is raised when it has; a second one does not wait."""
    interrupt = None
    while thread.is_alive():
        try:
            thread.join(_PIECE_S)
        except KeyboardInterrupt as error:
            if interrupt is not None:
                raise
            interrupt = error
    if interrupt is not None:
        raise interrupt
