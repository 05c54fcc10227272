"""Connections whose handshake is not done: nobody has said yet who they are.

They cost the listener a descriptor and what they have said so far: no process, no thread and no
waiting.  What they say is taken as it comes.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter

from tapml_nb.targets.wire.handshake import (
    ASK,
    CHANNEL,
    END,
    GET,
    MAGIC,
    SECONDS,
    NotOurs,
    unpack_word,
)

_TEXT_LIMIT = 4096
_HEAD_LIMIT = 16384


class Handshake:
    """Of one connection."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.peer = peer
        self.deadline = time.monotonic() + SECONDS
        self._received = b""

    def receive(self) -> tuple[int, bytes] | None:
        """Take what has come, and no byte beyond the opening; that, once it is whole: a word, and
        the text behind it (a browser's: all it said).  NotOurs if it is none; OSError if they hung
        up."""
        with contextlib.suppress(BlockingIOError):
            while missing := self._missing():
                chunk = self.connection.recv(missing)
                if not chunk:
                    raise ConnectionError("it hung up")
                self._received += chunk
            word = unpack_word(self._received)
            return word, self._received if word == GET else self._received[8:]
        return None

    def _missing(self) -> int:
        """How many bytes are surely still to come."""
        size = len(self._received)
        if size < 4:
            return 4 - size
        word = unpack_word(self._received)
        if word == GET:
            if size >= _HEAD_LIMIT:
                raise NotOurs("a request that does not end")
            return 0 if self._received.endswith(b"\r\n\r\n") else 1
        if word not in (MAGIC, CHANNEL, END, ASK):
            raise NotOurs("neither TVM's RPC protocol nor ours")
        if size < 8:
            return 8 - size
        text = unpack_word(self._received[4:])
        if not 0 <= text <= _TEXT_LIMIT:
            raise NotOurs("neither TVM's RPC protocol nor ours")
        return 8 + text - size


class Handshakes(dict[int, Handshake]):
    """All of them, by descriptor, the oldest first."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many there may be; beyond it one gives way to each newcomer."""
        super().__init__()
        self._limit = limit

    def in_the_way(self) -> Handshake | None:
        """Who has to go before another one can come: of the peer that has most, the oldest; so
        that a flood from one place pushes out nobody of another."""
        return self.oldest() if len(self) >= self._limit else None

    def oldest(self) -> Handshake | None:
        """The oldest of the peer that has most of them."""
        count = Counter(handshake.peer for handshake in self.values())
        return max(self.values(), key=lambda one: count[one.peer], default=None)

    def expired(self) -> list[Handshake]:
        """Those that have taken too long."""
        now = time.monotonic()
        return [handshake for handshake in self.values() if handshake.deadline <= now]

    def patience(self) -> float:
        """Seconds until the next one will have taken too long; infinite if there is none."""
        first = next(iter(self.values()), None)
        return max(0.0, first.deadline - time.monotonic()) if first else float("inf")
