"""The notebook's side of a target: one supervised session that survives its target.

Control goes over TVM's RPC in small text calls; tensors go over a plain socket beside it.  The
notebook holds no remote TVM objects but the connection and a handful of functions, so that a dead
one can be dropped whole and a new one put in its place: the next use does that by itself.

Two clocks keep a kernel's deadline.  The target's own alarm ends its process wherever it runs;
the watchdog here acts a moment later, for the case that the target, or the way to it, is too far
gone for that.  It looks first at what the target is at: only a launch that is open for too long is
the kernel's fault.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.sources import SOURCE_KINDS
from tapml_nb.owner import Owner, finalize
from tapml_nb.targets.client.connection import Connection, ask, parsed
from tapml_nb.targets.client.local_server import LocalServer
from tapml_nb.targets.client.watchdog import Watchdog
from tapml_nb.targets.devices.base import GONE
from tapml_nb.targets.server.guard import HIT
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    LossReason,
    NoTensor,
    Rejected,
    TargetError,
    TargetLost,
)
from tapml_nb.targets.wire.recorder import CLOSED, HUNG_UP, Record

_CONTROL_SECONDS = 70.0
"""Deadline of everything but kernel calls and transfers; the target's own for a load is 60."""

PAGE_SECONDS = 600.0
"""How long to wait for a browser's page."""

_SLOWEST = 1e6
"""Bytes per second that a transfer may take, beside its deadline."""

_GREETING_SECONDS = 20.0
"""What a server may take to say who it is."""

_AT_ONCE = 9.0
"""A server that fails to answer sooner than this is asked once more: a byte may have gone wrong."""

_LOCAL_GRACE = 0.15
_REMOTE_GRACE = 2.0
"""How much later than the target itself the notebook's watchdog acts, in seconds."""

_REPORT_SECONDS = 2.0
"""How long to wait for the server's word on how a session ended (at once, mostly)."""

_GONE_SECONDS = 20.0
"""How long not to try again to reach a server that does not come back."""

_NO_WORD = "the connection broke while it ran; TVM's own servers do not say why"

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

    @classmethod
    def parse(cls, text: Any, outputs: int) -> Self:
        """The result of what a target answered; fields that are not known here are passed over.

        Raises:
            Garbled: if it is no result of a kernel with so many outputs.
        """
        answer = parsed(text)
        try:
            known = {one.name: answer[one.name] for one in fields(cls)}
        except KeyError as missing:
            raise Garbled(f"an answer without {missing}") from None
        result = cls(**known)
        if not len(result.deterministic) == len(result.identical) == outputs:
            raise Garbled("an answer for another kernel")
        return result


class _Library:
    """A library of kernels that outlives its file: temporary folders are swept."""

    def __init__(self, path: Path, kernels: Sequence[Kernel]) -> None:
        """Hold on to a file.

        Raises:
            FileNotFoundError: if it is not there.
        """
        self.path = path
        self.kernels = list(kernels)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = finalize(self, os.close, self._file)

    def read(self) -> bytes:
        """Its content."""
        size = os.fstat(self._file).st_size
        return b"".join(os.pread(self._file, 1 << 24, start) for start in range(0, size, 1 << 24))

    def restore(self) -> None:
        """Put it back where it was, if it is gone.

        Raises:
            OSError: if there is no room for it.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.write_bytes(self.read())


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
        self._libraries: dict[Path, _Library] = {}
        self._home: dict[str, Path] = {}
        self._lock = threading.RLock()
        self._busy = self._interrupted = False
        self._was_plain = False
        self._suspect = ""
        self._seen: Record | None = None
        self._stopped = False
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
        for library in self._libraries.values():
            library.close()

    def interrupt(self) -> None:
        """Break off the call that is going on, if any; it raises ``TargetLost("interrupted")``."""
        with self._lock:
            if self._busy:
                self._interrupted = True
                self._sever()

    def renew(self) -> None:
        """Let go of the target's process; the next use begins with a fresh one, where nothing is
        resident and no kernel has run yet."""
        with self._lock:
            if self._connection is None or self._closed:
                return
            self.state = "lost"
        self._drop_connection()

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
        array: np.ndarray = self._guarded(
            _CONTROL_SECONDS, lambda: connection.bulk.get(key), resident=[key]
        )
        self.bytes_received += array.nbytes
        return array

    def load(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Load a library of kernels; after a restart it is loaded again when it is needed.

        Where the target fails for another reason than the library, this is done once more on a
        fresh connection.

        Raises:
            FileNotFoundError: if there is no such file.
            TargetError: if the target rejects it; with its reason.
            TargetLost: if loading kills it, or it cannot be done for another reason.
        """
        if library in self._connected().loaded:
            return
        known = self._libraries.get(library)
        loading = known or _Library(library, kernels)
        try:
            self._load_with_patience(loading)
        except BaseException:
            if not known:
                loading.close()
            raise
        self._keep(loading)

    def know(self, library: Path, kernels: Sequence[Kernel]) -> None:
        """Take note of a library that another session has loaded; loaded when it is needed.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        if library not in self._libraries:
            self._keep(_Library(library, kernels))

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
            KernelRaised: if the kernel raises.
            TargetError: if the target answers with another error.
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
        compared = [key for key in references if key]
        result: CallResult = self._guarded(
            seconds + _CONTROL_SECONDS,
            lambda: CallResult.parse(connection.remote("call", json.dumps(request)), len(outputs)),
            launch=seconds,
            resident=[*inputs, *compared],
        )
        self._suspect = ""
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
            KernelRaised: if a kernel raises.
            TargetError: if the target answers with another error.
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
        made = {key for call in calls for key in call.outputs}
        spoiled: list[str] = self._guarded(
            seconds * max(1, len(calls)) + _CONTROL_SECONDS,
            lambda: _keys(connection.remote("chain", json.dumps(request))),
            launch=seconds,
            resident=[key for call in calls for key in call.inputs if key not in made],
        )
        connection.resident.difference_update(spoiled)
        connection.resident.update(keep)
        return spoiled

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of one resident tensor against another, computed where they are.

        Fields as in :class:`tapml_nb.numerics.Statistics`.
        """
        connection = self._connected()
        answer: dict[str, float] = self._guarded(
            _CONTROL_SECONDS,
            lambda: parsed(connection.remote("statistics", output, reference)),
            resident=[output, reference],
        )
        return answer

    def drop(self, keys: Sequence[str]) -> TargetLost | None:
        """Free tensors; keys that are not there are fine.

        Returns:
            How the target was lost, if it was: then they are gone as well.
        """
        connection = self._connection
        held = [key for key in keys if self.resident(key)]
        if connection is None or not held:
            return None
        try:
            self._guarded(_CONTROL_SECONDS, lambda: connection.remote("drop", json.dumps(held)))
        except TargetLost as lost:
            return lost
        connection.resident.difference_update(held)
        return None

    def drop_all_but(self, keys: Collection[str]) -> None:
        """Free all tensors but these; whoever needs one of them sends it again."""
        if self._connection is not None:
            self.drop([key for key in self._connection.resident if key not in keys])

    def held(self) -> int:
        """Bytes of all tensors on the target."""
        connection = self._connected()
        return self._guarded(_CONTROL_SECONDS, lambda: _number(connection.remote("held")))  # type: ignore[no-any-return]

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
        """The connection, made if there is none.

        A server that is there and does not work is tried once more: if it is this session's own,
        another one is started in its place.
        """
        with self._lock:
            self._refuse_if_closed()
            if self._connection is not None:
                return self._connection
        begin = time.monotonic()
        try:
            return self._connect()
        except TargetLost as lost:
            at_once = time.monotonic() - begin < _AT_ONCE
            if lost.reason == "interrupted" or self.target.rpc == BROWSER or not self._ours:
                raise  # TVM's own server may take no one after a crash
            if not self.target.local and not at_once:
                raise
        self._replace_server()
        return self._connect()

    @property
    def _ours(self) -> bool:
        """Whether the server is one of ours, and not of TVM's."""
        return self.target.local or (not self.target.scheme and bool(self.target.address[2]))

    def _connect(self) -> Connection:
        again = self.state == "lost"
        begin = time.monotonic()
        host, port, key = self._local_address() if self.target.local else self.target.address
        if time.monotonic() < self._gone_until:
            raise TargetLost("connection", f"{self.address} does not come back; restart it")
        try:
            connection = self._adopt(self._reached(host, port, key))
        except TargetLost:
            if self._was_plain:  # TVM's own server takes no one after a crash: ask no more in vain
                self._gone_until = time.monotonic() + _GONE_SECONDS
            raise
        try:
            self._open_service(connection)
        except TargetError:
            self._drop_connection()
            raise
        self._was_plain = connection.plain
        found = connection.platform.get("machine")
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

    def _reached(self, host: str, port: int, key: str) -> Connection:
        local, scheme = self._server is not None, self.target.scheme
        return Connection(host, port, key, local=local, ours=self._ours, scheme=scheme)

    def _open_service(self, connection: Connection) -> None:
        kind, number = self.target.kind, self.target.device
        seconds = _CONTROL_SECONDS
        if self.target.rpc == BROWSER:
            kind, seconds = BROWSER, PAGE_SECONDS
            self._on_event(TargetAwaitedEvent(self.link))
        try:
            self._guarded(_GREETING_SECONDS, lambda: connection.greet(kind, number))
            self._guarded(seconds, lambda: connection.open_service(kind, number, seconds))
        except TargetLost as lost:
            if kind == BROWSER and lost.reason == "timeout":
                why = f"no page came within {seconds:g} s; open {self.link} and run again"
                raise TargetLost("connection", why) from None
            if lost.reason in ("crash", "timeout"):  # of the driver, for nothing of ours ran yet
                why = f"the session at {self.address} did not come up: {lost.detail}"
                raise TargetLost("machine", why) from None
            raise

    def _replace_server(self) -> None:
        """End this session's own server; the next use starts another."""
        if self._server:
            self._server.close()

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

    # -- libraries ---------------------------------------------------------------------------------

    def _keep(self, library: _Library) -> None:
        self._libraries[library.path] = library
        self._home.update((kernel.key, library.path) for kernel in library.kernels)

    def _reload(self, connection: Connection, kernel: str) -> None:
        """Load a kernel's library again if the target was lost since."""
        library = self._home.get(kernel)
        if library is not None and library not in connection.loaded:
            self._load(connection, self._libraries[library])

    def _load_with_patience(self, library: _Library) -> None:
        """Load a library; once more where that failed for another reason than its code."""
        try:
            self._load(self._connected(), library)
            return
        except (BeyondTarget, Rejected):
            raise
        except TargetError:
            self.renew()
        except TargetLost as lost:  # a process that has run kernels may die of what they left
            if lost.reason in ("interrupted", "timeout"):
                raise
        try:
            self._load(self._connected(), library)
        except (BeyondTarget, Rejected):
            raise
        except TargetError as error:
            raise TargetLost(
                "machine",
                f"the machine at {self.address} cannot load {library.path.name}, twice: {error}; "
                "see to its disk and memory, and run again",
            ) from None

    def _load(self, connection: Connection, library: _Library) -> None:
        name = str(library.path)
        if self.target.local:
            library.restore()
        else:
            content = library.read()
            name = f"{len(connection.loaded)}-{library.path.name}"
            self._guarded(
                _CONTROL_SECONDS + len(content) / _SLOWEST,
                lambda: connection.bulk.file(name, content),
            )
            self.bytes_sent += len(content)
        plans = json.dumps([asdict(kernel) for kernel in library.kernels])
        # A driver that compiles for itself takes its time for each kernel.
        count = len(library.kernels) if self.target.kind in SOURCE_KINDS else 1
        seconds = _CONTROL_SECONDS * count
        self._guarded(seconds, lambda: connection.remote("load", name, plans))
        connection.loaded.add(library.path)

    # -- one thing at a time, within its time ------------------------------------------------------

    def _guarded(
        self,
        seconds: float,
        work: Callable[[], Any],
        *,
        launch: float | None = None,
        resident: Collection[str] = (),
    ) -> Any:
        """Do something remote within its time; whatever breaks the connection is a loss.

        Args:
            seconds: for all of it.
            work: what.
            launch: seconds that a kernel in it may take; None if it launches none.
            resident: the tensors that it needs.
        """
        with self._lock:
            self._refuse_if_closed()
            self._busy, self._interrupted = True, False
            connection = self._connection
        self._seen, self._stopped = None, False
        grace = _LOCAL_GRACE if self.target.local else _REMOTE_GRACE
        begin = time.monotonic()
        end = begin + seconds + grace
        first = seconds if launch is None else min(launch, seconds)
        problem: Exception | None = None
        answer: TargetError | None = None
        try:
            with self._watchdog.guard(
                first + grace, lambda: self._patience(connection, launch, end, grace)
            ) as guard:
                result = work()
        except NoTensor as error:
            known = connection.resident if connection else set()
            answer = error
            if resident and known.issuperset(resident):  # we remember what it does not
                problem = Garbled("a tensor that was sent is not there any more")
        except TargetError as error:  # the connection is in step
            answer = error
        except Exception as error:
            problem = error
        except BaseException:
            # Ctrl-C in the middle of a call leaves an answer in the stream: never use it again.
            self._sever()
            self._lose(TargetLost("interrupted", "by the keyboard"))
            raise
        finally:
            with self._lock:
                self._busy = False
        if problem or guard.bitten or self._interrupted:
            deadline = seconds if launch is None else launch
            lost = self._classify(problem, deadline, time.monotonic() - begin, guard.bitten)
            self._lose(lost)
            raise lost from None
        if answer is not None:
            raise answer
        return result

    def _patience(
        self, connection: Connection | None, launch: float | None, end: float, grace: float
    ) -> float:
        """How much longer to wait for an answer that is late; on the watchdog's thread.

        What the tool does around a launch may take longer than the kernel may, and so may a line.
        """
        left = end - time.monotonic()
        if launch is None or connection is None:
            return left
        record, ended = self._record(connection)
        if ended:  # and the line has not told us
            return 0
        if record is None:  # not to be had now
            return min(left, 1)
        if record.doing == "launch":
            self._seen = record if record.seconds >= launch else None
            return 0 if self._seen else min(left, launch - record.seconds + grace)
        self._stopped = connection.stopped
        return 0 if self._stopped else min(left, max(grace, 0.1))

    def _record(self, connection: Connection) -> tuple[Record | None, bool]:
        """What the target is at, None if that cannot be found out; and whether it has ended."""
        if connection.plain:
            return connection.record, False
        if self._server:
            return self._server.record_of(connection.pid), connection.ended
        try:
            answer = ask(*self.target.address, connection.pid)
        except (OSError, TargetLost):
            return None, False
        return Record.of(answer.get("record")), "record" not in answer

    # -- losses ------------------------------------------------------------------------------------

    def _classify(
        self, problem: Exception | None, seconds: float, waited: float, late: bool
    ) -> TargetLost:
        """Find out why a connection broke.

        Args:
            problem: what happened, if something did.
            seconds: the deadline.
            waited: how long it has taken.
            late: whether the watchdog has broken it off.
        """
        connection = self._connection
        if self._interrupted or connection is None:
            return TargetLost("interrupted", "the call was broken off")
        no_answer, silence = f"no answer within {seconds:g} s", f"no answer for {waited:.0f} s"
        if late and self._seen:
            if connection.plain:
                return self._classify_plain(self._seen, "timeout", no_answer)
            return TargetLost("timeout", no_answer, running=self._seen.running)
        if connection.plain:
            return self._classify_plain(connection.record or Record(), "crash", _NO_WORD)
        if isinstance(problem, Garbled):
            self._sever()
            return self._broken(str(problem))
        if late and self._server:
            record = self._server.record_of(connection.pid)
            if record.doing or self._stopped:
                return TargetLost("timeout", no_answer, before=record.kernel)
            return self._broken(silence)
        report, record = self._report(connection)
        running, before = record.running, record.kernel
        if report is None:
            if self._server and not self._server.alive:
                why = "the target server was killed"
                return TargetLost("killed", why, running=running, before=before)
            if connection.ended:
                self._replace_server()  # it should have told how
            return self._broken(silence if late else _words(problem))
        if report["signal"] == signal.SIGALRM and record.doing:
            return TargetLost("timeout", no_answer, running=running, before=before)
        if report["code"] == HUNG_UP and not record.doing:
            return self._broken(silence if late else _words(problem))
        name = signal.Signals(report["signal"]).name if report["signal"] else ""
        said = _telling(report["log"])
        if report["code"] == GONE:
            return TargetLost("killed", said.removeprefix(": "), running=running, before=before)
        if report["signal"] in (signal.SIGKILL, signal.SIGTERM):
            return TargetLost("killed", f"by {name}{said}", running=running, before=before)
        if report["code"] == CLOSED:
            why = "it closed descriptors that are the target's own"
            return TargetLost("crash", why, running=before, before=before)
        how = name or f"exit status {report['code']}"
        return TargetLost("crash", f"{how}{said}", running=running, before=before)

    def _broken(self, what: str) -> TargetLost:
        """A loss that is nobody's but the connection's."""
        if self._server:
            return TargetLost("connection", f"the connection to the target server broke: {what}")
        return TargetLost(
            "connection",
            f"the connection to {self.address} broke: {what}; see whether the line holds and the "
            "server still runs there.  What was judged is kept: run again",
        )

    def _classify_plain(self, record: Record, reason: LossReason, detail: str) -> TargetLost:
        """TVM's own server says nothing of how a session ended: what happens next has to tell.

        It takes no new session after one of its own has crashed, or while one hangs; after a line
        was cut it does.
        """
        kernel = record.running
        if not kernel:
            return self._broken("TVM's own servers do not say why")
        again, self._suspect = self._suspect == kernel, kernel
        if again:
            return TargetLost(reason, detail, running=kernel)
        self._drop_connection()
        host, port, key = self.target.address
        try:
            self._reached(host, port, key).close()
        except TargetLost:
            self._gone_until = time.monotonic() + _GONE_SECONDS
            return TargetLost(reason, detail, running=kernel)
        return self._broken(detail)

    def _report(self, connection: Connection) -> tuple[dict[str, Any] | None, Record]:
        """The server's word on how the session's process ended, if it has one, and what that
        was at."""
        pid = connection.pid
        if not pid:  # it never said hello
            return None, Record()
        if self._server:
            report = self._server.exit_of(pid, _REPORT_SECONDS)
            if report is None:
                return None, self._server.record_of(pid)
            return report, Record.of(report.get("record"))
        # A server elsewhere is asked, for we do not hear its events.
        deadline = time.monotonic() + _REPORT_SECONDS
        hanging_up = time.monotonic() + _REPORT_SECONDS / 4
        record, hung_up = Record(), False
        while time.monotonic() < deadline:
            try:
                answer = ask(*self.target.address, pid)
            except (OSError, TargetLost):  # it is gone
                break
            report = answer.get("exit")
            if isinstance(report, dict):
                if hung_up and report["signal"] == signal.SIGKILL:
                    break  # on our behalf: it was alive
                return report, Record.of(report.get("record"))
            record = Record.of(answer.get("record"))
            if not hung_up and time.monotonic() > hanging_up:
                self._drop_connection()  # if only the line is broken, that ends the process
                hung_up = True
            time.sleep(0.02)  # the listener had not noticed yet
        return None, record

    def _lose(self, lost: TargetLost) -> None:
        with self._lock:
            self._drop_connection()
            if self._closed:
                return
            self.state = "lost"
        self._on_event(TargetLostEvent(lost.reason, lost.detail))

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


def _keys(text: str) -> list[str]:
    """An answer that is to be a list of keys.

    Raises:
        Garbled: if it is none.
    """
    try:
        keys: list[str] = list(map(str, json.loads(text)))
        return keys
    except (TypeError, ValueError):
        raise Garbled(f"an unexpected answer: {text!r:.80}") from None


def _number(answer: Any) -> int:
    """An answer that is to be a number.

    Raises:
        Garbled: if it is none.
    """
    if not isinstance(answer, int):
        raise Garbled(f"an unexpected answer: {answer!r:.80}")
    return answer


def _words(problem: Exception | None) -> str:
    """Why a line broke, as far as the operating system says; what TVM says of it helps nobody."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, ConnectionError):
        return str(problem)
    return "the other side hung up"


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
