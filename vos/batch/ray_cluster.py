"""A Ray cluster, joined quietly: `Cluster.join` connects or starts one on this machine, `leave` undoes it.

Ray speaks on standard output and takes over SIGTERM in whatever process calls ``ray.init``; here it does neither.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from seem_core.errors import InputError, MissingExtraError

LOCAL_STORE = 100 << 20  # bytes of shared memory of a cluster that is started here: it carries no frames

logger = logging.getLogger(__name__)


def load_ray() -> ModuleType:
    """The package. Raises MissingExtraError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("engine ray needs Ray; pip install 'seem-vos[ray]' on every node") from error
    return ray


class Cluster:
    """The cluster that this process works with. Make it with `join`."""

    def __init__(self, ray: ModuleType, leave: Callable[[], None]) -> None:
        self.ray = ray
        self._leave: Callable[[], None] | None = leave

    @classmethod
    def join(cls, address: str | None) -> Cluster:
        """Join the cluster at ``address`` ("auto": that of this machine), which without one is started on this machine.

        Where this process has joined one already, that is used. Raises InputError where none answers.
        """
        ray = load_ray()
        loud = _quieten(ray)
        if ray.is_initialized():
            return cls(ray, loud)
        if address is not None and "://" in address:
            raise InputError(
                f"--address {address} is that of a Ray client; run vos on a machine of the cluster, and give HOST:PORT"
            )
        try:
            with _signals_kept():
                _init(ray, address)
        except BaseException as error:
            loud()
            if isinstance(error, (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError)):
                where = f"no Ray cluster answers at {address}" if address else "Ray cannot be started on this machine"
                raise InputError(f"{where} ({_first_line(error)}); see `ray status`") from error
            raise

        def leave() -> None:
            ray.shutdown()
            loud()

        return cls(ray, leave)

    def resources(self) -> Mapping[str, float]:
        """What all nodes have together, such as CPU and GPU."""
        return dict(self.ray.cluster_resources())

    def leave(self) -> None:
        """Shut the connection down, if it was made here. Safe to call twice."""
        if self._leave is not None:
            with _signals_kept():
                self._leave()
            self._leave = None


def _init(ray: ModuleType, address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is not None:
        ray.init(address=address, **quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, object_store_memory=LOCAL_STORE, **quiet)


def _quieten(ray: ModuleType) -> Callable[[], None]:
    """Turn what Ray prints about its nodes into log lines; returns what undoes that."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    with suppress(AttributeError, ImportError):
        from ray._private import worker

        printed = worker.print_to_stdstream

        def log(data: Mapping[str, Any], *_: object, **__: object) -> None:
            logger.debug("ray: %s", "\n".join(map(str, data.get("lines", ()))))

        worker.print_to_stdstream = log
        return lambda: setattr(worker, "print_to_stdstream", printed)
    return lambda: None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Whoever handles SIGTERM and SIGINT in this process goes on doing so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
