"""Work in a process of its own: whatever happens to it, the benchmark goes on.

Such a process is forked from a server that has imported what takes seconds.  Once it runs it needs
the server no more; one that has died is replaced when the next process is due.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

_PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["benchmarks.preloaded"]
_PROCESSES.set_forkserver_preload(PRELOADED)


def preload(*modules: str) -> None:
    """Have the server import these, in place of what models need; before the first process."""
    _PROCESSES.set_forkserver_preload([*modules])


_SECONDS_TO_END = 10.0
"""For a process to clear up when its work is done."""


class Failed(RuntimeError):
    """The work came to no end; the message says how."""


def isolated(work: Callable[..., Iterable[T]], *arguments: Any, seconds: float) -> Iterator[T]:
    """What ``work(*arguments)`` yields in a process of its own, one after the other.

    Args:
        work: a function of a module, which a new process can import.
        arguments: what can be pickled.
        seconds: for how long it may yield nothing.

    Raises:
        Failed: if it raises, yields nothing for so long, or if its process ends.
    """
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_serve, args=(sender, work, arguments))
    _start(process)
    sender.close()
    with contextlib.ExitStack() as end:
        end.callback(process.join)
        end.callback(_kill, _handle(process.pid))
        try:
            while receiver.poll(seconds):
                value, error, ended = receiver.recv()
                if error:
                    raise Failed(error)
                if ended:
                    process.join(_SECONDS_TO_END)
                    return
                yield value
            raise Failed(f"not at its end after {seconds} seconds")
        except EOFError:
            process.join()
            raise Failed(f"its process ended with status {process.exitcode}") from None


def _start(process: multiprocessing.process.BaseProcess) -> None:
    """Start it, also if the server dies at this moment: the system may take a while to say so."""
    for _ in range(20):
        with contextlib.suppress(OSError, EOFError):
            return process.start()
        time.sleep(0.05)
    return process.start()


def _handle(pid: int | None) -> int | None:
    """A process by its descriptor, for multiprocessing loses it with the server; None if it is
    gone."""
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def _kill(handle: int | None) -> None:
    if handle is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def _serve(
    sender: Connection, work: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
) -> None:
    try:
        for value in work(*arguments):
            sender.send((value, "", False))
        sender.send((None, "", True))
    except Exception as error:
        sender.send((None, f"{type(error).__name__}: {error}", True))
