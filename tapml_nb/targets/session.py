"""The notebook's side of a target: one supervised session that survives its target.

Control goes over TVM's RPC in small text calls; tensors go over a plain socket beside it.  The
notebook holds no remote TVM objects but the session and a handful of functions, so that a dead
session can be dropped whole and a new one put in its place: the next use does that by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from tapml_nb.compile.kernel import Kernel
from tapml_nb.targets.bulk import BulkClient
from tapml_nb.targets.errors import LossReason, TargetError, TargetLost
from tapml_nb.targets.process import LocalServer
from tapml_nb.targets.spec import Target
from tapml_nb.targets.watchdog import Watchdog

_CONNECT_SECONDS = 10.0
_CONTROL_SECONDS = 60.0
"""Deadline of everything but kernel calls: loading a library, moving a tensor."""

_GRACE_SECONDS = 1.0
"""How much later than the target itself the notebook's watchdog acts."""

State = Literal["idle", "connected", "lost", "closed"]


@dataclass(frozen=True)
class CallResult:
    """What a kernel call answered: milliseconds per run; per output, whether all runs agreed
    and whether it equals its reference (None: not compared)."""

    ms: list[float]
    deterministic: list[bool]
    identical: list[bool | None]


@dataclass(frozen=True)
class TargetStartedEvent:
    """The target's session runs, for the first time or again."""

    address: str
    pid: int


@dataclass(frozen=True)
class TargetLostEvent:
    """The target's session ended on its own."""

    reason: LossReason
    detail: str


class TargetSession:
    """A target, always behind a process boundary.

    Methods are called from one thread at a time; :meth:`interrupt`, :meth:`close` and the
    counters from any.

    Attributes:
        bytes_sent: tensor and library bytes sent so far.
        bytes_received: tensor bytes fetched so far.
        calls: kernel calls made.
        restarts: how often the session had to be made anew.
    """

    def __init__(
        self, target: Target, on_event: Callable[[Any], None] = lambda event: None
    ) -> None:
        self.target = target
        self.state: State = "idle"
        self.bytes_sent = self.bytes_received = self.calls = self.restarts = 0
        self._on_event = on_event
        self._server: LocalServer | None = None
        self._rpc: Any = None
        self._functions: dict[str, Any] = {}
        self._bulk: BulkClient | None = None
        self._pid = 0
        self._sockets: list[int] = []
        self._resident: set[str] = set()
        self._libraries: dict[Path, list[Kernel]] = {}
        self._interrupted = False
        self._watchdog = Watchdog(self._break_off)
        self._lock = threading.RLock()

    # -- life --------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the target is; empty before it was first used."""
        if self.target.rpc:
            host, port, _ = self.target.address
            return f"{host}:{port}"
        return f"127.0.0.1:{self._server.port}" if self._server else ""

    def start(self) -> None:
        """Bring the target up if it is not.  Every other method does this by itself.

        Raises:
            TargetLost: if it cannot be reached.
            RuntimeError: if the session is closed.
        """
        if self.state == "connected":
            return
        if self.state == "closed":
            raise RuntimeError("the target session is closed")
        again = self.state == "lost"
        self._connect()
        self.state = "connected"
        self.restarts += again
        self._on_event(TargetStartedEvent(self.address, self._pid))
        for library, kernels in self._libraries.items():
            self._send_library(library, kernels)

    def close(self) -> None:
        """End the session, and the server if it is ours.  Idempotent; from any thread."""
        with self._lock:
            if self.state == "closed":
                return
            if self._rpc is not None and self._server:
                self._break_off()
            self.state = "closed"
            self._discard()
            if self._server:
                self._server.close()
        self._watchdog.close()

    def interrupt(self) -> None:
        """Break off the call that is going on; it raises ``TargetLost("interrupted", …)``."""
        self._interrupted = True
        self._break_off()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- use ---------------------------------------------------------------------------------------

    def resident(self, key: str) -> bool:
        """Whether the target holds a tensor under this key."""
        return key in self._resident

    def put(self, key: str, array: np.ndarray) -> int:
        """Send a tensor under a key that stands for its content; one that is there is not sent.

        Returns:
            The bytes sent.

        Raises:
            TargetLost: if the target is lost meanwhile.
        """
        self.start()
        if key in self._resident:
            return 0
        sent: int = self._guarded(_CONTROL_SECONDS, lambda: self._bulk_client().put(key, array))
        self._resident.add(key)
        self.bytes_sent += sent
        return sent

    def fetch(self, key: str) -> np.ndarray:
        """Fetch a tensor.

        Raises:
            KeyError: if it is not there.
            TargetLost: if the target is lost meanwhile.
        """
        self.start()
        array: np.ndarray = self._guarded(_CONTROL_SECONDS, lambda: self._bulk_client().get(key))
        self.bytes_received += array.nbytes
        return array

    def load(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Load a library of kernels; it is loaded again by itself after every restart.

        Raises:
            TargetError: if the target cannot load it; with its reason.
            TargetLost: if loading kills it.
        """
        self.start()
        if library not in self._libraries:
            self._send_library(library, list(kernels))
            self._libraries[library] = list(kernels)

    def call(
        self,
        kernel: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[str | None],
        *,
        repeats: int = 2,
    ) -> CallResult:
        """Run a loaded kernel on resident tensors.

        Args:
            kernel: its key.
            inputs: a key for each parameter.
            outputs: keys under which the last run's outputs stay; where the first run's differ,
                they stay under the key with ``#1`` behind it.
            references: for each output a resident tensor to compare with bit for bit, or None.
            repeats: how often to run; all memory that it writes is poisoned before each run.

        Raises:
            TargetError: if the kernel raises.
            TargetLost: if it kills the target, or takes longer than the target's timeout.
        """
        self.start()
        self.calls += 1
        request = {
            "kernel": kernel,
            "inputs": list(inputs),
            "outputs": list(outputs),
            "references": list(references),
            "repeats": repeats,
            "timeout": self.target.timeout,
        }
        answer = self._remote("tapml.call", json.dumps(request), seconds=self.target.timeout)
        result = CallResult(**json.loads(answer))
        for key, same in zip(outputs, result.deterministic, strict=True):
            self._resident.add(key)
            if not same:
                self._resident.add(f"{key}#1")
        return result

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of one resident tensor against another, computed where they are.

        Fields as in :class:`tapml_nb.numerics.Statistics`.
        """
        self.start()
        answer: dict[str, float] = json.loads(self._remote("tapml.statistics", output, reference))
        return answer

    def drop(self, keys: Sequence[str]) -> None:
        """Free tensors; keys that are not there are fine."""
        held = [key for key in keys if key in self._resident]
        if held and self.state == "connected":
            self._remote("tapml.drop", json.dumps(held))
        self._resident.difference_update(held)

    def held(self) -> int:
        """Bytes of all tensors on the target."""
        self.start()
        return int(self._remote("tapml.held"))

    # -- the connection ----------------------------------------------------------------------------

    def _connect(self) -> None:
        if self.target.rpc:
            host, port, key = self.target.address
        else:
            if self._server is None or not self._server.alive:
                if self._server:
                    self._server.close()
                self._server = LocalServer()
            host, port, key = "127.0.0.1", self._server.port, self._server.token
        before = _socket_fds(port)
        self._rpc = _connect_rpc(host, port, key)
        self._sockets = [fd for fd in _socket_fds(port) if fd not in before]
        self._interrupted = False
        self._pid = json.loads(self._remote("tapml.hello"))["pid"]
        bulk = json.loads(self._remote("tapml.bulk"))
        self._bulk = self._guarded(
            _CONNECT_SECONDS,
            lambda: BulkClient(host, bulk["port"], bulk["token"], _CONTROL_SECONDS),
        )

    def _send_library(self, library: Path, kernels: list[Kernel]) -> None:
        name = str(library)
        if self.target.rpc:
            content = library.read_bytes()
            name = f"{library.stem}-{id(library)}-{self.restarts}.so"
            self._guarded(_CONTROL_SECONDS, lambda: self._bulk_client().file(name, content))
            self.bytes_sent += len(content)
        self._remote("tapml.load", name, json.dumps([asdict(kernel) for kernel in kernels]))

    def _bulk_client(self) -> BulkClient:
        assert self._bulk is not None
        return self._bulk

    def _remote(self, name: str, *arguments: str, seconds: float = _CONTROL_SECONDS) -> Any:
        return self._guarded(seconds, lambda: self._function(name)(*arguments))

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            self._functions[name] = self._rpc.get_function(name)
        return self._functions[name]

    def _guarded(self, seconds: float, work: Callable[[], Any]) -> Any:
        """Do something remote within its time; whatever breaks the connection is a loss."""
        try:
            with self._watchdog.guard(seconds + _GRACE_SECONDS):
                return work()
        except KeyError:
            raise
        except Exception as error:
            if _is_remote_error(error):
                raise TargetError(_remote_message(error)) from None
            text = str(error)
        except BaseException:
            # Ctrl-C in the middle of a call leaves an answer in the stream: never use it again.
            self._break_off()
            self._lose()
            raise
        raise self._loss(text)

    def _loss(self, text: str) -> TargetLost:
        """Find out why the connection broke, and leave it behind."""
        bitten, pid = self._watchdog.bitten, self._pid
        self._lose()
        report = self._server.exit_of(pid, 2.0) if self._server else self._ask_exit_of(pid)
        reason, detail = self._classify(report, text, bitten)
        self._on_event(TargetLostEvent(reason, detail))
        return TargetLost(reason, detail)

    def _ask_exit_of(self, pid: int) -> dict[str, Any] | None:
        """Ask a server on another machine, in a new session, how the last one ended."""
        interrupted = self._interrupted
        report: dict[str, Any] | None = None
        for _ in range(10):
            try:
                self._connect()
                report = json.loads(self._function("tapml.exit_of")(str(pid)))
            except Exception:  # it is gone, or a server that does not know
                break
            finally:
                self._discard()
            if report is not None:
                break
            time.sleep(0.02)  # the listener has not noticed yet
        self._interrupted = interrupted
        return report

    def _classify(
        self, report: dict[str, Any] | None, text: str, bitten: bool
    ) -> tuple[LossReason, str]:
        late = f"no answer within {self.target.timeout:g} s"
        if self._interrupted:
            return "interrupted", "the call was broken off"
        if bitten:
            return "timeout", late
        if report is None:
            if self._server and not self._server.alive:
                return "killed", "the target server was killed"
            return ("killed" if self._server else "connection"), text.splitlines()[-1]
        log = _telling(report["log"])
        if report["signal"] == signal.SIGALRM:
            return "timeout", late
        if report["signal"] in (signal.SIGKILL, signal.SIGTERM):
            return "killed", f"by {signal.Signals(report['signal']).name}{log}"
        if report["signal"]:
            return "crash", f"{signal.Signals(report['signal']).name}{log}"
        return "crash", f"exit status {report['code']}{log}"

    def _lose(self) -> None:
        self._discard()
        if self.state != "closed":
            self.state = "lost"

    def _discard(self) -> None:
        """Drop everything that belongs to a session: at most 32 fit into a client process."""
        self._functions.clear()
        self._resident.clear()
        if self._bulk:
            self._bulk.close()
        self._rpc = self._bulk = None
        self._sockets = []

    def _break_off(self) -> None:
        """End the session's process, or cut the line to it; the call in progress then returns."""
        if self._server:
            if self._pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            return
        for descriptor in self._sockets:
            with contextlib.suppress(OSError):
                duplicate = socket.socket(fileno=os.dup(descriptor))
                duplicate.shutdown(socket.SHUT_RDWR)
                duplicate.close()
        if self._bulk:
            with contextlib.suppress(OSError):
                self._bulk.connection.shutdown(socket.SHUT_RDWR)


def _connect_rpc(host: str, port: int, key: str) -> Any:
    """``tvm.rpc.connect`` within a time limit of its own; it has none.

    Raises:
        TargetLost: if the server does not answer, or refuses.
    """
    from tvm import rpc

    answer: list[Any] = []

    def connect() -> None:
        try:
            answer.append(rpc.connect(host, port, key))
        except Exception as error:
            answer.append(str(error).strip().splitlines()[-1])

    deadline = time.monotonic() + _CONNECT_SECONDS
    thread = threading.Thread(target=connect, name="tapml-connect", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not answer:
        raise TargetLost("connection", f"{host}:{port} does not answer")
    if isinstance(answer[0], str):
        raise TargetLost("connection", f"{host}:{port}: {answer[0]}")
    return answer[0]


def _telling(log: str) -> str:
    """What a dying session's log tells: the kernel function it died in, else its last words.

    TVM's signal handler writes a stack trace; of that, only our kernels' frames mean something.
    """
    inside = re.search(r"\bk[0-9a-f]{16}_(\w+?)(_compute_)?\b", log)
    if inside:
        return f" in {inside[1]}"
    words = [line for line in log.splitlines() if not line.lstrip().startswith(("File", "!!!"))]
    return f": {words[-1].strip()}" if words else ""


def _socket_fds(port: int) -> list[int]:
    """File descriptors of this process that are connected to a port."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as duplicate:
                    internet = duplicate.family in (socket.AF_INET, socket.AF_INET6)
                    if internet and duplicate.getpeername()[1] == port:
                        found.append(int(name))
    return found


def _is_remote_error(error: Exception) -> bool:
    """Whether the target answered with an error, as against not answering."""
    return type(error).__name__ == "RPCError"


def _remote_message(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
