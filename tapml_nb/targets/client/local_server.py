"""The local server's process as the notebook sees it: started, listened to, ended.

Whatever ends first clears up.  The server ends with its standard input or with its parent, and
takes its folder with it; when the server dies alone, this side removes the folder, at the latest
when the interpreter exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tapml_nb.interpreter import module_command, module_environment
from tapml_nb.owner import finalize
from tapml_nb.targets.server.leftovers import end_marked, is_stopped
from tapml_nb.targets.wire.errors import TargetLost
from tapml_nb.targets.wire.handshake import page_key
from tapml_nb.targets.wire.recorder import SERVER_MARK, ExitReport, Record, path_of, read_record

_START_SECONDS = 60.0
_END_SECONDS = 2.0
_LOG_TAIL = 2000


class LocalServer:
    """A server of our own on this machine; it dies with us."""

    def __init__(
        self,
        before: LocalServer | None = None,
        on_end: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """Start it and wait until it listens.

        Args:
            before: one that is dead, whose port and token it shall have.
            on_end: a bound method, whose owner this does not keep alive; told, on a thread of
                this, of each session's process that has ended, and with 0 of the server's own end.

        Raises:
            TargetLost: if it does not come up; with what it wrote.
        """
        self.token: str = before.token if before else secrets.token_hex(16)
        self._workroot = Path(tempfile.mkdtemp(prefix="tapml-target-")).resolve()
        folder = str(self._workroot)
        arguments = ["--workroot", folder, "--port", str(before.port if before else 0)]
        log = self._workroot / "server.log"
        with log.open("wb") as stderr:
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
        ready = self._reports.ready(_START_SECONDS)
        if ready is None:
            message = _tail(log) if self._reports.ended else "it is too slow"
            self.close()
            raise TargetLost("connection", f"the target server did not start: {message}")
        self.port: int = ready["port"]

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
        """How a session's process ended, or None if the listener ended first or says nothing in
        time."""
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
        on_end = self._on_end() if self._on_end else None
        if on_end:
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


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace").strip()[-_LOG_TAIL:]
    return text or "it wrote nothing"
