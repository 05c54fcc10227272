"""The target server: ``python -m tapml_nb.targets.server``.

It speaks TVM's RPC protocol, so TVM's own client connects to it, and is made to be crashed: one
listener process, without threads and without a device, forks a child per session.  A kernel that
kills its process kills one child; the listener reports how it died, clears up after it, and
accepts the next session.  (TVM's stock server stops accepting after the first crash, takes
seconds to start, and lets anyone who reaches its port run code.)

Every connection is greeted in a child of its own, so one that is silent or malicious keeps nobody
waiting.  A connection is a session, or the tensor channel of a session: the child then hands the
socket over to that session's child.  So one port is all that a firewall or a tunnel has to open.
A browser that connects is given the page that becomes a target (:mod:`tapml_nb.targets.pages`).

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
import hmac
import json
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
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapml_nb.targets.door import hand_over
from tapml_nb.targets.greeting import (
    ASK,
    BULK,
    GET,
    MAGIC,
    MISMATCH,
    PROTOCOL,
    SECONDS,
    Deadline,
    NotOurs,
    pack_word,
    receive_head,
    receive_text,
    receive_word,
)
from tapml_nb.targets.recorder import (
    CLOSED,
    HUNG_UP,
    Recorder,
    path_of,
    read_record,
)

_LOG_TAIL = 16_000
"""Characters: a stack trace of TVM's, and what was said before it."""
_REMEMBERED = 64
_MAX_SESSIONS = 64
"""Children at one time; a flood of connections shall not take the machine down."""

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run a server for the process at the other end of stdin."""
    parser = argparse.ArgumentParser(prog="tapml_nb.targets.server")
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
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    print(f"serving on {host}:{server.port}; in the notebook:", flush=True)
    print(f"  Target('llvm', rpc='{shown}:{server.port}/{token}')", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("whoever has this key can run code here; prefer an SSH tunnel", flush=True)
    try:
        server.run(until_orphaned=False)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


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
        self._sessions: dict[int, int] = {}
        self._exits: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._inherited: list[int] = []
        load_runtime()
        self._listener = socket.create_server((host, port), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def run(self, *, until_orphaned: bool) -> None:
        """Serve until SIGTERM; ``until_orphaned``: or until stdin or the parent process ends."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        parent = _parent_watch() if until_orphaned else []
        stdin = [0] if until_orphaned else []
        listener = self._listener.fileno()
        self._inherited = [listener, read, write, *parent]
        self._emit(event="ready", port=self.port, pid=self._pid)
        try:
            while True:
                ready, _, _ = select.select([listener, read, *stdin, *parent], [], [])
                if read in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(read, 4096)
                self._reap()
                if any(watch in ready for watch in parent):
                    return
                if 0 in ready and not os.read(0, 4096):
                    return
                if listener in ready:
                    self._accept()
        finally:
            if os.getpid() == self._pid:
                self._end()

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError as error:  # it went away again, or there are no descriptors left
            self._emit(event="rejected", peer="", why=str(error))
            return
        if len(self._sessions) >= _MAX_SESSIONS:
            self._emit(event="rejected", peer=peer[0], why="too many connections")
            connection.close()
            return
        self._count += 1
        pid = os.fork()
        if pid:
            connection.close()
            self._sessions[pid] = self._count
            return
        code = 1
        try:
            die_with(self._pid)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for descriptor in self._inherited:
                os.close(descriptor)
            self._greet(connection, peer[0])
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    # -- in a connection's own child ---------------------------------------------------------------

    def _greet(self, connection: socket.socket, peer: str) -> None:
        """Find out who is there, and be what they came for."""
        deadline = Deadline(connection, SECONDS)
        try:
            word = receive_word(deadline)
            if word == GET and self._events is not None:
                self._welcome(connection, receive_head(deadline), peer)
                return
            text = receive_text(deadline)
            if word == ASK:
                self._answer(connection, json.loads(text))
                return
            if word == BULK:
                self._hand_over(connection, json.loads(text))
                return
            if word != MAGIC:
                raise NotOurs("neither TVM's RPC protocol nor ours")
            if not hmac.compare_digest(
                text.partition(" ")[0].encode(), f"client:{self._token}".encode()
            ):
                connection.sendall(pack_word(MISMATCH))
                raise NotOurs("wrong key")
        except (OSError, ValueError, KeyError) as error:
            self._emit(event="rejected", peer=peer, why=str(error))
            return
        connection.settimeout(None)
        self._serve(connection, peer)

    def _welcome(self, connection: socket.socket, head: bytes, peer: str) -> None:
        """Answer a browser."""
        from tapml_nb.targets.pages import answer, page_key

        why = answer(connection, head, page_key(self._token), self._workroot)
        if why:
            self._emit(event="rejected", peer=peer, why=why)

    def _answer(self, connection: socket.socket, question: dict[str, Any]) -> None:
        """Tell a client on another machine what became of its session."""
        if not hmac.compare_digest(str(question["key"]).encode(), self._token.encode()):
            connection.sendall(pack_word(MISMATCH))
            raise NotOurs("wrong key")
        pid = int(question["pid"])
        answer = {"protocol": PROTOCOL, "exit": self._exits.get(pid)}
        if pid in self._sessions:
            answer["record"] = asdict(read_record(path_of(self._workroot, pid)))
        text = json.dumps(answer).encode()
        connection.sendall(pack_word(ASK) + pack_word(len(text)) + text)

    def _hand_over(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Give a tensor connection to its session, which checks the token."""
        token = str(request["token"]).encode()
        hand_over(self._folder(int(request["session"])), "bulk", token, connection, SECONDS)

    def _serve(self, connection: socket.socket, peer: str) -> None:
        """Speak RPC until the client hangs up."""
        from tapml_nb.targets.service import register_service

        folder = self._folder(self._count)
        folder.mkdir(mode=0o700)
        os.chdir(folder)
        log = os.open(self._log(self._count), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        keep_alive(connection)
        recorder = Recorder(path_of(self._workroot, os.getpid()))
        same_host = self._events is not None
        register_service(folder, self._count, recorder, same_host=same_host)
        self._emit(event="session", pid=os.getpid(), peer=peer)
        if self._events is not None:
            os.close(self._events)
        key = f"server:{os.getpid()}".encode()
        connection.sendall(pack_word(MAGIC) + struct.pack("<i", len(key)) + key)
        os._exit(_serve_until_the_end(connection))

    # -- clearing up -------------------------------------------------------------------------------

    def _reap(self) -> None:
        while self._sessions:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            number = self._sessions.pop(pid)
            shutil.rmtree(self._folder(number), ignore_errors=True)
            log = self._take_log(number)
            record = path_of(self._workroot, pid)
            if log is None:
                record.unlink(missing_ok=True)
                continue
            report = {
                "pid": pid,
                "record": asdict(read_record(record)),
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
                "maxrss_mb": usage.ru_maxrss >> 10,
                "log": log,
            }
            record.unlink(missing_ok=True)
            # Whoever is asked from now on inherits this, and can tell a client on another
            # machine, which does not hear our events, how its session ended.
            self._exits[pid] = report
            while len(self._exits) > _REMEMBERED:
                del self._exits[next(iter(self._exits))]
            self._emit(event="exit", **report)

    def _end(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in self._sessions:
            os.kill(pid, signal.SIGKILL)
        for pid in self._sessions:
            os.waitpid(pid, 0)
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
    import tapml_nb.targets.service  # noqa: F401


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
