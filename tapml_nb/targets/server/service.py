"""What a session's process offers its client, beside TVM's own RPC functions.

Registered as global functions ``tapml.*`` whose arguments and answers are numbers and text (JSON
where there is more to say), so that the client never holds a remote object.  The client calls them
through ``tapml.do``, which numbers answers and guards them with a checksum
(:mod:`tapml_nb.targets.wire.envelope`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tvm_ffi

from tapml_nb.targets.devices.base import open_device
from tapml_nb.targets.server.aftermath import Aftermath
from tapml_nb.targets.server.clock import Clock
from tapml_nb.targets.server.copies import Copies
from tapml_nb.targets.server.runner import KernelRunner, TensorMemory
from tapml_nb.targets.wire.envelope import failure, seal, unseal
from tapml_nb.targets.wire.handshake import PROTOCOL
from tapml_nb.targets.wire.recorder import Recorder
from tapml_nb.targets.wire.tensor_channel import BulkServer

LOAD_SECONDS = 60.0
"""Deadline of loading a library (constructors may run in it), and of compiling one device
function."""


def register_service(
    folder: Path,
    credentials: dict[str, Any],
    clock: Clock,
    recorder: Recorder,
    *,
    same_host: bool,
) -> None:
    """Register the functions of a session.

    Args:
        folder: the session's own; file names are confined to it.
        credentials: its number and token at the listener, for the client.
        clock: where the listener sees when this process has to be done.
        recorder: is told what the process is at.
        same_host: the client started this server, so libraries may stay where they are.
    """

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    within = partial(_within, clock)
    aftermath = Aftermath(os.getppid())
    memory = TensorMemory(open_device("llvm", 0))
    copies = Copies()
    runner = KernelRunner(memory, recorder, copies, aftermath)

    def use(kind: str, number: str, seconds: str) -> str:
        nonlocal memory, runner
        with recorder.during("device"):
            device = within(float(seconds), lambda: open_device(kind, int(number)))
        memory = TensorMemory(device)
        runner = KernelRunner(memory, recorder, copies, aftermath)
        return json.dumps(memory.device.describe())

    def confined(name: str) -> str:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"the path {name} leaves the session's folder")
        return str(path)

    def load(name: str, plans: str) -> None:
        path = name if same_host and Path(name).is_absolute() else confined(name)
        runner.load(path, json.loads(plans), lambda work: within(LOAD_SECONDS, work))

    def call(text: str) -> str:
        request = json.loads(text)
        time_left = _Budget(clock, request.pop("timeout"))
        return json.dumps(runner.call(**request, within=time_left.spend))

    def chain(text: str) -> str:
        request = json.loads(text)
        timeout = request.pop("timeout")
        return json.dumps(runner.chain(**request, within=lambda work: within(timeout, work)))

    functions: dict[str, Callable[..., Any]] = {
        "tvm.rpc.server.workpath": confined,
        "tvm.rpc.server.load_module": lambda name: tvm_ffi.load_module(confined(name)),
        "tapml.hello": lambda: json.dumps(_hello()),
        "tapml.use": use,
        "tapml.bulk": lambda: json.dumps(BulkServer(memory, folder, credentials).credentials()),
        "tapml.load": load,
        "tapml.call": call,
        "tapml.chain": chain,
        "tapml.statistics": lambda *keys: json.dumps(runner.statistics(*keys)),
        "tapml.drop": lambda keys: memory.drop(json.loads(keys)),
        "tapml.held": lambda: memory.held(),
    }

    def do(sealed: str) -> str:
        number = 0
        try:
            number, name, arguments = unseal(sealed)
            return seal({"number": number, "answer": functions[f"tapml.{name}"](*arguments)})
        except Exception as error:
            return seal({"number": number, **failure(error)})

    tvm_ffi.register_global_func("tapml.do", do, override=True)
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)


class _Budget:
    """Seconds that all launches of a call may take together.

    What the tool does in between, poisoning memory and comparing, is not the kernel's doing.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._left = seconds

    def spend(self, work: Callable[[], Any]) -> Any:
        """Do something within what is left."""
        begin = time.monotonic()
        try:
            return _within(self._clock, max(self._left, 1e-3), work)
        finally:
            self._left -= time.monotonic() - begin


def _within(clock: Clock, seconds: float, work: Callable[[], Any]) -> Any:
    """Do something within a deadline that the operating system keeps.

    An endless loop in native code hears nothing else, and the client may be on another machine.
    The default action of SIGALRM ends the process.
    """
    clock.start(seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        clock.stop()


def _hello() -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "guard": True,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """What is installed; a board may have TVM's runtime library alone."""
    found = {}
    for name in ("apache-tvm", "apache-tvm-ffi", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
