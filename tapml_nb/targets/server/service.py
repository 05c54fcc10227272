"""What a session's process offers its client, beside TVM's own RPC functions.

All goes through one global function, ``tapml.do``, whose argument and answer are text, so that the
client never holds a remote object: the name of what is to be done and its arguments as JSON,
numbered and with a checksum (:mod:`tapml_nb.targets.wire.envelope`).  ``tapml.hello`` stands beside
it for who does not know yet whether it is our server that is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tvm_ffi

from tapml_nb.compile.kernel import Kernel
from tapml_nb.targets.devices.base import Device, PooledDevice
from tapml_nb.targets.devices.registry import open_device
from tapml_nb.targets.server.aftermath import Aftermath
from tapml_nb.targets.server.memory import ChannelServer, TensorMemory
from tapml_nb.targets.server.runner import KernelRunner
from tapml_nb.targets.wire.calls import CallRequest, ChainRequest, to_json
from tapml_nb.targets.wire.envelope import failure, seal, unseal
from tapml_nb.targets.wire.errors import NoRoom
from tapml_nb.targets.wire.handshake import PROTOCOL
from tapml_nb.targets.wire.recorder import Recorder

LOAD_SECONDS = 60.0
"""Deadline of loading a library (constructors may run in it), and of compiling one device
function."""


class SessionService:
    """A session's end of the control line; arguments and answers are JSON data."""

    def __init__(
        self, folder: Path, credentials: dict[str, Any], recorder: Recorder, *, same_host: bool
    ) -> None:
        """Serve a session of this process.

        File names are confined to its folder, unless the client is on the same host: it started
        this server, so libraries may stay where they are.  ``credentials``: the session's number
        and token at the listener, for the client.
        """
        self._folder = folder
        self._credentials = credentials
        self._recorder = recorder
        self._same_host = same_host
        self._aftermath = Aftermath(os.getppid(), recorder)
        self._run_on(open_device("llvm", 0))
        self._functions: dict[str, Callable[..., Any]] = {
            "use": self._use,
            "channel": self._channel,
            "load": self._load,
            "call": self._call,
            "chain": self._chain,
            "statistics": lambda *keys: self._runner.statistics(*keys),
            "drop": lambda keys: self._memory.drop(keys),
            "held": lambda: self._memory.held(),
        }

    def register(self) -> None:
        """Make this process's RPC functions its own."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        functions: dict[str, Callable[..., Any]] = {
            "tvm.rpc.server.workpath": self._confined,
            "tvm.rpc.server.load_module": lambda name: tvm_ffi.load_module(self._confined(name)),
            "tapml.hello": lambda: json.dumps(self._hello()),
            "tapml.do": self._do,
        }
        for name, function in functions.items():
            tvm_ffi.register_global_func(name, function, override=True)

    def _do(self, sealed: str) -> str:
        number = 0
        try:
            number, name, arguments = unseal(sealed)
            answer = self._functions[name](*arguments)
            return seal({"number": number, "answer": answer, "peak": self._peak()})
        except Exception as error:
            if isinstance(error, MemoryError) and self._memory.device.on_host:
                error = NoRoom(0, self._memory.device.capacity())  # for what is kept beside a call
            return seal({"number": number, **failure(error)})

    def _hello(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "session": self._credentials["session"],
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "guard": True,
            "versions": _versions(),
        }

    def _use(self, kind: str, number: int, seconds: float, bound: int | None) -> dict[str, Any]:
        """Run kernels on another device, which keeps to a bound if it has a pool; what it says of
        itself."""
        with self._recorder.during("device"):
            device: Device = self._within(seconds, lambda: open_device(kind, number))
        self._run_on(device)
        if self._pool and bound is not None:
            self._pool.keep_within(bound)
        return device.describe() | {"pooled": self._pool is not None}

    def _run_on(self, device: Device) -> None:
        self._pool = device if isinstance(device, PooledDevice) else None
        self._memory = TensorMemory(device)
        self._runner = KernelRunner(self._memory, self._recorder, self._aftermath)

    def _peak(self) -> int:
        """The most that the device ever held; 0 where only the client can count it."""
        return self._pool.peak if self._pool else 0

    def _channel(self) -> dict[str, Any]:
        """Wait for the tensor channel; what the client has to say to the listener for it."""
        token, same_host = self._credentials["token"], self._same_host
        ChannelServer(self._memory, self._folder, token, same_host=same_host)
        return self._credentials

    def _confined(self, name: str) -> str:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise ValueError(f"the path {name} leaves the session's folder")
        return str(path)

    def _load(self, name: str, plans: Sequence[dict[str, Any]]) -> None:
        path = name if self._same_host and Path(name).is_absolute() else self._confined(name)
        kernels = list(map(Kernel.from_json, plans))
        self._runner.load(path, kernels, partial(self._within, LOAD_SECONDS))

    def _call(self, several: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Call kernels as far as it goes well: who asked is told what went wrong with the first,
        and may ask again for one behind it."""
        results: list[dict[str, Any]] = []
        for data in several:
            try:
                results.append(self._one_call(data))
            except Exception:
                if not results:
                    raise
                break
        return results

    def _one_call(self, data: dict[str, Any]) -> dict[str, Any]:
        request = CallRequest.from_json(data)
        left = request.timeout

        def within(work: Callable[[], Any]) -> Any:
            """What the tool does between launches (poison, compare) is not the kernel's doing."""
            nonlocal left
            begin = time.monotonic()
            try:
                return self._within(max(left, 1e-3), work)
            finally:
                left -= time.monotonic() - begin

        return to_json(self._runner.call(request, within))

    def _chain(self, data: dict[str, Any]) -> dict[str, Any]:
        request = ChainRequest.from_json(data)
        return to_json(self._runner.chain(request, partial(self._within, request.timeout)))

    def _within(self, seconds: float, work: Callable[[], Any]) -> Any:
        """Do something within a deadline that the operating system keeps: an endless loop in native
        code hears nothing else, and the client may be on another machine.  The default action of
        SIGALRM ends the process."""
        with self._recorder.within(seconds):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                return work()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _versions() -> dict[str, str]:
    """What is installed; a board may have TVM's runtime library alone."""
    found = {}
    for name in ("apache-tvm", "apache-tvm-ffi", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
