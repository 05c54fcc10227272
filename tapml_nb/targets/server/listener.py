"""The target server: ``python -m tapml_nb.targets.server.listener``.

It speaks TVM's RPC protocol, so TVM's own client connects to it, and is made to be crashed: one
listener process, without threads and without a device, forks a child per session.  A kernel that
kills its process kills one child; the listener reports how it died, clears up after it, and
accepts the next session.  (TVM's stock server stops accepting after the first crash, takes
seconds to start, and lets anyone who reaches its port run code.)

Who connects costs a descriptor until they have said who they are
(:mod:`tapml_nb.targets.server.handshakes`), so one that is silent or malicious keeps nobody
waiting.  A connection is a session, or the tensor channel of a session, whose process then gets the
socket; or it asks for a session's end.  So one port is all that a firewall or a tunnel has to open.
A browser that connects is given the page that becomes a target
(:mod:`tapml_nb.targets.server.pages`).

A session ends with all that its kernels have started (:mod:`tapml_nb.targets.server.leftovers`),
and at the latest when it has had its time and does not hear its own alarm
(:mod:`tapml_nb.targets.server.clock`).

Events are JSON lines on stdout: ``ready``, ``session``, ``exit`` (signal, code, the last lines of
the session's log), ``rejected``.  The end of stdin ends the server, and so does the end of its
parent.  The token is read from the environment, ``TAPML_TOKEN``.

Needs tvm_ffi, NumPy and TVM's runtime library, and nothing else: it is ready in a third of a
second.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
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
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapml_nb.targets.server.clock import Clock
from tapml_nb.targets.server.handshakes import Greeter, Greeters, Greeting
from tapml_nb.targets.server.leftovers import adopt_orphans, children, end, end_all_children
from tapml_nb.targets.server.pages import WRONG_KEY, answer, knows_key, page_key, refusal
from tapml_nb.targets.wire.fd_passing import hand_over
from tapml_nb.targets.wire.handshake import (
    ASK,
    BULK,
    END,
    GET,
    MAGIC,
    MISMATCH,
    PROTOCOL,
    NotOurs,
    pack_word,
)
from tapml_nb.targets.wire.recorder import CLOSED, HUNG_UP, Recorder, path_of, read_record

_LOG_TAIL = 16_000
"""Characters: a stack trace of TVM's, and what was said before it."""
_REMEMBERED = 64
_MAX_SESSIONS = 64
"""Children at one time; even who has the key shall not take the machine down."""

_MAX_GREETERS = 512
"""Who may be connected without having said who they are; fewer where descriptors are few."""

_TICK = 0.5
"""Seconds between two looks at what sessions are at."""

_GRACE = 1.0
"""How much later than a session's own alarm the listener acts, in seconds."""

_ANSWER_SECONDS = 5.0
"""What a browser may take to read what it asked for."""

_PR_SET_PDEATHSIG = 1


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
    server.stop_at(signal.SIGINT)
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    print(f"serving on {host}:{server.port}; in the notebook:", flush=True)
    print(f"  Target('llvm', rpc='{shown}:{server.port}/{token}')", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("whoever has this key can run code here; prefer an SSH tunnel", flush=True)
    server.run(until_orphaned=False)
    print("stopped", flush=True)
    return 0


@dataclass
class _Session:
    """A session, as the listener knows it.

    Attributes:
        number: its own.
        token: what a connection must know that belongs to it.
        clock: when it has to be done with what it is at.
        late: whether it was ended because it was not.
        due: when it shall have ended, for its client asked for that.
    """

    number: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    clock: Clock = field(default_factory=Clock)
    late: bool = False
    due: float = math.inf


class Server:
    """The listener: accepts, forks, reaps, reports."""

    def __init__(
        self, host: str, port: int, token: str, workroot: Path, *, events: int | None = None
    ) -> None:
        """Listen.

        Args:
            host: address to listen on.
            port: 0 for any free one.
            token: what clients must know.
            workroot: an existing folder, for the server alone; removed at the end.
            events: descriptor for event lines, for the process that started this server and
                shares its file system; None for a server that stands alone.
        """
        self._token = token
        self._workroot = workroot.resolve()
        self._events = events
        self._pid = os.getpid()
        self._sessions: dict[int, _Session] = {}
        self._exits: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._stopped = False
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._greeters = Greeters(min(_MAX_GREETERS, descriptors // 2))
        self._poll = select.poll()
        self._woken, self._waker = os.pipe()
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        self._inherited = [self._woken, self._waker]
        load_runtime()
        self._listener = socket.create_server((host, port), backlog=128)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def stop_at(self, number: signal.Signals) -> None:
        """End :meth:`run` at a signal.

        The handler sets a flag and wakes the loop, no more: an exception may come up where Python
        only prints it, such as in a fork's hooks.
        """
        signal.signal(number, self._stop)

    def _stop(self, *_: Any) -> None:
        self._stopped = True

    def run(self, *, until_orphaned: bool) -> None:
        """Serve until SIGTERM; ``until_orphaned``: or until stdin or the parent process ends."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.stop_at(signal.SIGTERM)
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
                self._reap()
                self._end_late()
                if any(watch in ready for watch in parent):
                    return
                if stdin and 0 in ready and not os.read(0, 4096):
                    return
                self._hear(ready)
                if listener in ready:
                    self._accept()
        finally:
            if os.getpid() == self._pid:
                self._end()

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do even if nothing happens."""
        seconds = min(self._greeters.patience(), _TICK if self._sessions else math.inf)
        return None if seconds == math.inf else math.ceil(1000 * seconds)

    # -- who is there ------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError as error:  # it went away again, or there are no descriptors left
            if error.errno in (errno.EMFILE, errno.ENFILE):
                oldest = self._greeters.oldest()
                self._dismiss(oldest, "another one came") if oldest else time.sleep(0.05)
            return
        if in_the_way := self._greeters.in_the_way():
            self._dismiss(in_the_way, "another one came")
        self._greeters.add(Greeter(connection, peer[0]))
        self._poll.register(connection, select.POLLIN)

    def _hear(self, ready: list[int]) -> None:
        """Listen to those who have something to say; see off those who take too long."""
        for greeter in filter(None, map(self._greeters.get, ready)):
            try:
                greeting = greeter.listen()
                if greeting is None:
                    continue
                self._forget(greeter)
                with greeter.connection:
                    self._receive(greeter.connection, greeter.peer, greeting)
            # (A recursion error: JSON can be that deep.)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._dismiss(greeter, str(error))
        for greeter in self._greeters.expired():
            self._dismiss(greeter, "it said too little in time")

    def _receive(self, connection: socket.socket, peer: str, greeting: Greeting) -> None:
        """Be what somebody came for.

        Raises:
            OSError, ValueError, KeyError, TypeError, RecursionError: if they are none of ours.
        """
        if greeting.word == GET:
            if self._events is None:
                raise NotOurs("neither TVM's RPC protocol nor ours")
            if not knows_key(greeting.text, page_key(self._token)):
                connection.sendall(refusal())
                raise NotOurs(WRONG_KEY)
            self._fork(peer, lambda _: self._welcome(connection, greeting.text, peer))
        elif greeting.word == MAGIC:
            given = greeting.text.partition(b" ")[0]
            if not hmac.compare_digest(given, f"client:{self._token}".encode()):
                connection.sendall(pack_word(MISMATCH))
                raise NotOurs("wrong key")
            self._fork(peer, lambda session: self._serve(connection, peer, session))
        elif greeting.word == ASK:
            self._answer(connection, json.loads(greeting.text))
        else:
            session, token = self._session_of(json.loads(greeting.text))
            if greeting.word == BULK:
                hand_over(self._folder(session.number), "bulk", token, connection, wait=0)
            elif greeting.word == END:
                # Mostly it has noticed that the line is gone, and says how it ended.
                session.due = time.monotonic() + _GRACE
                connection.sendall(pack_word(END))

    def _answer(self, connection: socket.socket, question: dict[str, Any]) -> None:
        """Tell a client on another machine what became of its session.

        Raises:
            OSError, ValueError, KeyError, TypeError: if it is none of ours.
        """
        if not hmac.compare_digest(str(question["key"]).encode(), self._token.encode()):
            connection.sendall(pack_word(MISMATCH))
            raise NotOurs("wrong key")
        pid = int(question["pid"])
        answer = {"protocol": PROTOCOL, "exit": self._exits.get(pid)}
        if pid in self._sessions:
            answer["record"] = asdict(read_record(path_of(self._workroot, pid)))
        text = json.dumps(answer).encode()
        connection.sendall(pack_word(ASK) + pack_word(len(text)) + text)

    def _session_of(self, request: dict[str, Any]) -> tuple[_Session, bytes]:
        """The session that somebody belongs to who knows its token, and the token."""
        token = str(request["token"]).encode()
        for session in self._sessions.values():
            if session.number == request["session"]:
                if hmac.compare_digest(token, session.token.encode()):
                    return session, token
                raise NotOurs("wrong token")
        raise NotOurs("no such session")

    def _forget(self, greeter: Greeter) -> None:
        self._poll.unregister(greeter.connection)
        self._greeters.remove(greeter)

    def _dismiss(self, greeter: Greeter, why: str) -> None:
        """Hang up on somebody."""
        if greeter.connection.fileno() >= 0:
            self._forget(greeter)
            greeter.connection.close()
        self._emit(event="rejected", peer=greeter.peer, why=why)

    def _fork(self, peer: str, work: Callable[[_Session], None]) -> None:
        """Have a child of its own do something for a connection.

        Raises:
            OSError: if the machine has no room for one.
            NotOurs: if there are too many.
        """
        if len(self._sessions) >= _MAX_SESSIONS:
            raise NotOurs("too many connections")
        self._count += 1
        session = _Session(self._count)
        pid = os.fork()
        if pid:
            self._sessions[pid] = session
            return
        code = 1
        try:
            os.setsid()
            die_with(self._pid)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for descriptor in self._inherited:
                os.close(descriptor)
            for greeter in self._greeters:
                greeter.connection.close()
            work(session)
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    # -- in a connection's own child ---------------------------------------------------------------

    def _welcome(self, connection: socket.socket, head: bytes, peer: str) -> None:
        """Answer a browser."""
        connection.settimeout(_ANSWER_SECONDS)
        why = answer(connection, head, self._workroot)
        if why:
            self._emit(event="rejected", peer=peer, why=why)

    def _serve(self, connection: socket.socket, peer: str, session: _Session) -> None:
        """Speak RPC until the client hangs up."""
        from tapml_nb.targets.server.service import register_service

        connection.settimeout(None)
        folder = self._folder(session.number)
        folder.mkdir(mode=0o700)
        os.chdir(folder)
        log = os.open(self._log(session.number), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        keep_alive(connection)
        credentials = {"session": session.number, "token": session.token}
        recorder = Recorder(path_of(self._workroot, os.getpid()))
        same_host = self._events is not None
        register_service(folder, credentials, session.clock, recorder, same_host=same_host)
        self._emit(event="session", pid=os.getpid(), peer=peer)
        if self._events is not None:
            os.close(self._events)
        key = f"server:{os.getpid()}".encode()
        connection.sendall(pack_word(MAGIC) + struct.pack("<i", len(key)) + key)
        os._exit(_serve_until_the_end(connection))

    # -- clearing up -------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Take note of children that have ended, and end what they have left."""
        some = False
        with contextlib.suppress(ChildProcessError):  # there are none
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                some = True
                session = self._sessions.pop(found.si_pid, None)
                if session:
                    end(found.si_pid)  # its group: now, while the number is still its own
                _, status, usage = os.wait4(found.si_pid, 0)
                if session:
                    self._clear_up(found.si_pid, session, status, usage)
        if some:  # who became our child without being a session has lost its parent
            for pid in children() - self._sessions.keys():
                end(pid)

    def _clear_up(
        self, pid: int, session: _Session, status: int, usage: resource.struct_rusage
    ) -> None:
        session.clock.close()
        shutil.rmtree(self._folder(session.number), ignore_errors=True)
        log = self._take_log(session.number)
        path = path_of(self._workroot, pid)
        record = read_record(path)
        path.unlink(missing_ok=True)
        if log is None:
            return
        report = {
            "pid": pid,
            "record": asdict(record),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            "maxrss_mb": usage.ru_maxrss >> 10,
            "log": log,
        }
        if session.late:
            report["signal"] = int(signal.SIGALRM)  # which it did not hear
        # For a client on another machine, which does not hear our events, and asks.
        self._exits[pid] = report
        while len(self._exits) > _REMEMBERED:
            del self._exits[next(iter(self._exits))]
        self._emit(event="exit", **report)

    def _end_late(self) -> None:
        """End sessions that should have ended, or been done with what they are at, by now."""
        for pid, session in self._sessions.items():
            session.late |= session.clock.late(_GRACE)
            if session.late or session.due < time.monotonic():
                end(pid)

    def _end(self) -> None:
        end_all_children()
        shutil.rmtree(self._workroot, ignore_errors=True)

    def _folder(self, number: int) -> Path:
        return self._workroot / f"session-{number}"

    def _log(self, number: int) -> Path:
        return self._workroot / f"session-{number}.log"

    def _take_log(self, number: int) -> str | None:
        """The end of a session's log, which is removed; None if no session came of the child."""
        path = self._log(number)
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_TAIL))
                text = file.read().decode(errors="replace").strip()
            path.unlink()
        except OSError:
            return None
        return text

    def _emit(self, **event: Any) -> None:
        """One line, in one write, so that lines of several processes do not mix."""
        if self._events is not None:
            os.write(self._events, (json.dumps(event) + "\n").encode())


def _serve_until_the_end(connection: socket.socket) -> int:
    """Speak RPC on a connection; the exit status, which says how that ended."""
    import tvm_ffi

    ours = os.fstat(connection.fileno())
    try:
        tvm_ffi.get_global_func("rpc.ServerLoop")(connection.fileno())
    except Exception as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        try:
            still_ours = os.path.samestat(ours, os.fstat(connection.fileno()))
        except OSError:
            still_ours = False
        return HUNG_UP if still_ours else CLOSED
    return HUNG_UP


def load_runtime() -> None:
    """Load TVM's runtime into this process, without TVM's Python package and without PyTorch.

    And the service's modules too: a session's child then has them from its first moment.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a thread here would not survive a fork
    import tvm_ffi  # noqa: F401

    spec = find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed")
    folder = Path(spec.origin).parent / "lib"
    for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):  # extra: sort, topk, random
        ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
    import tapml_nb.targets.server.service  # noqa: F401


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _parent_watch() -> list[int]:
    """A descriptor that is ready when the parent ends.

    Standard input alone does not tell: forks of the parent may hold its other end.
    """
    with contextlib.suppress(OSError):  # kernels before 5.3, or a sandbox that knows it not
        return [os.pidfd_open(os.getppid())]
    return []


def keep_alive(connection: socket.socket) -> None:
    """No delays, and an end within minutes when the other machine is gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)


if __name__ == "__main__":
    sys.exit(main())
