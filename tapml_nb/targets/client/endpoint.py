"""Where a target's server is: one of the session's own, made when needed, or one elsewhere.

Whatever ends first of this process and a server of its own clears up.  The server ends with its
standard input or with its parent, and takes its folder with it; when the server dies alone, this
side removes the folder, at the latest when the interpreter exits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tapml_nb.interpreter import module_command, module_environment
from tapml_nb.owner import finalize
from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.dial import ask
from tapml_nb.targets.server.leftovers import end_marked, is_stopped
from tapml_nb.targets.spec import BROWSER, Target
from tapml_nb.targets.wire.errors import TargetLost
from tapml_nb.targets.wire.handshake import page_key
from tapml_nb.targets.wire.recorder import SERVER_MARK, ExitReport, Record, path_of, read_record

_REPORT_SECONDS = 2.0
"""How long to wait for the server's word on how a session ended (at once, mostly)."""

_GONE_SECONDS = 20.0
"""How long not to try again to reach a server that does not come back."""

_START_SECONDS = 60.0
_END_SECONDS = 2.0
_LOG_TAIL = 2000

_log = logging.getLogger(__name__)


class Endpoint:
    """The server's place, and what the server tells of its sessions.  ``server`` is the session's
    own, once it was needed; None if it is elsewhere."""

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
        return f"127.0.0.1:{self.server.port}" if self.server and self.server.is_ready else ""

    @property
    def link(self) -> str:
        """The page that becomes the target in the browser that opens it; starts the server."""
        return self._local().link

    def ahead(self) -> None:
        """Have a server of the session's own begin to come up; who uses it waits for the rest."""
        if self._target.local:
            with contextlib.suppress(OSError, RuntimeError):  # whoever uses it meets that again
                self._local()

    def connect(self) -> Connection:
        """Reach the server; raises as :class:`Connection`, and RuntimeError if the session was
        closed meanwhile."""
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
        The connection is closed where only that can end the process."""
        if not connection.pid:  # it never said hello
            return None, Record()
        if self.server:
            report = self.server.exit_of(connection.pid, _REPORT_SECONDS)
            if report is None:
                return None, self.server.record_of(connection.session)
            return report, report.record
        # A server elsewhere is asked, for we do not hear its events.
        begin = time.monotonic()
        record, hung_up = Record(), False
        while time.monotonic() < begin + _REPORT_SECONDS:
            try:
                answer = ask(*self._target.address, connection.pid)
            except (OSError, TargetLost):  # it is gone
                break
            if isinstance(answer.get("exit"), dict):
                report = ExitReport.from_json(answer["exit"])
                if hung_up and report.signal == signal.SIGKILL:
                    break  # on our behalf: it was alive
                return report, report.record
            record = Record.of(answer.get("record"))
            if not hung_up and time.monotonic() > begin + _REPORT_SECONDS / 4:
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


class LocalServer:
    """A server of our own on this machine; it dies with us."""

    def __init__(
        self,
        before: LocalServer | None = None,
        on_end: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """Start it; who asks for its port waits until it listens.

        It has the port and token of the one ``before``, which is dead.  ``on_end``: a bound method,
        whose owner this does not keep alive; told, on a thread of this, of each session's process
        that has ended, and with 0 of the server's own end.
        """
        self.token: str = before.token if before else secrets.token_hex(16)
        self._workroot = Path(tempfile.mkdtemp(prefix="tapml-target-")).resolve()
        folder = str(self._workroot)
        port = before.port if before and before.is_ready else 0
        arguments = ["--workroot", folder, "--port", str(port)]
        self._log = self._workroot / "server.log"
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                module_command("tapml_nb.targets.server.listener", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=module_environment(TAPML_TOKEN=self.token, **{SERVER_MARK: folder}),
                start_new_session=True,  # Ctrl-C in a terminal is for the notebook alone
            )
        assert self._process.stdout
        self._reports = _Reports(self._process.stdout, on_end)
        self._end = finalize(self, _end, self._process, self._reports, self._workroot)

    @property
    def is_ready(self) -> bool:
        """Whether it listens, or has."""
        return self._reports.ready(0) is not None

    @property
    def port(self) -> int:
        """Where it listens, once it does; TargetLost, with what it wrote, if it never does."""
        ready = self._reports.ready(_START_SECONDS)
        if ready is None:
            written = "it wrote nothing"
            with contextlib.suppress(OSError):
                written = self._log.read_text(errors="replace").strip()[-_LOG_TAIL:] or written
            message = written if self._reports.ended else "it is too slow"
            self.close()
            raise TargetLost("connection", f"the target server did not start: {message}")
        return int(ready["port"])

    @property
    def link(self) -> str:
        """The page that becomes a target in the browser that opens it."""
        return f"http://127.0.0.1:{self.port}/{page_key(self.token)}/"

    @property
    def alive(self) -> bool:
        """Whether the listener can take another session: it runs, nobody has stopped it, and it
        still has its folder."""
        dying = self._reports.ended or self._process.poll() is not None
        return not dying and not is_stopped(self._process.pid) and self._workroot.exists()

    def exit_of(self, pid: int, timeout: float) -> ExitReport | None:
        """How a session's process ended; None if the listener does not say it in time."""
        return self._reports.exit_of(pid, timeout)

    def record_of(self, session: int) -> Record:
        """What the process of the session of this number is at; empty if it does not say."""
        return read_record(path_of(self._workroot, session))

    def close(self) -> None:
        """End the server and everything it runs.  Idempotent."""
        self._end()


class _Reports:
    """What the server says on its standard output, read by a thread."""

    def __init__(self, stream: IO[bytes], on_end: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_end = weakref.WeakMethod(on_end) if hasattr(on_end, "__self__") else None
        self._changed = threading.Condition()
        self._ready: dict[str, Any] | None = None
        self._exits: dict[int, ExitReport] = {}
        self._ended = False
        self.reader = threading.Thread(target=self._read, name="tapml-server-events", daemon=True)
        self.reader.start()

    def ready(self, timeout: float) -> dict[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, timeout)
            return self._ready

    @property
    def ended(self) -> bool:
        """Whether its output ended.  (It then has no more to say, dead or still dying.)"""
        with self._changed:
            return self._ended

    def exit_of(self, pid: int, timeout: float) -> ExitReport | None:
        with self._changed:
            self._changed.wait_for(lambda: pid in self._exits or self._ended, timeout)
            return self._exits.pop(pid, None)

    def _read(self) -> None:
        for line in self._stream:
            event = json.loads(line)
            with self._changed:
                if event["event"] == "ready":
                    self._ready = event
                elif event["event"] == "exit":
                    self._exits[event["pid"]] = ExitReport.from_json(event)
                self._changed.notify_all()
            if event["event"] == "exit":
                self._tell(event["pid"])
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._tell(0)

    def _tell(self, pid: int) -> None:
        if on_end := self._on_end() if self._on_end else None:
            on_end(pid)


def _end(process: subprocess.Popen[bytes], reports: _Reports, workroot: Path) -> None:
    """End a server.  (No method: what waits for an object's end must not hold it.)"""
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    # A fork of this process may hold another end of its stdin.
    process.kill() if is_stopped(process.pid) else process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:  # it could not clear up itself
        end_marked(workroot)
    reports.reader.join(_END_SECONDS)
    if process.stdout:
        process.stdout.close()
    shutil.rmtree(workroot, ignore_errors=True)
