"""How a batch is going, on stderr: one line that is drawn again on a terminal, plain lines in a file, or JSON lines."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cli.console import say
from cli.tables import elided
from vos.wording import printable

if TYPE_CHECKING:
    from vos.batch.driver import BatchEvent
    from vos.batch.job import VideoOutcome

SECONDS_BETWEEN_LINES = 10.0  # where each one stays
SECONDS_BETWEEN_DRAWINGS = 0.5  # on a terminal
NAME_WIDTH = 16  # of videos at work, on the line that is drawn


class Tally:
    """What of a batch is done, how fast, and how much is left; frames are those of this run."""

    def __init__(self, videos: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.videos, self.settled, self.failed, self.frames = videos, 0, 0, 0
        self._clock, self._began = clock, clock()
        self._running: dict[str, tuple[int, int]] = {}  # frames done, and in all
        self._first: float | None = None  # when the first frame came: before, models were loaded
        self._totals: list[int] = []  # frames of the videos that were seen

    def advance(self, name: str, done: int, total: int) -> None:
        """A video has come to ``done`` of ``total`` frames."""
        self._first = self._clock() if self._first is None else self._first
        if name not in self._running:
            self._totals.append(total)
            self._running[name] = (done - 1, total)  # one that goes on has frames of an earlier run
        before, _ = self._running[name]
        self.frames += max(0, done - before)
        self._running[name] = (max(done, before), total)

    def end(self, name: str, state: str) -> None:
        """A run of a video is over."""
        self._running.pop(name, None)
        self.failed += state == "failed"

    @property
    def rate(self) -> float | None:
        """Frames per second of all workers together; None until it can be told."""
        past = 0.0 if self._first is None else self._clock() - self._first
        return self.frames / past if past >= 1.0 and self.frames > 1 else None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far, where videos that were not seen yet are as long as the others on average."""
        if self.rate is None or not self._totals:
            return None
        waiting = max(0, self.videos - self.settled - len(self._running))
        left = sum(max(0, total - done) for done, total in self._running.values())
        return (left + waiting * sum(self._totals) / len(self._totals)) / self.rate

    @property
    def now(self) -> tuple[tuple[str, int, int], ...]:
        """Name, frames done and frames in all of the videos that run."""
        return tuple((name, done, total) for name, (done, total) in self._running.items())

    def line(self) -> str:
        """All of it in words."""
        parts = [f"{self.settled}/{self.videos} videos" + (f" ({self.failed} failed)" if self.failed else "")]
        if self.frames:
            parts.append(f"{self.frames:,} frames")
        if self.rate is not None:
            parts.append(f"{self.rate:.1f} frames/s")
        if self.settled < self.videos and self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


class BatchProgress:
    """Hears what a driver tells, and shows it. Use it in a ``with``: messages of the log go through it meanwhile.

    quiet: show no progress; failures and warnings stay. as_json: one object per event instead of words.
    """

    def __init__(self, videos: int, *, quiet: bool = False, as_json: bool = False) -> None:
        self.tally = Tally(videos)
        self._quiet, self._json = quiet, as_json
        self._drawing = not (quiet or as_json) and sys.stderr is not None and sys.stderr.isatty()
        self._drawn = ""
        self._shown: float | None = None
        self._handlers: list[logging.Handler] = []

    def hear(self, event: BatchEvent) -> None:
        """One event of `vos.batch.driver.run_batch`."""
        from vos.batch import driver, engine

        if isinstance(event, driver.Turned):
            self.tally.settled = self.tally.videos - event.unsettled
            self._show()
        elif isinstance(event, engine.Advanced):
            self.tally.advance(event.name, event.done, event.total)
        elif isinstance(event, driver.Finished):
            self.tally.end(event.name, event.state)
            self.tally.settled += event.state in ("done", "failed")
            self._tell_end(event)
        elif isinstance(event, driver.Noticed):
            self.note("noticed", f"{event.name}: {event.message}", video=event.name, message=event.message)
        elif isinstance(event, driver.Stopping):
            self.say("stopping", f"vos: stopping: {event.why}; the frames in work are finished", message=event.why)
        elif self._json:
            self._write("started", video=event.name, worker=event.worker)

    def note(self, kind: str, text: str, **fields: Any) -> None:
        """A line that a quiet run leaves out."""
        if not self._quiet:
            self.say(kind, text, **fields)

    def say(self, kind: str, text: str, **fields: Any) -> None:
        """A line above the progress; as JSON, ``fields`` in an event of this kind."""
        if self._json:
            self._write(kind, **fields)
            return
        self._erase()
        say(printable(text, keep="\n"))
        self._draw()

    def warn(self, text: str, **fields: Any) -> None:
        """A warning, also in a quiet run."""
        self.say("warning", f"vos: warning: {text}", **(fields or {"message": text}))

    def tell_end(self, counts: dict[str, int], code: int, out: Path) -> None:
        """The last line: what the user can do about what is not done."""
        if self._json:
            self._write(
                "ended", counts=counts, frames=self.tally.frames, seconds=round(self.tally.seconds, 3), code=code
            )
        elif counts.get("waiting") or counts.get("running"):
            self.note("ended", "vos: the same command goes on with what is waiting")
        elif counts.get("failed"):
            self.note("ended", f"vos: `vos retry {out}` lets failed videos wait again, for the same command to try")

    def close(self) -> None:
        """Take the progress off the terminal."""
        self._erase()
        self._drawing = False

    def __enter__(self) -> BatchProgress:
        root = logging.getLogger()
        self._handlers, root.handlers = root.handlers, [_Through(self, root.handlers[:1])]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().handlers = self._handlers
        self.close()

    def _tell_end(self, event: Any) -> None:
        outcome: VideoOutcome = event.outcome
        for line in outcome.warnings:
            self.warn(f"{event.name}: {line}", video=event.name, message=line)
        fields = asdict(outcome)
        fields.pop("warnings")
        fields["video"] = fields.pop("name")
        words = f"{event.name}: {_words(outcome)}"
        if outcome.outcome == "done":
            self.note("finished", words, state=event.state, **fields)
        elif outcome.outcome == "failed":
            again = "; it will be tried again" if event.state == "waiting" else ""
            self.say("finished", f"vos: {event.name} failed: {outcome.message}{again}", state=event.state, **fields)
        else:
            self.note("finished", words, state=event.state, **fields)

    def _show(self) -> None:
        now = time.monotonic()
        pause = SECONDS_BETWEEN_DRAWINGS if self._drawing else SECONDS_BETWEEN_LINES
        if self._quiet or (self._shown is not None and now - self._shown < pause):
            return
        first, self._shown = self._shown is None, now
        if self._drawing:
            self._draw()
        elif self._json:
            self._write("progress", **self._figures())
        elif not first:
            say(self.tally.line())

    def _figures(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "videos": tally.videos, "settled": tally.settled, "failed": tally.failed, "frames": tally.frames,
            "frames_per_second": None if tally.rate is None else round(tally.rate, 3),
            "seconds_left": None if tally.seconds_left is None else round(tally.seconds_left),
            "running": [{"video": name, "frame": done, "of": total} for name, done, total in tally.now],
        }  # fmt: skip

    def _draw(self) -> None:
        if not self._drawing:
            return
        width = shutil.get_terminal_size().columns - 1
        line = self.tally.line()
        at_work = "; ".join(
            f"{elided(printable(name), NAME_WIDTH)} {done}/{total}" for name, done, total in self.tally.now
        )
        if at_work:
            line += f" | {at_work}"
        if len(line) > width:
            line = line[: max(0, width - 3)] + "..."
        self._put(f"\r{line}{' ' * (len(self._drawn) - len(line))}")
        self._drawn = line

    def _erase(self) -> None:
        if self._drawn:
            self._put(f"\r{' ' * len(self._drawn)}\r")
            self._drawn = ""

    def _put(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody looks any more
            sys.stderr.write(text)
            sys.stderr.flush()

    def _write(self, event: str, **fields: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        say(json.dumps({"time": moment, "event": event, **fields}, default=str))


class _Through(logging.Handler):
    """Messages of the log as lines above the progress."""

    def __init__(self, progress: BatchProgress, before: list[logging.Handler]) -> None:
        super().__init__(before[0].level if before else logging.WARNING)
        self._progress = progress
        self.setFormatter(before[0].formatter if before else None)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._progress.say("log", self.format(record), level=record.levelname.lower(), message=message)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min 30 s``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _words(outcome: VideoOutcome) -> str:
    if outcome.outcome == "interrupted":
        return f"interrupted after {outcome.frames} frames" + (f" ({outcome.message})" if outcome.message else "")
    rate = f" ({outcome.frames / outcome.seconds:.1f} frames/s)" if outcome.seconds > 0 else ""
    return f"done, {outcome.frames} frames in {duration(outcome.seconds)}{rate}"
