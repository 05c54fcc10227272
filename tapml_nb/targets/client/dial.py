"""How a server is reached: a question to its listener alone, or TVM's own RPC client.

All within a time limit.  TVM's client gives no handle on its socket and blocks in it without a
limit; so the socket is found among the process's descriptors, for shutting it down is the one safe
way to free a thread that waits in TVM.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import defaultdict
from typing import Any

from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.targets.wire.handshake import ASK, END, MISMATCH, PROTOCOL, opening, pack_word

_REACH_SECONDS = 10.0
_ANSWER_SECONDS = 8.0  # soon enough to be asked once more
_END_SECONDS = 2.0
_ANSWER_LIMIT = 1 << 20
_CONNECT_SECONDS = 8.0  # soon enough to be asked once more
_MOST_SESSIONS = 32
_MESSAGE_LIMIT = 2000

CONNECTING: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
"""Held, by port, while a socket is made."""


def refuse_other(host: str, port: int, protocol: Any) -> None:
    """TargetError for a server that speaks another protocol."""
    if protocol != PROTOCOL:
        theirs = "none that has a number" if protocol is None else protocol
        raise TargetError(
            f"the server at {host}:{port} speaks protocol {theirs}, this notebook protocol "
            f"{PROTOCOL}: install the same version of tapml_nb on both sides, and start it again"
        )


def ask(host: str, port: int, key: str, pid: int = 0) -> dict[str, Any]:
    """Ask a server of ours on another machine for its protocol, and what became of a process.

    Returns ``protocol``; ``exit``, the report on a process that has ended, or None; ``record`` of
    one that has not, or None.  TargetLost if nobody of ours answers; OSError if the line breaks.
    """
    where = f"{host}:{port}"
    with reach(host, port) as connection:
        deadline = time.monotonic() + _ANSWER_SECONDS

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
            connection.sendall(opening(ASK, {"key": key, "pid": pid}))
            word = receive(4)
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


def reach(host: str, port: int) -> socket.socket:
    """A socket to a server; TargetLost if nobody listens there."""
    try:
        with CONNECTING[port]:
            return socket.create_connection((host, port), _REACH_SECONDS)
    except TimeoutError:
        raise TargetLost("connection", f"{host}:{port} does not answer") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise TargetLost("connection", f"nobody listens at {host}:{port} ({why})") from None


def ask_for_the_end(where: tuple[str, int], credentials: dict[str, Any]) -> None:
    """Ask a listener to end a session; if it does not answer, nobody can."""
    with contextlib.suppress(OSError):
        with CONNECTING[where[1]]:
            line = socket.create_connection(where, _END_SECONDS)
        with line:
            line.sendall(opening(END, credentials))
            line.recv(4)


def connect_rpc(
    host: str, port: int, key: str, scheme: str
) -> tuple[Any, list[socket.socket], set[int]]:
    """``tvm.rpc.connect`` within a time limit; it has none of its own.  Nor has a tracker.  Returns
    the RPC session, duplicates of its socket, and the descriptor that TVM itself uses."""
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
    with CONNECTING[port]:  # another thread's new socket is not to be taken for this one
        before = _descriptors(peer)
        thread = threading.Thread(target=connect, name="tapml-connect", daemon=True)
        thread.start()
        thread.join(_CONNECT_SECONDS)
        made = dict(_descriptors(peer) - before)
        sockets = [socket.socket(fileno=os.dup(fd)) for fd in made]
    if answer and not isinstance(answer[0], Exception):
        return answer[0], sockets, set(made)
    answered = bool(answer)  # hanging up makes the thread say something, too
    for connection in sockets:
        hang_up(connection)
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


def hang_up(connection: socket.socket) -> None:
    """End a connection, also where a fork of this process holds it too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _descriptors(port: int | None) -> set[tuple[int, int]]:
    """Descriptors of this process that are connected to a port; to any if that is None.

    Each with its inode, for a number that becomes free meanwhile is the next one's, too.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as duplicate:
                    internet = duplicate.family in (socket.AF_INET, socket.AF_INET6)
                    if internet and (port is None or duplicate.getpeername()[1] == port):
                        found.add((int(name), os.fstat(duplicate.fileno()).st_ino))
    return found


def message_of(error: Exception) -> str:
    """What the target said, without what TVM put around it."""
    said = str(error).rpartition("Error caught from RPC call:")[2]
    return " ".join(said.split())[:_MESSAGE_LIMIT] or type(error).__name__


def is_answer(error: Exception) -> bool:
    """Whether the target answered with an error, as against not answering."""
    return type(error).__name__ == "RPCError"
