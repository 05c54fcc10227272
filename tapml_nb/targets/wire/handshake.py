"""How a connection begins and comes to its session, as both sides know it.

A connection opens with a word (4 bytes, little-endian) and a text behind its length.  TVM's RPC
clients say ``MAGIC`` and their key (``tvm/rpc/base.py``); a tensor connection says ``CHANNEL`` and
JSON: to which session it belongs, and that session's own token.  ``END`` and the same JSON end that
session, whatever its process is at.  A browser's begins with ``GET``.  ``ASK`` and JSON (the key,
and the number of a session's process) is a question, answered at once by the listener: which
protocol it speaks, and what became of that process.

A session's process waits for connections at Unix sockets in its folder; with the descriptor
(``SCM_RIGHTS``) come words.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

MAGIC = 0xFF271
"""``tvm.rpc.base.RPC_MAGIC``."""

MISMATCH = MAGIC + 2
"""``tvm.rpc.base.RPC_CODE_MISMATCH``."""

CHANNEL = 0x7A9B1
END = 0x7A9B2
ASK = 0x7A9B3

PROTOCOL = 4
"""Of what is said between a notebook and ``tapml serve``; a new number whenever that changes."""

GET = int.from_bytes(b"GET ", "little")

SECONDS = 5.0
"""What a client may take to say who it is."""

CHANNEL_SOCKET, PAGE_SOCKET = "tensors", "page"
"""Where, in a session's folder, it waits for the connection for tensors, and for a page's."""

CHALLENGE, PROOF = "Tapml-Challenge", "Tapml-Proof"
"""Headers of a page's websocket's request and of its answer."""

_WORDS = 256
"""The most bytes that are handed over with a descriptor."""


class NotOurs(ValueError):
    """What connected is not, or may not be, a client."""


def pack_word(word: int) -> bytes:
    """A word as it is sent."""
    return struct.pack("<i", word)


def unpack_word(data: bytes) -> int:
    """The word that data begins with."""
    return int(struct.unpack_from("<i", data)[0])


def opening(word: int, content: Any) -> bytes:
    """A word, and JSON behind its length."""
    text = json.dumps(content).encode()
    return pack_word(word) + pack_word(len(text)) + text


def page_key(token: str) -> str:
    """What pages must know of a server with this token."""
    return hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()[:32]


def proof(key: str, challenge: str) -> str:
    """What only who knows a page's key can answer to a challenge."""
    return hmac.new(key.encode(), challenge.encode(), hashlib.sha256).hexdigest()


class Receiver:
    """The session's end of handing over.  Its folder is the process's current one."""

    def __init__(self, name: str) -> None:
        """Wait at the socket ``name``."""
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(name)
        self._socket.listen(1)

    def receive(self) -> tuple[bytes, socket.socket]:
        """The next connection, and the words that were handed over with it."""
        messenger, _ = self._socket.accept()
        with messenger:
            words, descriptors, _, _ = socket.recv_fds(messenger, _WORDS, 1)
            connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(None)
        return words, connection

    def close(self) -> None:
        """Nobody else shall come."""
        self._socket.close()
        os.unlink(self._name)


def hand_over(
    folder: Path, name: str, words: bytes, connection: socket.socket, wait: float
) -> None:
    """Give a connection, whose own end the caller closes, to the session that owns a folder.

    ``wait``: seconds that this may take; 0: at once or not at all.  OSError if nobody waits at the
    socket ``name`` there.
    """
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as there:
            there.settimeout(wait)
            there.connect(f"/proc/self/fd/{opened}/{name}")  # the path itself may be too long
            socket.send_fds(there, [words], [connection.fileno()])
    finally:
        os.close(opened)
