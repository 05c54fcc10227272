"""The target server: ``python -m tapml_nb.targets.server.listener``.

It speaks TVM's RPC protocol, so TVM's own client connects to it, and is made to be crashed: one
listener process, without threads and without a device, forks a child per session.  A kernel that
kills its process kills one child; the listener reports how it died, clears up after it, and
accepts the next session.  (TVM's stock server stops accepting after the first crash, takes
seconds to start, and lets anyone who reaches its port run code.)

A connection is a session, or the tensor channel of a session, whose process then gets the socket;
it asks for a session's end; or it is a browser, which is given the page that becomes a target.  So
one port is all that a firewall or a tunnel has to open.

Events are JSON lines on stdout: ``ready``, ``session``, ``exit`` (signal, code, the last lines of
the session's log), ``rejected``.  The end of stdin ends the server, and so does the end of its
parent.  The token is read from the environment, ``TAPML_TOKEN``.

Needs tvm_ffi, NumPy and TVM's runtime library alone: it is ready in a third of a second.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hmac
import json
import math
import os
import resource
import secrets
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapml_nb.targets.devices.registry import load_runtime
from tapml_nb.targets.server.handshakes import Handshake, Handshakes
from tapml_nb.targets.server.leftovers import adopt_orphans, end_all_children
from tapml_nb.targets.server.pages import WRONG_KEY, answer, knows_key, refusal
from tapml_nb.targets.server.sessions import Session, Sessions, serve_session
from tapml_nb.targets.wire.handshake import (
    ASK,
    CHANNEL,
    CHANNEL_SOCKET,
    END,
    GET,
    MAGIC,
    MISMATCH,
    PROTOCOL,
    NotOurs,
    hand_over,
    opening,
    pack_word,
    page_key,
)
from tapml_nb.targets.wire.recorder import ExitReport

_MAX_HANDSHAKES = 512
"""Who may be connected without having said who they are; fewer where descriptors are few."""

_TICK = 0.5
"""Seconds between two looks at what sessions are at."""

_ANSWER_SECONDS = 5.0
"""What a browser may take to read what it asked for."""


def main() -> int:
    """Run a server for the process at the other end of stdin."""
    parser = argparse.ArgumentParser(prog="tapml_nb.targets.server.listener")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port (default: any free one)")
    parser.add_argument("--workroot", type=Path, required=True, help="folder; removed at the end")
    parsed = parser.parse_args()
    token = os.environ.pop("TAPML_TOKEN", "")
    if not token:
        parser.error("set TAPML_TOKEN to the key that clients must know")
    events = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no event
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the notebook
    server = Server(parsed.host, parsed.port, token, parsed.workroot, events=events)
    server.run(until_orphaned=True)
    return 0


def serve_standalone(host: str, port: int) -> int:
    """Serve until interrupted; prints what a notebook has to paste (``tapml serve``)."""
    token = os.environ.pop("TAPML_TOKEN", "") or secrets.token_hex(16)
    workroot = Path(tempfile.mkdtemp(prefix="tapml-serve-"))
    server = Server(host, port, token, workroot)
    signal.signal(signal.SIGINT, server.stop)
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    print(f"serving on {host}:{server.port}; in the notebook:", flush=True)
    print(f"  Target('llvm', rpc='{shown}:{server.port}/{token}')", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("whoever has this key can run code here; prefer an SSH tunnel", flush=True)
    server.run(until_orphaned=False)
    print("stopped", flush=True)
    return 0


class Server:
    """The listener: accepts, has sessions forked and reaped, reports."""

    def __init__(
        self, host: str, port: int, token: str, workroot: Path, *, events: int | None = None
    ) -> None:
        """Listen.

        Args:
            host, port: address to listen on; port 0 for any free one.
            token: what clients must know.
            workroot: an existing folder, for this alone; removed at the end.
            events: descriptor for event lines, for the process that started this server and
                shares its file system; None for a server that stands alone.
        """
        self._token = token
        self._workroot = workroot.resolve()
        self._events = events
        self._pid = os.getpid()
        self._sessions = Sessions(self._workroot, self._report)
        self._stopped = False
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._handshakes = Handshakes(min(_MAX_HANDSHAKES, descriptors // 2))
        self._poll = select.poll()
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        self._inherited = [self._woken, self._waker]
        load_runtime()
        # A session's child has these from its first moment.
        import tapml_nb.targets.devices.tvm_runtime
        import tapml_nb.targets.server.service  # noqa: F401

        self._listener = socket.create_server((host, port), backlog=128)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def stop(self, *_: Any) -> None:
        """End :meth:`run`; a signal's handler.

        It sets a flag, no more (the signal itself wakes the loop): an exception may come up where
        Python only prints it, such as in a fork's hooks.
        """
        self._stopped = True

    def run(self, *, until_orphaned: bool) -> None:
        """Serve until SIGTERM; ``until_orphaned``: or until stdin or the parent process ends."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.stop)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        adopt_orphans()
        parent = _parent_watch() if until_orphaned else []
        stdin = [0] if until_orphaned else []
        listener = self._listener.fileno()
        self._inherited += [listener, *parent]
        for descriptor in (listener, self._woken, *stdin, *parent):
            self._poll.register(descriptor, select.POLLIN)
        self._emit(event="ready", port=self.port, pid=self._pid)
        try:
            while not self._stopped:
                ready = [descriptor for descriptor, _ in self._poll.poll(self._patience())]
                if self._woken in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                self._sessions.reap()
                self._sessions.end_late()
                if any(watch in ready for watch in parent):
                    return
                if stdin and 0 in ready and not os.read(0, 4096):
                    return
                self._hear(ready)
                if listener in ready:
                    self._accept()
        finally:
            if os.getpid() == self._pid:
                end_all_children()
                shutil.rmtree(self._workroot, ignore_errors=True)

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do even if nothing happens."""
        seconds = min(self._handshakes.patience(), _TICK if self._sessions else math.inf)
        return None if seconds == math.inf else math.ceil(1000 * seconds)

    # -- who is there ------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError as error:  # it went away again, or there are no descriptors left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                oldest = self._handshakes.oldest()
                self._dismiss(oldest, "another one came") if oldest else time.sleep(0.05)
            return
        if in_the_way := self._handshakes.in_the_way():
            self._dismiss(in_the_way, "another one came")
        self._handshakes[connection.fileno()] = Handshake(connection, peer[0])
        self._poll.register(connection, select.POLLIN)

    def _hear(self, ready: list[int]) -> None:
        """Listen to those who have something to say; see off those who take too long."""
        for handshake in filter(None, map(self._handshakes.get, ready)):
            try:
                opened = handshake.receive()
                if opened is None:
                    continue
                self._forget(handshake)
                with handshake.connection:
                    self._receive(handshake.connection, handshake.peer, *opened)
            # (A recursion error: JSON can be that deep.)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._dismiss(handshake, str(error))
        for handshake in self._handshakes.expired():
            self._dismiss(handshake, "it said too little in time")

    def _receive(self, connection: socket.socket, peer: str, word: int, text: bytes) -> None:
        """Be what somebody came for; :meth:`_hear` has what it raises if they are none of ours."""
        if word == GET:
            if self._events is None:
                raise NotOurs("neither TVM's RPC protocol nor ours")
            if not knows_key(text, page_key(self._token)):
                connection.sendall(refusal())
                raise NotOurs(WRONG_KEY)
            self._fork(lambda _: self._welcome(connection, text, peer))
        elif word == MAGIC:
            given = text.partition(b" ")[0]
            if not hmac.compare_digest(given, f"client:{self._token}".encode()):
                connection.sendall(pack_word(MISMATCH))
                raise NotOurs("wrong key")
            self._fork(lambda session: self._serve(connection, peer, session))
        elif word == ASK:
            self._answer(connection, json.loads(text))
        else:
            session = self._sessions.of(json.loads(text))
            if word == CHANNEL:
                token = session.token.encode()
                hand_over(session.folder, CHANNEL_SOCKET, token, connection, wait=0)
            elif word == END:
                session.end_soon()
                connection.sendall(pack_word(END))

    def _answer(self, connection: socket.socket, question: dict[str, Any]) -> None:
        """Tell a client on another machine what became of its session."""
        if not hmac.compare_digest(str(question["key"]).encode(), self._token.encode()):
            connection.sendall(pack_word(MISMATCH))
            raise NotOurs("wrong key")
        pid = int(question["pid"])
        report, record = self._sessions.exit_of(pid), self._sessions.record_of(pid)
        answer = {
            "protocol": PROTOCOL,
            "exit": asdict(report) if report else None,
            "record": asdict(record) if record else None,
        }
        connection.sendall(opening(ASK, answer))

    def _forget(self, handshake: Handshake) -> None:
        self._poll.unregister(handshake.connection)
        del self._handshakes[handshake.connection.fileno()]

    def _dismiss(self, handshake: Handshake, why: str) -> None:
        """Hang up on somebody."""
        if handshake.connection.fileno() >= 0:
            self._forget(handshake)
            handshake.connection.close()
        self._emit(event="rejected", peer=handshake.peer, why=why)

    def _fork(self, work: Callable[[Session], None]) -> None:
        """Have a child of its own do something for a connection; see :meth:`Sessions.start`."""

        def in_child(session: Session) -> None:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for descriptor in self._inherited:
                os.close(descriptor)
            for handshake in self._handshakes.values():
                handshake.connection.close()
            work(session)

        self._sessions.start(in_child)

    # -- in a connection's own child ---------------------------------------------------------------

    def _welcome(self, connection: socket.socket, head: bytes, peer: str) -> None:
        """Answer a browser."""
        connection.settimeout(_ANSWER_SECONDS)
        why = answer(connection, head, self._workroot)
        if why:
            self._emit(event="rejected", peer=peer, why=why)

    def _serve(self, connection: socket.socket, peer: str, session: Session) -> None:
        """Be a session's process."""

        def ready() -> None:
            self._emit(event="session", pid=os.getpid(), peer=peer)
            if self._events is not None:
                os.close(self._events)

        serve_session(connection, session, same_host=self._events is not None, ready=ready)

    # -- what is told, and the end -----------------------------------------------------------------

    def _report(self, pid: int, report: ExitReport) -> None:
        self._emit(event="exit", pid=pid, **asdict(report))

    def _emit(self, **event: Any) -> None:
        """One line, in one write, so that lines of several processes do not mix."""
        if self._events is not None:
            os.write(self._events, (json.dumps(event) + "\n").encode())


def _parent_watch() -> list[int]:
    """A descriptor that is ready when the parent ends.

    Standard input alone does not tell: forks of the parent may hold its other end.
    """
    with contextlib.suppress(OSError):  # kernels before 5.3, or a sandbox that knows it not
        return [os.pidfd_open(os.getppid())]
    return []


if __name__ == "__main__":
    sys.exit(main())
