"""What a simulation needs: time (`Events`), a server with a queue (`Queue`), a capacity that is shared (`Shared`)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

Then: TypeAlias = Callable[[], None]


class Events:
    """What is going to happen, by time; of equal times, what was planned first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._heap: list[tuple[float, int, Then]] = []

    def at(self, moment: float, then: Then) -> None:
        """Plan something for a moment in seconds, or for now where that is past."""
        heapq.heappush(self._heap, (max(moment, self.now), next(self._order), then))

    def step(self) -> None:
        """Let the next thing happen. Raises IndexError where nothing is planned."""
        self.now, _, then = heapq.heappop(self._heap)
        then()


class Queue:
    """Does one thing after the other; ``busy``: seconds of all that it was given."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._until = self.busy = 0.0

    def do(self, seconds: float, then: Then) -> None:
        """Something that takes so long, after all that came before; ``then`` happens when it is done."""
        self._until = max(self._until, self._events.now) + seconds
        self.busy += seconds
        self._events.at(self._until, then)


class Transfer:
    """One transfer; ``end`` is the store's progress at which it is whole. It may be called off."""

    __slots__ = ("called_off", "end", "then")

    def __init__(self, end: float, then: Then) -> None:
        self.end, self.then, self.called_off = end, then, False


class Shared:
    """A capacity of 1, shared equally by all transfers that are under way, of which none gets more than ``share``.

    ``busy``: seconds of the whole capacity that were used until the last change.
    """

    def __init__(self, events: Events, share: float) -> None:
        self._events, self._share = events, share
        self._order = count()
        self._heap: list[tuple[float, int, Transfer]] = []
        self._running = 0
        self._progress = self._since = self.busy = 0.0
        self._plan = 0  # number of the planned event that still holds

    def begin(self, seconds: float, then: Then) -> Transfer:
        """A transfer that takes ``seconds`` of the whole capacity."""
        self._advance()
        transfer = Transfer(self._progress + seconds, then)
        heapq.heappush(self._heap, (transfer.end, next(self._order), transfer))
        self._running += 1
        self._replan()
        return transfer

    def call_off(self, transfer: Transfer) -> None:
        """End a transfer that is under way; what it was for does not happen."""
        self._advance()
        transfer.called_off = True
        self._running -= 1
        self._replan()

    def _speed(self) -> float:
        return min(self._share, 1 / self._running) if self._running else 0.0

    def _advance(self) -> None:
        passed, self._since = self._events.now - self._since, self._events.now
        self._progress += passed * self._speed()
        self.busy += passed * self._speed() * self._running

    def _replan(self) -> None:
        while self._heap and self._heap[0][2].called_off:
            heapq.heappop(self._heap)
        self._plan += 1
        if self._heap:
            number = self._plan
            left = max(0.0, self._heap[0][0] - self._progress)
            self._events.at(self._events.now + left / self._speed(), lambda: self._end(number))

    def _end(self, number: int) -> None:
        if number != self._plan:
            return
        self._advance()
        self._progress = max(self._progress, self._heap[0][0])  # what rounding left
        transfer = heapq.heappop(self._heap)[2]
        self._running -= 1
        self._replan()
        transfer.then()
