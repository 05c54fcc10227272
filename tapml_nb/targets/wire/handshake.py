"""The first bytes of a connection, as both sides know them.

A connection opens with a word (4 bytes, little-endian) and a text behind its length.  TVM's RPC
clients say ``MAGIC`` and their key (``tvm/rpc/base.py``); a tensor connection says ``CHANNEL`` and
JSON: to which session it belongs, and that session's own token.  ``END`` and the same JSON end that
session, whatever its process is at.  A browser's begins with ``GET``.  ``ASK`` and JSON (the key,
and the number of a session's process) is a question, answered at once by the listener: which
protocol it speaks, and what became of that process.
"""

from __future__ import annotations

import json
import struct
from typing import Any

MAGIC = 0xFF271
"""``tvm.rpc.base.RPC_MAGIC``."""

MISMATCH = MAGIC + 2
"""``tvm.rpc.base.RPC_CODE_MISMATCH``."""

CHANNEL = 0x7A9B1

END = 0x7A9B2
ASK = 0x7A9B3

PROTOCOL = 2
"""Of what is said between a notebook and ``tapml serve``; a new number whenever that changes."""

GET = int.from_bytes(b"GET ", "little")

SECONDS = 5.0
"""What a client may take to say who it is."""


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
