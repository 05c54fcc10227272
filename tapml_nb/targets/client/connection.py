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
import time
import weakref
from collections import defaultdict
from pathlib import Path
from select import select
from typing import Any

from tapml_nb.owner import Owner
from tapml_nb.targets.client.stock_rpc import PlainService, is_answer
from tapml_nb.targets.wire.envelope import Garbled, error_of, seal, unseal
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.targets.wire.handshake import ASK, END, MISMATCH, PROTOCOL, pack_word
from tapml_nb.targets.wire.recorder import Record
from tapml_nb.targets.wire.tensor_channel import BulkClient

_CONNECT_SECONDS = 10.0
_END_SECONDS = 2.0
_CONNECTING: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
"""Held, by port, while a socket is made."""

_MOST_SESSIONS = 32
_ANSWER_LIMIT = 1 << 20
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

    def __init__(
        self, host: str, port: int, key: str, *, local: bool, ours: bool, scheme: str = ""
    ) -> None:
        """Connect to a server.

        Args:
            host: where it listens.
            port: its port.
            key: what it wants to hear.
            local: whether this process has started it.
            ours: whether it is a server of ours, and not of TVM's.
            scheme: ``"tracker"`` or ``"proxy"``: it is behind one.

        Raises:
            TargetLost: if nobody answers in time, or the key is refused.
            TargetError: if it speaks another protocol, or TVM takes no more sessions.
        """
        self._owner = Owner()
        self._host = host
        self._port = port
        self._local = local
        self._credentials: dict[str, Any] = {}
        self._said_hello: Any = None
        self._do: Any = None
        self._asked = 0
        self._process: int | None = None
        self._bulk: BulkClient | None = None
        self._lock = threading.Lock()
        self.pid = 0
        self.platform: dict[str, Any] = {}
        self.resident: set[str] = set()
        self.loaded: set[Path] = set()
        self._plain: PlainService | None = None
        self._ours = ours
        if not local and ours:  # who is there is asked first: TVM's client leaves sockets open
            refuse_other(host, port, ask(host, port, key).get("protocol"))
        elif not local and scheme != "tracker":
            _reach(host, port).close()
        self._rpc, self._sockets, self._descriptors = _connect_rpc(host, port, key, scheme)
        _open.add(self)

    def greet(self, kind: str, device: int) -> None:
        """Get to know the server.

        Raises:
            TargetError: if it is of another version, or has no such device.
        """
        hello = self._hello() or self._hello()  # a damaged name is no server of TVM's own
        if hello is None and not self._ours:
            self._plain = PlainService(self._rpc, kind, device)
            self.platform = {"machine": "", "plain": True}
            return
        try:
            self.platform = json.loads(hello or "{}")
            refuse_other(self._host, self._port, self.platform.get("protocol"))
            self.pid = int(self.platform["pid"])
            self._do = self._rpc.get_function("tapml.do")
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Garbled("a greeting that makes no sense") from None
        if self._local:
            with contextlib.suppress(OSError):  # it is dead already, or the kernel is old
                self._process = os.pidfd_open(self.pid)

    def open_service(self, kind: str, device: int, seconds: float) -> None:
        """Choose the server's device, and open the tensor socket.

        Raises:
            TargetError: if the server has no such device.
        """
        if self._plain:
            return
        device_seconds = str(seconds - 1)  # it shall be the first to give up
        self.platform["device"] = parsed(self.remote("use", kind, str(device), device_seconds))
        self._credentials = parsed(self.remote("bulk"))
        checked = not self._local
        with _CONNECTING[self._port]:
            bulk = BulkClient(
                self._host, self._port, self._credentials, _CONNECT_SECONDS, checked=checked
            )
        bulk.connection.settimeout(seconds)
        self._bulk = bulk

    def _hello(self) -> Any:
        """What our server says of itself; None if it has no word for it."""
        try:
            if self._said_hello is None:  # kept: freeing it is a round trip of its own
                self._said_hello = self._rpc.get_function("tapml.hello")
            return self._said_hello()
        except AttributeError:
            return None

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

    @property
    def stopped(self) -> bool:
        """Whether the session's process, on this machine, was stopped (``SIGSTOP``)."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return self._local and state in ("T", "t")

    @property
    def ended(self) -> bool:
        """Whether the session's process, on this machine, has ended."""
        with self._lock:
            return self._process is not None and bool(select([self._process], [], [], 0)[0])

    @property
    def record(self) -> Record | None:
        """What TVM's own server is at, which this side knows; None if it is ours."""
        return self._plain.record() if self._plain else None

    def remote(self, name: str, *arguments: str) -> Any:
        """Call a function of the target's service.

        Raises:
            TargetError: if it raises there; the connection is fine.
            BeyondTarget: if the device cannot do that.
            Exception: any other, if the connection broke.
        """
        if self._plain:
            try:
                return self._plain.call(name, *arguments)
            except TargetError:
                raise
            except Exception as error:
                if is_answer(error):
                    raise TargetError(_message(error)) from None
                raise
        self._asked += 1
        try:
            answer = unseal(self._do(seal([self._asked, name, arguments])))
        except Exception as error:
            if is_answer(error):
                raise Garbled(_message(error)) from None
            raise
        if answer["number"] != self._asked:
            raise Garbled("an answer to something else")
        refusal = error_of(answer)
        if refusal:
            raise refusal
        return answer["answer"]

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
        self._said_hello = self._do = None
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


def parsed(text: Any) -> dict[str, Any]:
    """An answer that is to be a JSON object.

    Raises:
        Garbled: if it is none.
    """
    try:
        answer = json.loads(text)
    except (TypeError, ValueError):
        answer = None
    if not isinstance(answer, dict):
        raise Garbled(f"an unexpected answer: {text!r:.80}")
    return answer


def refuse_other(host: str, port: int, protocol: Any) -> None:
    """Refuse a server that speaks another protocol.

    Raises:
        TargetError: if it does.
    """
    if protocol != PROTOCOL:
        theirs = "none that has a number" if protocol is None else protocol
        raise TargetError(
            f"the server at {host}:{port} speaks protocol {theirs}, this notebook protocol "
            f"{PROTOCOL}: install the same version of tapml_nb on both sides, and start it again"
        )


def ask(host: str, port: int, key: str, pid: int = 0) -> dict[str, Any]:
    """Ask a server of ours on another machine for its protocol, and what became of a process.

    Returns:
        ``protocol``; ``exit``, the report on a process that has ended; ``record`` of one that
        has not.

    Raises:
        TargetLost: if nobody of ours answers.
        OSError: if the line breaks.
    """
    where = f"{host}:{port}"
    text = json.dumps({"key": key, "pid": pid}).encode()
    connection = _reach(host, port)
    with connection:
        deadline = time.monotonic() + _CONNECT_SECONDS

        def receive(size: int) -> bytes:
            data = b""
            while len(data) < size:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                chunk = connection.recv(size - len(data))
                if not chunk:
                    raise ConnectionError("it hung up")
                data += chunk
            return data

        try:
            connection.sendall(pack_word(ASK) + pack_word(len(text)) + text)
            word, size = receive(4), 0
            if word == pack_word(MISMATCH):
                raise TargetLost("connection", f"{where} refuses the key")
            size = int.from_bytes(receive(4), "little")
            if word != pack_word(ASK) or size > _ANSWER_LIMIT:
                raise ConnectionError("it speaks something else")
            answer = json.loads(receive(size))
        except TimeoutError:
            raise TargetLost("connection", f"{where} does not answer") from None
        except (OSError, ValueError) as error:
            raise TargetLost(
                "connection",
                f"{where} does not answer as 'tapml serve' does ({error}): is one of this version "
                "of tapml_nb running there?  (The address of TVM's own server has no key.)",
            ) from None
    if not isinstance(answer, dict):
        raise TargetLost("connection", f"{where} does not answer as 'tapml serve' does")
    return answer


def _reach(host: str, port: int) -> socket.socket:
    """A socket to a server.

    Raises:
        TargetLost: if nobody listens there.
    """
    try:
        with _CONNECTING[port]:
            return socket.create_connection((host, port), _CONNECT_SECONDS)
    except TimeoutError:
        raise TargetLost("connection", f"{host}:{port} does not answer") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise TargetLost("connection", f"nobody listens at {host}:{port} ({why})") from None


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
    with contextlib.suppress(OSError):
        with _CONNECTING[where[1]]:
            line = socket.create_connection(where, _END_SECONDS)
        with line:
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
            answer.append(error.with_traceback(None))

    peer = None if scheme == "tracker" else port  # who sends us to a port of its choice
    with _CONNECTING[port]:  # another thread's new socket is not to be taken for this one
        before = _descriptors(peer)
        thread = threading.Thread(target=connect, name="tapml-connect", daemon=True)
        thread.start()
        thread.join(_CONNECT_SECONDS)
        made = {fd: os.fstat(fd).st_ino for fd in _descriptors(peer) - before}
        sockets = [socket.socket(fileno=os.dup(fd)) for fd in made]
    if answer and not isinstance(answer[0], Exception):
        return answer[0], sockets, set(made)
    answered = bool(answer)  # hanging up makes the thread say something, too
    for connection in sockets:
        _hang_up(connection)
    thread.join(1)
    if not thread.is_alive() and peer is not None:  # TVM leaves the socket of a failed connect open
        for fd, inode in made.items():
            with contextlib.suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)
    where = f"{host}:{port}"
    if not answered:
        if scheme == "tracker":
            raise TargetLost("connection", f"no server with the key {key!r} is free at {where}")
        raise TargetLost("connection", f"{where} does not answer")
    if "cannot find server that matches" in str(answer[0]):
        raise TargetLost("connection", f"{where} refuses the key")
    if "maximum number of RPC session" in str(answer[0]):
        raise TargetError(
            f"{_MOST_SESSIONS} target sessions are open in this process, the most that TVM takes: "
            "close one (session.close()) that is not needed any more, and run again"
        )
    raise TargetLost(
        "connection",
        f"{where} hung up before a session began; what it wrote, or a full disk there, may say why",
    )


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


def _message(error: Exception) -> str:
    """What the target said, without what TVM put around it."""
    said = str(error).rpartition("Error caught from RPC call:")[2]
    return " ".join(said.split())[:_MESSAGE_LIMIT] or type(error).__name__
