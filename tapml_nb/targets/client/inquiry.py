"""What is asked of a listener itself, in a connection for the question alone."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import defaultdict
from typing import Any

from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.targets.wire.handshake import ASK, END, MISMATCH, PROTOCOL, opening, pack_word

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 8.0  # soon enough to be asked once more
_END_SECONDS = 2.0
_ANSWER_LIMIT = 1 << 20

CONNECTING: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
"""Held, by port, while a socket is made."""


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
        ``protocol``; ``exit``, the report on a process that has ended, or None; ``record`` of one
        that has not, or None.

    Raises:
        TargetLost: if nobody of ours answers.
        OSError: if the line breaks.
    """
    where = f"{host}:{port}"
    connection = reach(host, port)
    with connection:
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


def reach(host: str, port: int) -> socket.socket:
    """A socket to a server.

    Raises:
        TargetLost: if nobody listens there.
    """
    try:
        with CONNECTING[port]:
            return socket.create_connection((host, port), _CONNECT_SECONDS)
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
