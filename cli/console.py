"""What a command says and hears: results on stdout, everything else on stderr, and Ctrl-C as a wish to stop."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TextIO

from seem_core.errors import DiskFullError, OutputError
from seem_core.printable import printable

_BYTES = "".join(map(chr, range(0xDCA0, 0xDD00)))  # of names that are not text, as Python holds them (PEP 383)


def emit(*lines: object, drawn: bool = False) -> None:
    """Print results to stdout. A reader that went away is no error; a full disk behind it is a DiskFullError.

    On a terminal, characters that it would obey are shown as their codes; a file or a pipe gets names as they are.
    drawn: the lines move the cursor themselves, and what others wrote in them is visible already.
    """
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        for line in lines:
            print(visible(str(line)) if sys.stdout.isatty() and not drawn else line)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                "no room left where standard output goes; the results themselves are written"
            ) from error
        if error.errno != errno.EBADF:  # closed by whoever started us
            raise OutputError(f"cannot write to standard output ({error})") from error


def emit_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    emit(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str, *, quiet: bool = False) -> None:
    """A line for the reader, on stderr."""
    if not quiet:
        say(text)


def warn(text: str) -> None:
    """A warning, on stderr, also where the command is quiet."""
    say(f"vos: warning: {text}")


def visible(text: str) -> str:
    """Text for a terminal: what file names and files bring along cannot move the cursor or change what stands there.

    Line breaks and tabs stay, and bytes that are no text: they are printed as they are.
    """
    return printable(text, keep="\n\t" + _BYTES)


def say(text: str) -> None:
    """A line on stderr; that nobody reads it any more must not end what is under way."""
    text = visible(text)
    if sys.stderr is None or sys.stderr.closed:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


class Progress:
    """What is done, how fast, and the time left, on stderr: a bar on a terminal, elsewhere a line every tenth."""

    def __init__(self, label: str, *, quiet: bool = False, unit: str = "frame") -> None:
        self._label, self._quiet, self._unit = label, quiet or sys.stderr is None, unit
        self._bar: Any = None
        self._began: tuple[int, float] | None = None  # what was done at the first call, and when that was
        self._tenth = 0

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` are finished."""
        if self._quiet:
            return
        if self._began is None:
            self._began = done, time.monotonic()
        if not sys.stderr.isatty():
            self._line(done, total)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=visible(self._label), unit=self._unit, dynamic_ncols=True, file=sys.stderr
            )
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()  # whatever is said next stands below it

    def _line(self, done: int, total: int) -> None:
        tenth = done * 10 // max(total, 1)
        if tenth <= self._tenth or self._began is None:
            return
        self._tenth = tenth
        first, began = self._began  # the first one also paid for loading the model
        seconds = time.monotonic() - began
        text = f"{self._label}: {done}/{total} {self._unit}s"
        if done > first and seconds > 0:
            rate = (done - first) / seconds
            text += f", {rate:.1f} {self._unit}s/s, {(total - done) / rate:.0f} s left"
        note(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the frame in work is finished; a second one interrupts at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def silence(stream: TextIO) -> None:
    """Send what is still written to ``stream``, and what Python flushes at its end, to nowhere."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass
