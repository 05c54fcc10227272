"""Where a target's server is: one of the session's own, made when needed, or one elsewhere."""

from __future__ import annotations

import logging
import signal
import time
import weakref
from collections.abc import Callable
from typing import Any

from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.inquiry import ask
from tapml_nb.targets.client.local_server import LocalServer
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.wire.errors import TargetLost
from tapml_nb.targets.wire.recorder import ExitReport, Record

_REPORT_SECONDS = 2.0
"""How long to wait for the server's word on how a session ended (at once, mostly)."""

_GONE_SECONDS = 20.0
"""How long not to try again to reach a server that does not come back."""

_log = logging.getLogger(__name__)


class Endpoint:
    """The server's place, and what the server tells of its sessions.

    Attributes:
        server: the session's own server, once it was needed; None if it is elsewhere.
    """

    def __init__(self, target: Target, on_end: Callable[[int], None]) -> None:
        """``on_end``: as for :class:`LocalServer`; its owner is not kept alive."""
        self.server: LocalServer | None = None
        self._target = target
        self._on_end = weakref.WeakMethod(on_end)
        self._gone_until = 0.0
        self._closed = False

    @property
    def ours(self) -> bool:
        """Whether the server is one of ours, and not of TVM's."""
        target = self._target
        return target.local or (not target.scheme and bool(target.address[2]))

    @property
    def address(self) -> str:
        """Where it is; empty before a server of the session's own was first needed."""
        if not self._target.local:
            host, port, _ = self._target.address
            return f"{host}:{port}"
        return f"127.0.0.1:{self.server.port}" if self.server else ""

    @property
    def link(self) -> str:
        """The page that becomes the target in the browser that opens it; starts the server."""
        return self._local().link

    def connect(self) -> Connection:
        """Reach the server.

        Raises:
            TargetLost: if nobody answers, or it does not come up.
            TargetError: if it speaks another protocol.
            RuntimeError: if the session was closed meanwhile.
        """
        target = self._target
        if target.local:
            server = self._local()
            host, port, key = "127.0.0.1", server.port, server.token
        else:
            host, port, key = target.address
        if time.monotonic() < self._gone_until:
            raise TargetLost("connection", f"{self.address} does not come back; restart it")
        return Connection(host, port, key, local=target.local, ours=self.ours, scheme=target.scheme)

    def comes_back(self) -> bool:
        """Whether TVM's own server takes another session."""
        try:
            self.connect().close()
        except TargetLost:
            self.leave_alone()
            return False
        return True

    def leave_alone(self) -> None:
        """TVM's own server takes no one after a crash: ask no more in vain."""
        self._gone_until = time.monotonic() + _GONE_SECONDS

    def end_server(self) -> None:
        """End the session's own server; the next use starts another."""
        if self.server:
            self.server.close()

    def close(self) -> None:
        """End it for good; from any thread."""
        self._closed = True
        self.end_server()

    def record_of(self, connection: Connection) -> tuple[Record | None, bool]:
        """What a session is at, None if that cannot be found out; and whether it has ended."""
        if connection.stock:
            return connection.record, False
        if self.server:
            return self.server.record_of(connection.session), connection.ended
        try:
            answer = ask(*self._target.address, connection.pid)
        except (OSError, TargetLost):
            return None, False
        return Record.of(answer.get("record")), answer.get("record") is None

    def exit_of(self, connection: Connection) -> tuple[ExitReport | None, Record]:
        """The server's word on how a session's process ended, if it has one, and what that was at.

        The connection is closed where only that can end the process.
        """
        if not connection.pid:  # it never said hello
            return None, Record()
        if self.server:
            report = self.server.exit_of(connection.pid, _REPORT_SECONDS)
            if report is None:
                return None, self.server.record_of(connection.session)
            return report, report.record
        # A server elsewhere is asked, for we do not hear its events.
        deadline = time.monotonic() + _REPORT_SECONDS
        hanging_up = time.monotonic() + _REPORT_SECONDS / 4
        record, hung_up = Record(), False
        while time.monotonic() < deadline:
            try:
                answer: dict[str, Any] = ask(*self._target.address, connection.pid)
            except (OSError, TargetLost):  # it is gone
                break
            if isinstance(answer.get("exit"), dict):
                report = ExitReport.from_json(answer["exit"])
                if hung_up and report.signal == signal.SIGKILL:
                    break  # on our behalf: it was alive
                return report, report.record
            record = Record.of(answer.get("record"))
            if not hung_up and time.monotonic() > hanging_up:
                connection.close()  # if only the line is broken, that ends the process
                hung_up = True
            time.sleep(0.02)  # the listener had not noticed yet
        return None, record

    def _local(self) -> LocalServer:
        """A server of the session's own that is alive."""
        before = self.server
        if before is not None and before.alive:
            return before
        if before:
            _log.info("the target server at %s is replaced", self.address)
            before.close()
        on_end = self._on_end()
        assert on_end is not None  # whose owner is who asks
        # Pages come back to where they found the last one.
        server = LocalServer(before if self._target.rpc == BROWSER else None, on_end)
        self.server = server
        if self._closed:
            server.close()
            raise RuntimeError("the target session is closed")
        return server
