"""Keeps one connection to a target up: makes it, bounds what is done over it, makes it anew.

Two clocks keep a kernel's deadline.  The target's own alarm ends its process wherever it runs;
the watchdog here acts a moment later, for the case that the target, or the way to it, is too far
gone for that.  It looks first at what the target is at: only a launch that is open for too long is
the kernel's fault.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Literal, TypeVar

from tapml_nb.owner import Owner, finalize
from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.endpoint import Endpoint
from tapml_nb.targets.client.losses import Evidence, classify
from tapml_nb.targets.client.residency import Residency
from tapml_nb.targets.client.watchdog import Watchdog
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.errors import (
    NoTensor,
    TargetAwaited,
    TargetError,
    TargetEvent,
    TargetGone,
    TargetLost,
    TargetStarted,
)
from tapml_nb.targets.wire.recorder import Record

CONTROL_SECONDS = 70.0
"""Deadline of everything but kernel calls and transfers; the target's own for a load is 60."""

PAGE_SECONDS = 600.0
"""How long to wait for a browser's page."""

_HANDSHAKE_SECONDS = 20.0
"""What a server may take to say who it is."""

_AT_ONCE = 9.0
"""A server that fails to answer sooner than this is asked once more: a byte may have gone wrong.

One that was reached is asked once more in any case: if the byte was of a length, then the server
waits for what never comes, and says nothing."""

_LOCAL_GRACE = 0.15
_REMOTE_GRACE = 2.0
"""How much later than the target itself the notebook's watchdog acts, in seconds."""

State = Literal["idle", "connected", "lost", "closed"]

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _Deadline:
    """The time of one request, and what the watchdog finds when it has passed: a launch that is
    open for too long (``overdue``), or a target that was ``stopped``."""

    def __init__(
        self,
        endpoint: Endpoint,
        connection: Connection | None,
        seconds: float,
        launch: float | None,
        grace: float,
    ) -> None:
        self.seconds = seconds if launch is None else launch  # by which a loss is told
        self.first = min(self.seconds, seconds) + grace  # when the watchdog looks
        self.begin = time.monotonic()
        self.overdue: Record | None = None
        self.stopped = False
        self._endpoint, self._connection = endpoint, connection
        self._launch, self._grace = launch, grace
        self._end = self.begin + seconds + grace

    def patience(self) -> float:
        """How much longer to wait for an answer that is late; on the watchdog's thread.

        What the tool does around a launch may take longer than the kernel may, and so may a line.
        """
        left, launch = self._end - time.monotonic(), self._launch
        if launch is None or self._connection is None:
            return left
        record, ended = self._endpoint.record_of(self._connection)
        if ended:  # and the line has not told us
            return 0
        if record is None:  # not to be had now
            return min(left, 1)
        if record.doing == "launch":
            self.overdue = record if record.seconds >= launch else None
            return 0 if self.overdue else min(left, launch - record.seconds + self._grace)
        self.stopped = self._connection.stopped
        return 0 if self.stopped else min(left, max(self._grace, 0.1))


class SupervisedConnection:
    """One connection at a time, whatever becomes of it; the life of a :class:`TargetSession`.

    Attributes:
        connection: the connection, while there is one.
        endpoint: where it leads.
    """

    def __init__(
        self, target: Target, machine: str, on_event: Callable[[TargetEvent], None]
    ) -> None:
        self.target = target
        self.state: State = "idle"
        self.restarts = 0
        self.connection: Connection | None = None
        self.endpoint = Endpoint(target, self._heed_end)
        self._machine = machine
        self._on_event = on_event
        self._lock = threading.RLock()
        self._busy = self._interrupted = False
        self._was_stock = self._was_reached = False
        self._suspect = ""
        self._watchdog = Watchdog(self._sever)
        self._owner = Owner()
        finalize(self, self._watchdog.close)

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
        self.endpoint.close()
        self._watchdog.close()

    def interrupt(self) -> None:
        """Break off the call that is going on, if any; it raises ``TargetLost("interrupted")``."""
        with self._lock:
            if self._busy:
                self._interrupted = True
                self._sever()

    def renew(self) -> None:
        """Let go of the target's process; the next one holds nothing."""
        with self._lock:
            if self.connection is None or self._closed:
                return
            self.state = "lost"
        self._drop_connection()

    @property
    def address(self) -> str:
        """Where the target is; empty before it was first used."""
        return self.endpoint.address

    # -- starting ----------------------------------------------------------------------------------

    def ahead(self) -> None:
        """Have the target begin to come up, beside what is done meanwhile."""
        if self.connection is None and not self._closed:
            self.endpoint.ahead()

    def start(self) -> None:
        """Bring the target up if it is not; every other method does this by itself."""
        self.connected()

    def connected(self) -> Connection:
        """The connection, made if there is none.

        A server that is there and does not work is tried once more: if it is this session's own,
        another one is started in its place.

        Raises:
            TargetLost: if it cannot be reached.
            TargetError: if it is none of ours.
            RuntimeError: if the session is closed.
        """
        with self._lock:
            self._refuse_if_closed()
            if self.connection is not None:
                return self.connection
        begin, target = time.monotonic(), self.target
        self._was_reached = False
        try:
            return self._connect()
        except TargetLost as lost:
            if lost.reason == "interrupted" or target.rpc == BROWSER or not self.endpoint.ours:
                raise  # TVM's own server may take no one after a crash
            late = time.monotonic() - begin > _AT_ONCE
            if late and not (target.local or self._was_reached):
                raise
            _log.info("the target is tried once more: %s", lost.detail)
        self.endpoint.end_server()
        return self._connect()

    def _connect(self) -> Connection:
        again = self.state == "lost"
        begin = time.monotonic()
        try:
            connection = self._adopt(self.endpoint.connect())
        except TargetLost:
            if self._was_stock:
                self.endpoint.leave_alone()
            raise
        self._was_reached = True
        try:
            self._open_service(connection)
            self._check(connection)
        except TargetError:
            self._drop_connection()
            raise
        with self._lock:
            self._refuse_if_closed()
            self.state = "connected"
        self.restarts += again
        seconds = time.monotonic() - begin
        if again:
            _log.info("restart %d of the target took %.3f s", self.restarts, seconds)
        self._on_event(TargetStarted(self.address, connection.pid, self.restarts, seconds))
        return connection

    def _open_service(self, connection: Connection) -> None:
        kind, number = self.target.kind, self.target.device
        seconds = CONTROL_SECONDS
        if self.target.rpc == BROWSER:
            kind, seconds = BROWSER, PAGE_SECONDS
            self._on_event(TargetAwaited(self.endpoint.link))
        try:
            self.run(_HANDSHAKE_SECONDS, lambda: connection.handshake(kind, number))
            bound = self.target.bound
            self.run(seconds, lambda: connection.open_service(kind, number, seconds, bound))
        except TargetLost as lost:
            if kind == BROWSER and lost.reason == "timeout":
                link = self.endpoint.link
                why = f"no page came within {seconds:g} s; open {link} and run again"
                raise TargetLost("connection", why) from None
            if lost.reason in ("crash", "timeout"):  # of the driver, for nothing of ours ran yet
                why = f"the session at {self.address} did not come up: {lost.detail}"
                raise TargetLost("machine", why) from None
            raise

    def _check(self, connection: Connection) -> None:
        """TargetError if the server is not the right one."""
        self._was_stock = connection.stock
        found, address = connection.platform.get("machine"), self.address
        if self._machine and found and self._machine != found:
            raise TargetError(
                f"the server at {address} is {found}, and kernels are compiled for "
                f"{self._machine}; give its Target a tvm_target with the mtriple of {found}"
            )
        if self.target.guard and not connection.platform.get("guard"):
            raise TargetError(f"the server at {address} cannot guard memory; use 'tapml serve'")

    def _adopt(self, connection: Connection) -> Connection:
        """From here on the connection can be severed."""
        with self._lock:
            self.connection = connection
            if self._closed:
                self._drop_connection()
            self._refuse_if_closed()
        return connection

    # -- one thing at a time, within its time ------------------------------------------------------

    def run(
        self,
        seconds: float,
        work: Callable[[], _T],
        *,
        launch: float | None = None,
        resident: Collection[str] = (),
    ) -> _T:
        """Do something remote within its time; whatever breaks the connection is a loss.

        Args:
            seconds: for all of it.
            work: what.
            launch: seconds that a kernel in it may take; None if it launches none.
            resident: the tensors that it needs.

        Raises:
            TargetError: if the target answers with an error.
            TargetLost: if the connection broke, or it was broken off.
        """
        with self._lock:
            self._refuse_if_closed()
            self._busy, self._interrupted = True, False
            connection = self.connection
        grace = _LOCAL_GRACE if self.target.local else _REMOTE_GRACE
        deadline = _Deadline(self.endpoint, connection, seconds, launch, grace)
        problem: Exception | None = None
        answer: TargetError | None = None
        try:
            with self._watchdog.guard(deadline.first, deadline.patience) as guard:
                result = work()
        except NoTensor as error:
            known = connection.resident if connection else Residency()
            answer = error
            if resident and all(key in known for key in resident):  # we remember what it does not
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
        if problem or guard.expired or self._interrupted:
            lost = TargetLost("interrupted", "the call was broken off")
            if not self._interrupted and (connection := self.connection):
                lost = classify(self._evidence(connection, problem, deadline, guard.expired))
            self._lose(lost)
            raise lost from None
        if answer is not None:
            raise answer
        if launch is not None:
            self._suspect = ""
        return result

    def _evidence(
        self, connection: Connection, problem: Exception | None, deadline: _Deadline, late: bool
    ) -> Evidence:
        """All that can be found out, and no more than is needed: some of it takes its time."""
        endpoint, waited = self.endpoint, time.monotonic() - deadline.begin
        overdue = deadline.overdue if late else None
        record, report = overdue or Record(), None
        killed = refuses = False
        stock = connection.stock
        if stock:
            record = overdue or connection.record or Record()
            if kernel := record.running:
                again, self._suspect = self._suspect == kernel, kernel
                if not again:
                    self._drop_connection()
                refuses = again or not endpoint.comes_back()
        elif overdue:
            report, _ = endpoint.exit_of(connection)  # it may have been dying of something else
        elif isinstance(problem, Garbled):
            self._sever()
        elif late and endpoint.server:
            record = endpoint.server.record_of(connection.session)
        else:
            report, record = endpoint.exit_of(connection)
            killed = report is None and bool(endpoint.server and not endpoint.server.alive)
            if report is None and not killed and connection.ended:
                endpoint.end_server()  # it should have told how
        return Evidence(
            elsewhere="" if endpoint.server else endpoint.address,
            problem=problem,
            seconds=deadline.seconds,
            waited=waited,
            late=late,
            overdue=bool(overdue),
            stopped=deadline.stopped,
            record=record,
            report=report,
            server_killed=killed,
            stock=stock,
            refuses=refuses,
        )

    # -- losses ------------------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        return self.state == "closed"

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the target session is closed")

    def _lose(self, lost: TargetLost) -> None:
        with self._lock:
            self._drop_connection()
            if self._closed:
                return
            self.state = "lost"
        self._on_event(TargetGone(lost.reason, lost.detail))

    def _drop_connection(self) -> None:
        with self._lock:
            connection, self.connection = self.connection, None
        if connection:
            connection.close()

    def _heed_end(self, pid: int) -> None:
        """The process of some session, or (0) the server itself, has ended: wait no longer for
        it, for what a kernel has left may hold the line open."""
        connection = self.connection
        if connection and pid in (0, connection.pid):
            connection.sever()

    def _sever(self) -> None:
        if connection := self.connection:
            connection.sever()
