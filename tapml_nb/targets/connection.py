"""One connection to a target: TVM's RPC session and the tensor socket beside it.

A connection that broke is dropped whole and replaced.  TVM gives no handle on its socket and
blocks in it without a time limit; so this module finds the socket among the process's
descriptors, for shutting it down is the one safe way to free a thread that waits in TVM.

A fork of this process would say goodbye to the target when it frees TVM's session.  So its copies
of the sockets are replaced, at once when it is forked, by one that leads nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import weakref
from pathlib import Path
from typing import Any

from tapml_nb.owner import Owner
from tapml_nb.targets.bulk import BulkClient
from tapml_nb.targets.devices import BEYOND
from tapml_nb.targets.errors import BeyondTarget, TargetError, TargetLost
from tapml_nb.targets.greeting import END, pack_word
from tapml_nb.targets.plain import PlainService

_CONNECT_SECONDS = 10.0
_END_SECONDS = 2.0
_MESSAGE_LIMIT = 2000

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Connections that a fork would inherit."""


class Connection:
    """An RPC session with what belongs to it, and nothing that outlives it.

    Attributes:
        pid: the session's process, once :meth:`open_service` has been there.
        resident: keys of the tensors there.
        loaded: libraries that are loaded there.
    """

    def __init__(self, host: str, port: int, key: str, *, local: bool, scheme: str = "") -> None:
        """Connect to a server; with the scheme ``"tracker"`` to one that a tracker knows.

        Raises:
            TargetLost: if nobody answers in time, or the key is refused.
        """
        self._owner = Owner()
        self._host = host
        self._port = port
        self._local = local
        self._credentials: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        self._process: int | None = None
        self._bulk: BulkClient | None = None
        self._lock = threading.Lock()
        self.pid = 0
        self.platform: dict[str, Any] = {}
        self.resident: set[str] = set()
        self.loaded: set[Path] = set()
        self._plain: PlainService | None = None
        self._rpc, self._sockets, self._descriptors = _connect_rpc(host, port, key, scheme)
        _open.add(self)

    def open_service(self, kind: str, device: int, seconds: float) -> None:
        """Get to know the server, choose its device, and open the tensor socket.

        Raises:
            TargetError: if the server has no such device.
        """
        hello = None
        with contextlib.suppress(AttributeError):
            hello = self.remote("tapml.hello")
        if hello is None:  # not in the handler: that error's traceback would hold TVM's session
            self._plain = PlainService(self._rpc, kind, device)
            self.platform = {"machine": "", "plain": True}
            return
        self.platform = json.loads(hello)
        self.pid = self.platform["pid"]
        if self._local:
            with contextlib.suppress(OSError):  # it is dead already, or the kernel is old
                self._process = os.pidfd_open(self.pid)
        device_seconds = str(seconds - 1)  # it shall be the first to give up
        found = self.remote("tapml.use", kind, str(device), device_seconds)
        self.platform["device"] = json.loads(found)
        self._credentials = json.loads(self.remote("tapml.bulk"))
        bulk = BulkClient(self._host, self._port, self._credentials, _CONNECT_SECONDS)
        bulk.connection.settimeout(seconds)
        self._bulk = bulk

    @property
    def plain(self) -> bool:
        """Whether this is TVM's own server."""
        return self._plain is not None

    @property
    def bulk(self) -> BulkClient | PlainService:
        """The tensor socket, or what stands in its place."""
        if self._plain:
            return self._plain
        assert self._bulk is not None
        return self._bulk

    def remote(self, name: str, *arguments: str) -> Any:
        """Call a function of the target's service.

        Raises:
            TargetError: if it raises there; the connection is fine.
            BeyondTarget: if the device cannot do that.
            Exception: any other, if the connection broke.
        """
        try:
            if self._plain:
                return self._plain.call(name, *arguments)
            if name not in self._functions:
                self._functions[name] = self._rpc.get_function(name)
            return self._functions[name](*arguments)
        except TargetError:
            raise
        except Exception as error:
            if _is_answer(error):
                said = _message(error)
                if said.startswith(BEYOND):
                    raise BeyondTarget(said.removeprefix(BEYOND)) from None
                raise TargetError(said) from None
            raise

    def sever(self) -> None:
        """End the session's process, and cut the line to it; from any thread.

        Whatever waits for the target returns at once, with an error, also where processes that a
        kernel has left hold the other end of the line.
        """
        if self._owner.elsewhere:
            return
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)
            for connection in self._all_sockets():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._end_session()

    def close(self) -> None:
        """Drop everything: at most 32 RPC sessions fit into a client process.

        The sockets first: freeing a remote function is a round trip on a line that still stands,
        without a time limit and with the interpreter's lock held, so that no watchdog could bite.
        """
        if self._owner.elsewhere:
            return
        with self._lock:
            for connection in self._all_sockets():
                _hang_up(connection)
            self._end_session()
            if self._process is not None:
                os.close(self._process)
            self._process = self._bulk = self._plain = None
            self._sockets = []
            self._descriptors = set()
        self._functions.clear()
        self._rpc = None

    def _end_session(self) -> None:
        """Have a listener elsewhere end the session's process, which may not hear that the line is
        gone: it runs a kernel, or was stopped.  (The one of this machine does so by itself.)"""
        if self._credentials and not self._local:
            where = (self._host, self._port)
            threading.Thread(
                target=_ask_for_the_end,
                args=(where, self._credentials),
                name="tapml-end",
                daemon=True,
            ).start()
        self._credentials = {}

    def lead_nowhere(self, dead: socket.socket) -> None:
        """In a fork: have no part in the line.  TVM's own descriptor is among them."""
        for number in [*self._descriptors, *(one.fileno() for one in self._all_sockets())]:
            if number >= 0:
                os.dup2(dead.fileno(), number)

    def _all_sockets(self) -> list[socket.socket]:
        return [*self._sockets, *([self._bulk.connection] if self._bulk else [])]


def _cut_off_fork() -> None:
    """In a fork, before anything else: no line to any target."""
    here, there = socket.socketpair()
    there.close()
    with here:
        for connection in list(_open):
            connection.lead_nowhere(here)


os.register_at_fork(after_in_child=_cut_off_fork)


def _ask_for_the_end(where: tuple[str, int], credentials: dict[str, Any]) -> None:
    """Ask a listener to end a session; if it does not answer, nobody can."""
    text = json.dumps(credentials).encode()
    with contextlib.suppress(OSError), socket.create_connection(where, _END_SECONDS) as line:
        line.sendall(pack_word(END) + pack_word(len(text)) + text)
        line.recv(4)


def _connect_rpc(
    host: str, port: int, key: str, scheme: str
) -> tuple[Any, list[socket.socket], set[int]]:
    """``tvm.rpc.connect`` within a time limit; it has none of its own.  Nor has a tracker.

    Returns:
        The RPC session, duplicates of its socket, and the descriptor that TVM itself uses.
    """
    from tvm import rpc

    answer: list[Any] = []

    def connect() -> None:
        try:
            if scheme == "tracker":
                answer.append(rpc.connect_tracker(host, port).request(key, max_retry=1))
            else:
                answer.append(rpc.connect(host, port, key))
        except Exception as error:
            answer.append(error)

    peer = None if scheme == "tracker" else port  # who sends us to a port of its choice
    before = _descriptors(peer)
    thread = threading.Thread(target=connect, name="tapml-connect", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    descriptors = _descriptors(peer) - before
    sockets = [socket.socket(fileno=os.dup(fd)) for fd in descriptors]
    if answer and not isinstance(answer[0], Exception):
        return answer[0], sockets, descriptors
    answered = bool(answer)  # hanging up makes the thread say something, too
    for connection in sockets:
        _hang_up(connection)
    where = f"{host}:{port}"
    if not answered:
        thread.join(1)
        if scheme == "tracker":
            raise TargetLost("connection", f"no server with the key {key!r} is free at {where}")
        raise TargetLost("connection", f"{where} does not answer")
    if "cannot find server that matches" in str(answer[0]):
        raise TargetLost("connection", f"{where} refuses the key")
    raise TargetLost("connection", f"{where}: {_message(answer[0])}")


def _hang_up(connection: socket.socket) -> None:
    """End a connection, also where a fork of this process holds it too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _descriptors(port: int | None) -> set[int]:
    """Descriptors of this process that are connected to a port; to any if that is None."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as duplicate:
                    internet = duplicate.family in (socket.AF_INET, socket.AF_INET6)
                    if internet and (port is None or duplicate.getpeername()[1] == port):
                        found.add(int(name))
    return found


def _is_answer(error: Exception) -> bool:
    """Whether the target answered with an error, as against not answering."""
    return type(error).__name__ == "RPCError"


def _message(error: Exception) -> str:
    """What the target said, without what TVM put around it."""
    said = str(error).rpartition("Error caught from RPC call:")[2]
    return " ".join(said.split())[:_MESSAGE_LIMIT] or type(error).__name__
