"""Run one function in a process of its own: its memory is then its own, and can be measured."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from seem_core.errors import LimitError, VosError

Send = Callable[[Any], None]
_PATIENCE = 10.0  # seconds that an interrupted process gets to finish its file


@dataclass(frozen=True)
class PeakMemory:
    """The most memory a process had, in bytes: resident, and allocated on a CUDA device. None where it is not known."""

    resident: int | None
    device: int | None


def run_isolated(function: Callable[..., Any], *args: Any, on_message: Callable[[Any], None]) -> tuple[Any, PeakMemory]:
    """``function(send, *args)`` in a fresh process -> its result and the process's peak memory.

    ``function`` is a module's own function, arguments and result can be pickled. What it passes to ``send`` comes to
    ``on_message`` here. Our own errors are raised here as they are, others as a RuntimeError with their traceback.
    Raises LimitError where the process was killed.
    """
    context = get_context("spawn")  # a forked process would start with this one's memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, args), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "result":
                process.join()
                return value  # type: ignore[no-any-return]
            if kind in ("error", "crash"):
                process.join(_PATIENCE)  # it has said its last word; a signal now would make it say more
            if kind == "error":
                raise value
            if kind == "crash":
                raise RuntimeError(f"the process failed:\n{value}")
            on_message(value)
    except EOFError as error:
        process.join()
        raise LimitError(
            f"the process ended without a word (exit code {process.exitcode}), probably for want of memory"
        ) from error
    finally:
        _end(process)
        receiver.close()


def _end(process: BaseProcess) -> None:
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)  # it finishes the file it writes
        process.join(_PATIENCE)
    if process.is_alive():
        process.terminate()
    process.join()


def _run(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    def send(message: Any) -> None:
        sender.send(("message", message))

    try:
        result = function(send, *args)
        sender.send(("result", (result, peak_memory())))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)  # nobody listens any more
    except VosError as error:
        sender.send(("error", error))
    except BaseException:
        sender.send(("crash", traceback.format_exc()))


def peak_memory() -> PeakMemory:
    """Of this process, since it started.

    On Linux from VmHWM, which begins anew with the program; ru_maxrss would go on from the process that started it.
    """
    return PeakMemory(_peak_resident(), _peak_device())


def _peak_resident() -> int | None:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_device() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())
