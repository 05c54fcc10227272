"""The first bytes of a connection, as both sides know them.

A connection opens with a word (4 bytes, little-endian) and a text behind its length.  TVM's RPC
clients say ``MAGIC`` and their key (``tvm/rpc/base.py``); a tensor connection says ``BULK`` and
JSON: to which session it belongs, and that session's own token.  A browser's begins with ``GET``.
``ASK`` and JSON (the key, and the number of a session's process) is a question, answered at once by
the listener: which protocol it speaks, and what became of that process.
"""

from __future__ import annotations

import socket
import struct
import time

MAGIC = 0xFF271
"""``tvm.rpc.base.RPC_MAGIC``."""

MISMATCH = MAGIC + 2
"""``tvm.rpc.base.RPC_CODE_MISMATCH``."""

BULK = 0x7A9B1

ASK = 0x7A9B3

PROTOCOL = 1
"""Of what is said between a notebook and ``tapml serve``; a new number whenever that changes."""

GET = int.from_bytes(b"GET ", "little")

SECONDS = 5.0
"""What a client may take to say who it is."""

_TEXT_LIMIT = 4096
_HEAD_LIMIT = 16384


class NotOurs(ValueError):
    """What connected is not, or may not be, a client."""


class Deadline:
    """A socket whose reads all end before one point in time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes.

        Raises:
            OSError: if they do not come in time, or the connection ends.
        """
        data = b""
        while len(data) < size:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("it said too little in time")
            self._connection.settimeout(left)
            chunk = self._connection.recv(size - len(data))
            if not chunk:
                raise ConnectionError("it hung up")
            data += chunk
        return data


def receive_head(deadline: Deadline) -> bytes:
    """Receive a browser's request, of which ``GET`` was read already.

    Raises:
        NotOurs: if it is too long.
    """
    head = b"GET "
    while not head.endswith(b"\r\n\r\n"):
        if len(head) >= _HEAD_LIMIT:
            raise NotOurs("a request that does not end")
        head += deadline.receive(1)
    return head


def pack_word(word: int) -> bytes:
    """A word as it is sent."""
    return struct.pack("<i", word)


def receive_word(deadline: Deadline) -> int:
    """Receive a word."""
    return int(struct.unpack("<i", deadline.receive(4))[0])


def receive_text(deadline: Deadline) -> str:
    """Receive a text.

    Raises:
        NotOurs: if it is too long, or no text.
    """
    size = receive_word(deadline)
    if not 0 <= size <= _TEXT_LIMIT:
        raise NotOurs("neither TVM's RPC protocol nor ours")
    return deadline.receive(size).decode()
