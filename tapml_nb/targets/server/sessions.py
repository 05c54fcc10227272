"""The listener's children: a process for each connection, TVM's RPC in it, and how it ended."""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import math
import os
import resource
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tapml_nb.targets.server.leftovers import children, end
from tapml_nb.targets.wire.handshake import MAGIC, NotOurs, pack_word
from tapml_nb.targets.wire.recorder import CLOSED, HUNG_UP, ExitReport, Record, Recorder, path_of

_LOG_TAIL = 16_000
"""Characters: a stack trace of TVM's, and what was said before it."""

_REMEMBERED = 64
_MAX_SESSIONS = 64
"""Children at one time; even who has the key shall not take the machine down."""

_GRACE = 1.0
"""How much later than a session's own alarm the listener acts, in seconds."""

_PR_SET_PDEATHSIG = 1


@dataclass
class Session:
    """A session, as the listener knows it."""

    number: int
    workroot: Path  # the server's folder
    recorder: Recorder  # what its process is at, and when that has to be done
    # what a connection must know that belongs to it
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    late: bool = False  # whether it was ended because it was not done in time
    due: float = math.inf  # when it shall have ended, for its client asked for that

    @property
    def folder(self) -> Path:
        """Where its process works; not there before that has begun."""
        return self.workroot / f"session-{self.number}"

    @property
    def log(self) -> Path:
        """What its process writes."""
        return self.workroot / f"session-{self.number}.log"

    def end_soon(self) -> None:
        """Its client wants it to end.  Mostly it has noticed that the line is gone, and says how it
        ended; if not, it is ended in a moment."""
        self.due = time.monotonic() + _GRACE


class Sessions:
    """Forks them, ends those that are late, and clears up after all."""

    def __init__(self, workroot: Path, on_exit: Callable[[int, ExitReport], None]) -> None:
        """``on_exit`` is told of the end of each session's process."""
        self._workroot = workroot
        self._on_exit = on_exit
        self._pid = os.getpid()
        self._sessions: dict[int, Session] = {}
        self._exits: dict[int, ExitReport] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, work: Callable[[Session], None]) -> None:
        """Have a child of its own do something; OSError if the machine has no room for one, NotOurs
        if there are too many."""
        if len(self) >= _MAX_SESSIONS:
            raise NotOurs("too many connections")
        self._count += 1
        recorder = Recorder(path_of(self._workroot, self._count))
        session = Session(self._count, self._workroot, recorder)
        try:
            pid = os.fork()
        except OSError:
            self._forget(session)
            raise
        if pid:
            self._sessions[pid] = session
            return
        code = 1
        try:
            os.setsid()
            _die_with(self._pid)
            for other in self._sessions.values():
                other.recorder.close()  # out of a kernel's reach
            work(session)
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def of(self, request: dict[str, Any]) -> Session:
        """The session that somebody belongs to who knows its token; NotOurs if there is none."""
        token = str(request["token"]).encode()
        for session in self._sessions.values():
            if session.number == request["session"]:
                if hmac.compare_digest(token, session.token.encode()):
                    return session
                raise NotOurs("wrong token")
        raise NotOurs("no such session")

    def record_of(self, pid: int) -> Record | None:
        """What a session's process is at; None if there is none."""
        session = self._sessions.get(pid)
        return session.recorder.read() if session else None

    def exit_of(self, pid: int) -> ExitReport | None:
        """How a session's process ended, if it did not long ago."""
        return self._exits.get(pid)

    def end_late(self) -> None:
        """End sessions that should have ended, or been done with what they are at, by now."""
        for pid, session in self._sessions.items():
            session.late |= session.recorder.late(_GRACE)
            if session.late or session.due < time.monotonic():
                end(pid)

    def reap(self) -> None:
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
        self, pid: int, session: Session, status: int, usage: resource.struct_rusage
    ) -> None:
        shutil.rmtree(session.folder, ignore_errors=True)
        log, record = _take_log(session.log), session.recorder.read()
        self._forget(session)
        if log is None:
            return
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        report = ExitReport(
            int(signal.SIGALRM) if session.late else signalled,  # which it did not hear
            os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            log,
            record,
            usage.ru_maxrss >> 10,
        )
        # For a client on another machine, which does not hear our events, and asks.
        self._exits[pid] = report
        while len(self._exits) > _REMEMBERED:
            del self._exits[next(iter(self._exits))]
        self._on_exit(pid, report)

    def _forget(self, session: Session) -> None:
        session.recorder.close()
        path_of(self._workroot, session.number).unlink(missing_ok=True)


def _take_log(path: Path) -> str | None:
    """The end of a session's log, which is removed; None if no session came of the child."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL))
            text = file.read().decode(errors="replace").strip()
        path.unlink()
    except OSError:
        return None
    return text


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def serve_session(
    connection: socket.socket, session: Session, *, same_host: bool, ready: Callable[[], None]
) -> NoReturn:
    """In a session's process: speak RPC until the client, who has shown the key, hangs up, and end
    the process.

    ``same_host``: whether the client shares this machine's files; ``ready``: called when the log
    stands in the place of standard output.
    """
    from tapml_nb.targets.server.service import SessionService

    connection.settimeout(None)
    session.folder.mkdir(mode=0o700)
    os.chdir(session.folder)
    log = os.open(session.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((null, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _keep_alive(connection)
    credentials = {"session": session.number, "token": session.token}
    service = SessionService(session.folder, credentials, session.recorder, same_host=same_host)
    service.register()
    ready()
    key = f"server:{os.getpid()}".encode()
    connection.sendall(pack_word(MAGIC) + pack_word(len(key)) + key)
    os._exit(_serve_until_the_end(connection))


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


def _keep_alive(connection: socket.socket) -> None:
    """No delays, and an end within minutes when the other machine is gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
