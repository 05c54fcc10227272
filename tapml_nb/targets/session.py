"""The notebook's side of a target: one supervised session that survives its target.

Control goes over TVM's RPC in small text calls; tensors go over a plain socket beside it.  The
notebook holds no remote TVM objects but the connection and a handful of functions, so that a dead
one can be dropped whole and a new one put in its place: the next use does that by itself.

Two clocks keep a kernel's deadline.  The target's own alarm ends its process wherever it runs;
the watchdog here acts a moment later, for the case that the target, or the way to it, is too far
gone for that.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.owner import Owner, finalize
from tapml_nb.targets.connection import Connection
from tapml_nb.targets.devices import GONE
from tapml_nb.targets.errors import LossReason, TargetError, TargetLost
from tapml_nb.targets.guard import HIT
from tapml_nb.targets.process import LocalServer
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.watchdog import Watchdog

_CONTROL_SECONDS = 70.0
"""Deadline of everything but kernel calls and transfers; the target's own for a load is 60."""

PAGE_SECONDS = 600.0
"""How long to wait for a browser's page."""

_SLOWEST = 1e6
"""Bytes per second that a transfer may take, beside its deadline."""

_LOCAL_GRACE = 0.15
_REMOTE_GRACE = 2.0
"""How much later than the target itself the notebook's watchdog acts, in seconds."""

_REPORT_SECONDS = 2.0
"""How long to wait for the server's word on how a session ended (at once, mostly)."""

_GONE_SECONDS = 20.0
"""How long not to try again to reach a server that does not come back."""

State = Literal["idle", "connected", "lost", "closed"]


@dataclass(frozen=True)
class CallResult:
    """What a kernel call answered.

    Attributes:
        ms: milliseconds per run.
        deterministic: per output, whether all runs agreed.
        identical: per output, whether it equals its reference (None: not compared).
        spoiled: inputs that the kernel wrote to, found when it runs more than once; the target
            has dropped them.
        stale: where runs differ, whether it is by what memory held before they began.
        overruns: what a guarded kernel wrote beyond its buffers, in words.
        notes: what it did beside its work that is no fault of its results, in words.
    """

    ms: list[float]
    deterministic: list[bool]
    identical: list[bool | None]
    spoiled: list[str]
    stale: bool = False
    overruns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ChainCall:
    """One kernel of a chain, by the keys of its inputs and outputs; ``numbers`` as for a call.

    Without a ``kernel`` it is a view: the output is the input's memory with this shape and dtype.
    """

    kernel: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class TargetStartedEvent:
    """The target's session runs, for the first time or again; ``seconds``: what that took."""

    address: str
    pid: int
    seconds: float


@dataclass(frozen=True)
class TargetLostEvent:
    """The target's session ended on its own."""

    reason: LossReason
    detail: str


@dataclass(frozen=True)
class TargetAwaitedEvent:
    """The session waits for a browser to open ``link``, or for the notebook's own page."""

    link: str


TargetEvent = TargetStartedEvent | TargetLostEvent | TargetAwaitedEvent


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
        self,
        target: Target,
        *,
        machine: str = "",
        on_event: Callable[[TargetEvent], None] = lambda event: None,
    ) -> None:
        """Nothing is started before the first use.

        Args:
            target: where it is and what it is.
            machine: what its processor has to be, by ``platform.machine()``; "" for any.
            on_event: told of every start and loss, on the thread that uses the session.
        """
        self.target = target
        self.machine = machine
        self.state: State = "idle"
        self.bytes_sent = self.bytes_received = self.calls = self.restarts = 0
        self._on_event = on_event
        self._server: LocalServer | None = None
        self._connection: Connection | None = None
        self._libraries: dict[Path, list[Kernel]] = {}
        self._home: dict[str, Path] = {}
        self._lock = threading.RLock()
        self._busy = self._interrupted = False
        self._was_plain = False
        self._gone_until = 0.0
        self._watchdog = Watchdog(self._sever)
        self._owner = Owner()
        finalize(self, self._watchdog.close)

    # -- life --------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the target is; empty before it was first used."""
        if not self.target.local:
            host, port, _ = self.target.address
            return f"{host}:{port}"
        return f"127.0.0.1:{self._server.port}" if self._server else ""

    @property
    def link(self) -> str:
        """The page that becomes the target in the browser that opens it; starts the server.

        Raises:
            RuntimeError: if the target is no browser.
        """
        if self.target.rpc != BROWSER:
            raise RuntimeError("the target is no browser")
        self._local_address()
        assert self._server
        return self._server.link

    @property
    def platform(self) -> dict[str, Any]:
        """What the target says of itself (``pid``, ``machine``, ``cpus``, ``versions``)."""
        return self._connected().platform

    def start(self) -> None:
        """Bring the target up if it is not.  Every other method does this by itself.

        Raises:
            TargetLost: if it cannot be reached.
            TargetError: if it is none of ours.
            RuntimeError: if the session is closed.
        """
        self._connected()

    def close(self) -> None:
        """End the session, and the server if it is ours.  Idempotent; from any thread."""
        if self._owner.elsewhere:
            return
        with self._lock:
            if self._closed:
                return
            self.state = "closed"
            if self._busy:  # on another thread, which then drops the connection itself
                self._interrupted = True
                self._sever()
            else:
                self._drop_connection()
            server = self._server
        if server:
            server.close()
        self._watchdog.close()

    def interrupt(self) -> None:
        """Break off the call that is going on, if any; it raises ``TargetLost("interrupted")``."""
        with self._lock:
            if self._busy:
                self._interrupted = True
                self._sever()

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
        connection = self._connection
        return connection is not None and key in connection.resident

    def put(self, key: str, array: np.ndarray) -> int:
        """Send a tensor under a key that stands for its content; one that is there is not sent.

        Returns:
            The bytes sent.

        Raises:
            TargetError: if the target has no room for it, or does not know its dtype.
            TargetLost: if the target is lost meanwhile.
        """
        connection = self._connected()
        if key in connection.resident:
            return 0
        seconds = _CONTROL_SECONDS + array.nbytes / _SLOWEST
        sent: int = self._guarded(seconds, lambda: connection.bulk.put(key, array))
        connection.resident.add(key)
        self.bytes_sent += sent
        return sent

    def fetch(self, key: str) -> np.ndarray:
        """Fetch a tensor.

        Raises:
            KeyError: if it is not there.
            TargetLost: if the target is lost meanwhile.
        """
        connection = self._connected()
        array: np.ndarray = self._guarded(_CONTROL_SECONDS, lambda: connection.bulk.get(key))
        self.bytes_received += array.nbytes
        return array

    def load(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Load a library of kernels; after a restart it is loaded again when it is needed.

        Raises:
            TargetError: if the target cannot load it; with its reason.
            TargetLost: if loading kills it.
        """
        connection = self._connected()
        if library in connection.loaded:
            return
        known = library in self._libraries
        self._load(connection, library, self._libraries[library] if known else list(kernels))
        self.know(library, kernels)

    def know(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Take note of a library that another session has loaded; loaded when it is needed."""
        self._libraries.setdefault(library, list(kernels))
        self._home.update((kernel.key, library) for kernel in kernels)

    def call(
        self,
        kernel: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[str | None] = (),
        *,
        repeats: int = 2,
        numbers: Sequence[int] = (),
        timeout: float | None = None,
    ) -> CallResult:
        """Run a loaded kernel on resident tensors.

        Args:
            kernel: its key.
            inputs: a key for each parameter.
            outputs: keys under which the last run's outputs stay; where the first run's differ,
                they stay under the key with ``#1`` behind it.
            references: for each output a resident tensor to compare with bit for bit, or None;
                empty to compare none.
            repeats: how often to run; all memory that it writes is poisoned before each run.
            numbers: sizes that the kernel cannot read off its inputs.
            timeout: seconds for all runs together; default the target's.

        Raises:
            ValueError: if ``repeats`` is below 1.
            TargetError: if the kernel raises.
            TargetLost: if it kills the target, or takes too long.
        """
        if repeats < 1:
            raise ValueError(f"repeats: {repeats}; a call runs at least once")
        seconds = self.target.timeout if timeout is None else timeout
        connection = self._connected()
        self._reload(connection, kernel)
        self.calls += 1
        request = {
            "kernel": kernel,
            "inputs": list(inputs),
            "outputs": list(outputs),
            "references": list(references) or [None] * len(outputs),
            "repeats": repeats,
            "numbers": list(numbers),
            "timeout": seconds,
        }
        if self.target.guard:
            request["guard"] = True
        answer = self._remote(connection, "tapml.call", json.dumps(request), seconds=seconds)
        result = CallResult(**json.loads(answer))
        connection.resident.difference_update(result.spoiled)
        for key, same in zip(outputs, result.deterministic, strict=True):
            connection.resident.add(key)
            connection.resident.discard(f"{key}#1")
            if not same:
                connection.resident.add(f"{key}#1")
        return result

    def chain(self, calls: Sequence[ChainCall], keep: Sequence[str]) -> list[str]:
        """Run loaded kernels one after the other as a deployed model would: memory is not
        poisoned and freed after its last use, and nothing is looked at in between.

        Args:
            calls: the kernels, in order; each reads resident tensors and what those before it
                have made.
            keep: what stays under its key; all else that the chain makes is gone after it.

        Returns:
            Keys of the tensors, resident before, that kernels wrote to; they are dropped.

        Raises:
            TargetError: if a kernel raises.
            TargetLost: if one kills the target, or takes longer than the target's timeout.
        """
        seconds = self.target.timeout
        connection = self._connected()
        for call in calls:
            if call.kernel:
                self._reload(connection, call.kernel)
        self.calls += sum(call.kernel is not None for call in calls)
        request = {
            "calls": [asdict(call) for call in calls],
            "keep": list(keep),
            "timeout": seconds,
        }
        text = self._remote(
            connection, "tapml.chain", json.dumps(request), seconds=seconds * max(1, len(calls))
        )
        spoiled: list[str] = json.loads(text)
        connection.resident.difference_update(spoiled)
        connection.resident.update(keep)
        return spoiled

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of one resident tensor against another, computed where they are.

        Fields as in :class:`tapml_nb.numerics.Statistics`.
        """
        text = self._remote(self._connected(), "tapml.statistics", output, reference)
        answer: dict[str, float] = json.loads(text)
        return answer

    def drop(self, keys: Sequence[str]) -> None:
        """Free tensors; keys that are not there are fine."""
        connection = self._connection
        held = [key for key in keys if self.resident(key)]
        if connection is None or not held:
            return
        try:
            self._remote(connection, "tapml.drop", json.dumps(held))
        except TargetLost:
            return  # and they with it
        connection.resident.difference_update(held)

    def held(self) -> int:
        """Bytes of all tensors on the target."""
        return int(self._remote(self._connected(), "tapml.held"))

    # -- starting ----------------------------------------------------------------------------------

    @property
    def _pid(self) -> int:
        """The session's process; 0 while there is none."""
        return self._connection.pid if self._connection else 0

    @property
    def _closed(self) -> bool:
        return self.state == "closed"

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the target session is closed")

    def _connected(self) -> Connection:
        """The connection, made if there is none."""
        with self._lock:
            self._refuse_if_closed()
            if self._connection is not None:
                return self._connection
        again = self.state == "lost"
        begin = time.monotonic()
        host, port, key = self._local_address() if self.target.local else self.target.address
        if time.monotonic() < self._gone_until:
            raise TargetLost("connection", f"{self.address} does not come back; restart it")
        scheme = self.target.scheme
        try:
            made = Connection(host, port, key, local=self._server is not None, scheme=scheme)
        except TargetLost:
            if self._was_plain:  # TVM's own server takes no one after a crash: ask no more in vain
                self._gone_until = time.monotonic() + _GONE_SECONDS
            raise
        connection = self._adopt(made)
        try:
            self._open_service(connection)
        except TargetError:
            self._drop_connection()
            raise
        self._was_plain = connection.plain
        found = connection.platform["machine"]
        if self.machine and found and self.machine != found:
            self._drop_connection()
            raise TargetError(
                f"the server at {self.address} is {found}, and kernels are compiled for "
                f"{self.machine}; give its Target a tvm_target with the mtriple of {found}"
            )
        if self.target.guard and not connection.platform.get("guard"):
            self._drop_connection()
            raise TargetError(
                f"the server at {self.address} cannot guard memory; use 'tapml serve'"
            )
        with self._lock:
            self._refuse_if_closed()
            self.state = "connected"
        self.restarts += again
        self._on_event(TargetStartedEvent(self.address, self._pid, time.monotonic() - begin))
        return connection

    def _open_service(self, connection: Connection) -> None:
        kind, number = self.target.kind, self.target.device
        seconds = _CONTROL_SECONDS
        if self.target.rpc == BROWSER:
            kind, seconds = BROWSER, PAGE_SECONDS
            self._on_event(TargetAwaitedEvent(self.link))
        try:
            self._guarded(seconds, lambda: connection.open_service(kind, number, seconds))
        except TargetLost as lost:
            if kind == BROWSER and lost.reason == "timeout":
                why = f"no page came within {seconds:g} s; open {self.link} and run again"
                raise TargetLost("connection", why) from None
            raise

    def _local_address(self) -> tuple[str, int, str]:
        """A server of our own that is alive."""
        server = self._server
        if server is None or not server.alive:
            if server:
                server.close()
            # Pages come back to where they found the last one.
            before = server if self.target.rpc == BROWSER else None
            server = LocalServer(before, self._heed_end)
            with self._lock:
                self._server = server
            if self._closed:
                server.close()
            self._refuse_if_closed()
        return "127.0.0.1", server.port, server.token

    def _adopt(self, connection: Connection) -> Connection:
        """From here on the connection can be severed."""
        with self._lock:
            self._connection = connection
            if self._closed:
                self._drop_connection()
            self._refuse_if_closed()
        return connection

    def _reload(self, connection: Connection, kernel: str) -> None:
        """Load a kernel's library again if the target was lost since."""
        library = self._home.get(kernel)
        if library is not None and library not in connection.loaded:
            self._load(connection, library, self._libraries[library])

    def _load(self, connection: Connection, library: Path, kernels: list[Kernel]) -> None:
        name = str(library)
        if not self.target.local:
            content = library.read_bytes()
            name = f"{len(connection.loaded)}-{library.name}"
            self._guarded(
                _CONTROL_SECONDS + len(content) / _SLOWEST,
                lambda: connection.bulk.file(name, content),
            )
            self.bytes_sent += len(content)
        plans = json.dumps([asdict(kernel) for kernel in kernels])
        # A driver that compiles for itself takes its time for each kernel.
        seconds = _CONTROL_SECONDS * (len(kernels) if self.target.kind in SOURCE_KINDS else 1)
        self._remote(connection, "tapml.load", name, plans, seconds=seconds)
        connection.loaded.add(library)

    # -- one thing at a time, within its time ------------------------------------------------------

    def _remote(
        self,
        connection: Connection,
        name: str,
        *arguments: str,
        seconds: float = _CONTROL_SECONDS,
    ) -> Any:
        return self._guarded(seconds, lambda: connection.remote(name, *arguments))

    def _guarded(self, seconds: float, work: Callable[[], Any]) -> Any:
        """Do something remote within its time; whatever breaks the connection is a loss."""
        with self._lock:
            self._refuse_if_closed()
            self._busy, self._interrupted = True, False
        grace = _LOCAL_GRACE if self.target.local else _REMOTE_GRACE
        problem = ""
        answer: Exception | None = None
        try:
            with self._watchdog.guard(seconds + grace) as guard:
                result = work()
        except (TargetError, KeyError) as error:  # the connection is in step
            answer = error
        except Exception as error:
            problem = " ".join(str(error).split()) or type(error).__name__
        except BaseException:
            # Ctrl-C in the middle of a call leaves an answer in the stream: never use it again.
            self._sever()
            self._lose("interrupted", "by the keyboard")
            raise
        finally:
            with self._lock:
                self._busy = False
        if problem or guard.bitten or self._interrupted:
            reason, detail = self._classify(problem, seconds, late=guard.bitten)
            self._lose(reason, detail)
            raise TargetLost(reason, detail)
        if answer is not None:
            raise answer
        return result

    def _classify(self, problem: str, seconds: float, *, late: bool) -> tuple[LossReason, str]:
        """Find out why a connection broke."""
        if self._interrupted:
            return "interrupted", "the call was broken off"
        no_answer = f"no answer within {seconds:g} s"
        if late:
            return "timeout", no_answer
        if self._connection and self._connection.plain:
            return "crash", "the connection broke; TVM's own servers do not say why"
        report = self._report()
        if report is None:
            if self._server and not self._server.alive:
                return "killed", "the target server was killed"
            return "connection", problem
        if report["signal"] == signal.SIGALRM:
            return "timeout", no_answer
        name = signal.Signals(report["signal"]).name if report["signal"] else ""
        said = _telling(report["log"])
        if report["code"] == GONE:
            return "killed", _telling(report["log"]).removeprefix(": ")
        if report["signal"] in (signal.SIGKILL, signal.SIGTERM):
            return "killed", f"by {name}{said}"
        return "crash", f"{name or 'exit status {}'.format(report['code'])}{said}"

    def _report(self) -> dict[str, Any] | None:
        """The server's word on how the session's process ended, if it has one."""
        pid = self._pid
        if not pid:  # it never said hello
            return None
        if self._server:
            return self._server.exit_of(pid, _REPORT_SECONDS)
        # A server elsewhere is asked in a new session, for we do not hear its events.
        deadline = time.monotonic() + _REPORT_SECONDS
        report: dict[str, Any] | None = None
        while report is None and time.monotonic() < deadline:
            self._drop_connection()
            try:
                connection = self._adopt(Connection(*self.target.address, local=False))
                with self._watchdog.guard(_REPORT_SECONDS):
                    report = json.loads(connection.remote("tapml.exit_of", str(pid)))
            except Exception:  # it is gone
                return None
            time.sleep(0.02)  # the listener had not noticed yet
        return report

    def _lose(self, reason: LossReason, detail: str) -> None:
        with self._lock:
            self._drop_connection()
            if self._closed:
                return
            self.state = "lost"
        self._on_event(TargetLostEvent(reason, detail))

    def _drop_connection(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _heed_end(self, pid: int) -> None:
        """The process of some session, or (0) the server itself, has ended: wait no longer for
        it, for what a kernel has left may hold the line open."""
        connection = self._connection
        if connection and pid in (0, connection.pid):
            connection.sever()

    def _sever(self) -> None:
        connection = self._connection
        if connection:
            connection.sever()


def _telling(log: str) -> str:
    """What a dying session's log tells: the kernel function it died in, else its last words.

    TVM's signal handler writes a stack trace; of that, only our kernels' frames mean something.
    """
    hit = re.search(f"^{HIT}(.*)$", log, re.MULTILINE)
    if hit:
        return f" at a guard page: {hit[1]}"
    inside = re.search(r"\bk[0-9a-f]{16}_(\w+?)(_compute_)?\b", log)
    if inside:
        return f" in {inside[1]}"
    words = [line for line in log.splitlines() if not line.lstrip().startswith(("File", "!!!"))]
    return f": {words[-1].strip()}" if words else ""
