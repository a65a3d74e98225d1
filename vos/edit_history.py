"""Which prompts apply, and how to go back: `EditHistory`, numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Act: TypeAlias = tuple[Literal["add", "remove"], int]

MOST_ACTS = 500  # that can be undone; the oldest are forgotten


@dataclass(frozen=True)
class EditHistory:
    """The state of editing after some acts. Every method returns a new state.

    numbers  prompts that apply, in the order in which they were given
    done     acts that `undo` takes back, the last one at the end
    undone   acts that `redo` repeats, the next one at the end
    highest  the highest number that was ever given; numbers are not used again
    """

    numbers: tuple[int, ...] = ()
    done: tuple[Act, ...] = ()
    undone: tuple[Act, ...] = ()
    highest: int = 0

    def add(self) -> EditHistory:
        """With a new prompt, number ``highest + 1``."""
        return self._act(("add", self.highest + 1), highest=self.highest + 1)

    def remove(self, number: int) -> EditHistory:
        """Without a prompt. Raises KeyError where it does not apply."""
        if number not in self.numbers:
            raise KeyError(number)
        return self._act(("remove", number), highest=self.highest)

    def undo(self) -> EditHistory:
        """Before the last act. Raises IndexError where there is none."""
        kind, number = self.done[-1]
        numbers = self._apply("remove" if kind == "add" else "add", number)
        return replace(self, numbers=numbers, done=self.done[:-1], undone=(*self.undone, self.done[-1]))

    def redo(self) -> EditHistory:
        """With the act again that was undone last. Raises IndexError where there is none."""
        numbers = self._apply(*self.undone[-1])
        return replace(self, numbers=numbers, done=(*self.done, self.undone[-1]), undone=self.undone[:-1])

    @property
    def reachable(self) -> frozenset[int]:
        """Prompts that apply, or would after some undo and redo."""
        return frozenset(self.numbers) | {number for _, number in (*self.done, *self.undone)}

    def to_json(self) -> dict[str, Any]:
        return {"numbers": self.numbers, "done": self.done, "undone": self.undone, "highest": self.highest}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> EditHistory:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` does not write."""
        done, undone = (tuple(_act(act) for act in plain[name]) for name in ("done", "undone"))
        return cls(tuple(map(int, plain["numbers"])), done, undone, int(plain["highest"]))

    def _act(self, act: Act, highest: int) -> EditHistory:
        return EditHistory(self._apply(*act), (*self.done, act)[-MOST_ACTS:], (), highest)

    def _apply(self, kind: Literal["add", "remove"], number: int) -> tuple[int, ...]:
        without = tuple(n for n in self.numbers if n != number)
        return tuple(sorted((*without, number))) if kind == "add" else without


def _act(plain: Any) -> Act:
    kind, number = plain
    if kind not in ("add", "remove"):
        raise ValueError(f"{kind!r} is no act")
    return kind, int(number)
