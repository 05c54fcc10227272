"""The local server's process as the notebook sees it: started, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from tapml_nb.targets.errors import TargetLost

_START_SECONDS = 60.0
_END_SECONDS = 2.0


class LocalServer:
    """A server of our own on this machine; it dies with us."""

    def __init__(self) -> None:
        """Start it and wait until it listens.

        Raises:
            TargetLost: if it does not come up; with what it wrote.
        """
        self.token = secrets.token_hex(16)
        self._workroot = tempfile.mkdtemp(prefix="tapml-target-")
        self._changed = threading.Condition()
        self._ready: dict[str, Any] | None = None
        self._exits: dict[int, dict[str, Any]] = {}
        self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tapml_nb.targets.server", "--workroot", self._workroot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TAPML_TOKEN": self.token},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="tapml-server-events", daemon=True)
        self._reader.start()
        ready = self._await_ready()
        if ready is None:
            message = self._stderr() if self._ended else "it is too slow"
            self.close()
            raise TargetLost("connection", f"the target server did not start: {message}")
        self.port: int = ready["port"]

    def _await_ready(self) -> dict[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, _START_SECONDS)
            return self._ready

    @property
    def alive(self) -> bool:
        """Whether the listener still runs."""
        return self._process.poll() is None

    def exit_of(self, pid: int, timeout: float) -> dict[str, Any] | None:
        """How a session's process ended (``signal``, ``code``, ``log``), or None if the listener
        ended first or says nothing in time."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._exits or self._ended, timeout)
            return self._exits.pop(pid, None)

    def close(self) -> None:
        """End the server and everything it runs.  Idempotent."""
        process = self._process
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._reader.join(_END_SECONDS)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        shutil.rmtree(self._workroot, ignore_errors=True)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            with self._changed:
                if event["event"] == "ready":
                    self._ready = event
                elif event["event"] == "exit":
                    self._exits[event["pid"]] = event
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _stderr(self) -> str:
        assert self._process.stderr
        text = self._process.stderr.read().decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "it wrote nothing"
