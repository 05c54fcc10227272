"""The target server: ``python -m tapml_nb.targets.server``.

It speaks TVM's RPC protocol, so TVM's own client connects to it, and is made to be crashed: one
listener process, without threads and without a device, forks a child per session.  A kernel that
kills its process kills one child; the listener reports how it died, clears up after it, and
accepts the next session.  (TVM's stock server stops accepting after the first crash, takes
seconds to start, and lets anyone who reaches its port run code.)

Events are JSON lines on stdout: ``ready``, ``session``, ``exit`` (signal, code, the last lines of
the session's log), ``rejected``.  The end of stdin ends the server, so it never outlives the
process that started it.  The token is read from the environment, ``TAPML_TOKEN``.

Needs tvm_ffi, NumPy and TVM's runtime library, and nothing else: it is ready in a third of a
second.
"""

from __future__ import annotations

import argparse
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
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MAGIC = 0xFF271
"""First word of TVM's RPC handshake (``tvm.rpc.base.RPC_MAGIC``)."""

_MISMATCH = MAGIC + 2
_HANDSHAKE_SECONDS = 5.0
_LOG_TAIL = 1500
_REMEMBERED = 64
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run a server for the process at the other end of stdin."""
    parser = argparse.ArgumentParser(prog="tapml_nb.targets.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workroot", type=Path, required=True)
    parsed = parser.parse_args()
    server = Server(parsed.host, parsed.port, os.environ.pop("TAPML_TOKEN"), parsed.workroot)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the notebook
    server.run(watch_stdin=True)
    return 0


def serve_standalone(host: str, port: int) -> int:
    """Serve until interrupted; prints what a notebook has to paste (``tapml serve``)."""
    token = os.environ.pop("TAPML_TOKEN", "") or secrets.token_hex(16)
    workroot = Path(tempfile.mkdtemp(prefix="tapml-serve-"))
    server = Server(host, port, token, workroot, quiet=True)
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    print(f"serving on {host}:{server.port}; in the notebook:", flush=True)
    print(f"  Target('llvm', rpc='{shown}:{server.port}/{token}')", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("whoever has this key can run code here; prefer an SSH tunnel", flush=True)
    try:
        server.run(watch_stdin=False)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


class Server:
    """The listener: accepts, forks, reaps, reports."""

    def __init__(
        self, host: str, port: int, token: str, workroot: Path, *, quiet: bool = False
    ) -> None:
        self._host = host
        self._token = token
        self._workroot = workroot.resolve()
        self._quiet = quiet
        self._events = os.dup(1)
        self._sessions: dict[int, int] = {}
        self._exits: dict[int, dict[str, Any]] = {}
        self._count = 0
        load_runtime()
        self._listener = socket.create_server((host, port), backlog=16)
        self.port: int = self._listener.getsockname()[1]

    def run(self, *, watch_stdin: bool) -> None:
        """Serve until stdin ends, or SIGTERM."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self._emit(event="ready", port=self.port, pid=os.getpid())
        watched: list[Any] = [self._listener, read, *([0] if watch_stdin else [])]
        listener_pid = os.getpid()
        try:
            while True:
                ready, _, _ = select.select(watched, [], [])
                if read in ready:
                    self._drain(read)
                self._reap()
                if watch_stdin and 0 in ready and not os.read(0, 4096):
                    return
                if self._listener in ready:
                    self._accept(read, write)
        finally:
            if os.getpid() == listener_pid:
                self._end()

    def _accept(self, *inherited: int) -> None:
        connection, peer = self._listener.accept()
        self._count += 1
        pid = os.fork()
        if pid:
            connection.close()
            self._sessions[pid] = self._count
            return
        code = 1
        try:
            die_with_parent()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._listener.close()
            for descriptor in inherited:
                os.close(descriptor)
            code = self._serve(connection, peer[0])
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def _serve(self, connection: socket.socket, peer: str) -> int:
        """The session child: authenticate, then speak RPC until the client hangs up."""
        refusal = self._refusal(connection)
        if refusal:
            self._emit(event="rejected", peer=peer, why=refusal)
            return 0
        folder = self._folder(self._count)
        folder.mkdir(mode=0o700)
        log = os.open(self._log(self._count), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        events = os.dup(self._events)
        os.dup2(log, 1)
        os.dup2(log, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        register_service(folder, self._host, self._exits)
        key = f"server:{os.getpid()}".encode()
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._emit(event="session", pid=os.getpid(), peer=peer)
        os.close(events)
        connection.sendall(struct.pack("<ii", MAGIC, len(key)) + key)
        import tvm_ffi

        tvm_ffi.get_global_func("rpc.ServerLoop")(connection.fileno())
        return 0

    def _refusal(self, connection: socket.socket) -> str:
        """Read the client's greeting; returns why it is refused, or nothing."""
        connection.settimeout(_HANDSHAKE_SECONDS)
        try:
            magic, length = struct.unpack("<ii", _receive(connection, 8))
            if magic != MAGIC or not 0 <= length < 4096:
                return "not TVM's RPC protocol"
            key = _receive(connection, length).decode().partition(" ")[0]
            if hmac.compare_digest(key.encode(), f"client:{self._token}".encode()):
                return ""
            connection.sendall(struct.pack("<i", _MISMATCH))
            return "wrong key"
        except (OSError, UnicodeDecodeError) as error:
            return f"no greeting: {error}"

    def _reap(self) -> None:
        while self._sessions:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._sessions.pop(pid)
            shutil.rmtree(self._folder(number), ignore_errors=True)
            report = {
                "event": "exit",
                "pid": pid,
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
                "maxrss_mb": usage.ru_maxrss >> 10,
                "log": self._take_log(number),
            }
            # A session forked from now on inherits this, and can tell a client on another
            # machine, which does not hear our events, how its last session ended.
            self._exits[pid] = report
            while len(self._exits) > _REMEMBERED:
                del self._exits[next(iter(self._exits))]
            self._emit(**report)

    def _end(self) -> None:
        for pid in self._sessions:
            os.kill(pid, signal.SIGKILL)
        for pid in self._sessions:
            os.waitpid(pid, 0)
        shutil.rmtree(self._workroot, ignore_errors=True)

    def _drain(self, read: int) -> None:
        try:
            os.read(read, 4096)
        except BlockingIOError:
            return

    def _folder(self, number: int) -> Path:
        return self._workroot / f"session-{number}"

    def _log(self, number: int) -> Path:
        return self._workroot / f"session-{number}.log"

    def _take_log(self, number: int) -> str:
        path = self._log(number)
        try:
            text = path.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
            path.unlink()
        except OSError:
            return ""
        return text

    def _emit(self, **event: Any) -> None:
        """One line, in one write, so that lines of several processes do not mix."""
        if not self._quiet:
            os.write(self._events, (json.dumps(event) + "\n").encode())


def load_runtime() -> None:
    """Load TVM's runtime into this process, without TVM's Python package and without PyTorch."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a thread here would not survive a fork
    import tvm_ffi  # noqa: F401

    spec = find_spec("tvm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed")
    folder = Path(spec.origin).parent / "lib"
    for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):  # extra: sort, topk, random
        ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)


def register_service(folder: Path, host: str, exits: dict[int, dict[str, Any]]) -> None:
    """Register what a session's client can call, beside TVM's own RPC functions."""
    import tvm_ffi

    from tapml_nb.targets.bulk import BulkServer
    from tapml_nb.targets.memory import KernelRunner, TensorMemory

    def confined(name: str) -> str:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"the path {name} leaves the session's folder")
        return str(path)

    def call(request: str) -> str:
        # The kernel's own deadline, kept by the operating system: an endless loop in native
        # code hears nothing else.  The default action of SIGALRM ends the process.
        signal.setitimer(signal.ITIMER_REAL, json.loads(request)["timeout"])
        try:
            return runner.call(request)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def load(name: str, plans: str) -> None:
        runner.load(name if Path(name).is_absolute() else confined(name), plans)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    memory = TensorMemory()
    runner = KernelRunner(memory)
    functions = {
        "tvm.rpc.server.workpath": confined,
        "tvm.rpc.server.load_module": lambda name: tvm_ffi.load_module(confined(name)),
        "tapml.hello": lambda: json.dumps(
            {"pid": os.getpid(), "machine": os.uname().machine, "cpus": os.cpu_count()}
        ),
        "tapml.bulk": lambda: BulkServer(memory, folder, host).address(),
        "tapml.load": load,
        "tapml.call": call,
        "tapml.statistics": runner.statistics,
        "tapml.drop": lambda keys: memory.drop(json.loads(keys)),
        "tapml.held": memory.held,
        "tapml.exit_of": lambda pid: json.dumps(exits.get(int(pid))),
    }
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (Linux)."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, within the handshake's time."""
    deadline = time.monotonic() + _HANDSHAKE_SECONDS
    data = b""
    while len(data) < size:
        if time.monotonic() > deadline:
            raise TimeoutError("too slow")
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed")
        data += chunk
    return data


if __name__ == "__main__":
    sys.exit(main())
