"""A session's own process: its folder, its log, and TVM's RPC until the client hangs up."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from tapml_nb.targets.server.sessions import Session
from tapml_nb.targets.wire.handshake import MAGIC, pack_word
from tapml_nb.targets.wire.recorder import CLOSED, HUNG_UP


def serve_session(
    connection: socket.socket, session: Session, *, same_host: bool, ready: Callable[[], None]
) -> NoReturn:
    """Speak RPC until the client hangs up, and end the process.

    Args:
        connection: to the client, who has shown the key.
        session: what the listener knows of it.
        same_host: whether the client shares this machine's files.
        ready: called when the log stands in the place of standard output.
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
    connection.sendall(pack_word(MAGIC) + struct.pack("<i", len(key)) + key)
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
    # TVM's handler looks up the name of every frame first, and may be ended before it says a word.
    faulthandler.enable(2, all_threads=False)
    import tapml_nb.targets.server.service  # noqa: F401


def _keep_alive(connection: socket.socket) -> None:
    """No delays, and an end within minutes when the other machine is gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
