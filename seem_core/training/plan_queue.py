"""Batches, planned ahead of time by worker processes.

Planning is small NumPy work (clips) or decoding and drawing (pictures), too much for the process that feeds the device.
A plan is a pure function of (seed, step, stage), so workers may run ahead in any order and a resumed run gets the same
plans.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from seem_core.training.loop import Stage

Plan = TypeVar("Plan", covariant=True)


class Planner(Protocol[Plan]):
    """Something that plans a batch of ``clips`` clips, and can be sent to another process."""

    def plan(self, seed: int, step: int, clips: int, frames: int, size: int) -> Plan: ...


_planner: Planner[Any] | None = None  # one per worker process


class PlanQueue(Generic[Plan]):
    """Plans of the next ``ahead`` steps are kept in work; with ``workers`` = 0 they are made when asked for."""

    def __init__(self, planner: Planner[Plan], workers: int = 0, ahead: int = 24) -> None:
        self.planner = planner
        self._ahead = ahead
        self._waiting: dict[tuple[int, int, Stage], Future[Plan]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if workers > 0:
            # spawned, not forked: the parent may hold a CUDA context and threads
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _start, (planner,))

    def get(self, seed: int, step: int, stage: Stage) -> Plan:
        """The plan of one step; asks for the following ones."""
        if self._pool is None:
            return self.planner.plan(seed, step, stage.clips, stage.frames, stage.size)
        for later in range(step, step + self._ahead):
            key = (seed, later, stage)
            if key not in self._waiting:
                self._waiting[key] = self._pool.submit(_plan, seed, later, stage)
        plan = self._waiting.pop((seed, step, stage)).result()
        for key in [k for k in self._waiting if k[1] <= step or k[2] != stage]:
            self._waiting.pop(key).cancel()
        return plan

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _start(planner: Planner[Any]) -> None:
    global _planner
    _planner = planner


def _plan(seed: int, step: int, stage: Stage) -> Any:
    if _planner is None:
        raise RuntimeError("the worker process was not given a planner")
    return _planner.plan(seed, step, stage.clips, stage.frames, stage.size)
