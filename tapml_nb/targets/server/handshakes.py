"""Who has connected and not yet said who they are.

They cost the listener a descriptor and what they have said so far: no process, no thread and no
waiting.  What they say is taken as it comes.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tapml_nb.targets.wire.handshake import (
    ASK,
    BULK,
    END,
    GET,
    MAGIC,
    SECONDS,
    NotOurs,
    unpack_word,
)

_TEXT_LIMIT = 4096
_HEAD_LIMIT = 16384


@dataclass(frozen=True)
class Greeting:
    """What somebody said: a word, and the text behind it (a browser's: the whole request)."""

    word: int
    text: bytes


class Greeter:
    """One of them."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.peer = peer
        self.deadline = time.monotonic() + SECONDS
        self._said = b""

    def listen(self) -> Greeting | None:
        """Take what has come, and no byte beyond the greeting; that, once it is whole.

        Raises:
            NotOurs: if it is none.
            OSError: if they hung up.
        """
        with contextlib.suppress(BlockingIOError):
            while missing := self._missing():
                chunk = self.connection.recv(missing)
                if not chunk:
                    raise ConnectionError("it hung up")
                self._said += chunk
            word = unpack_word(self._said)
            return Greeting(word, self._said if word == GET else self._said[8:])
        return None

    def _missing(self) -> int:
        """How many bytes are surely still to come."""
        said = len(self._said)
        if said < 4:
            return 4 - said
        word = unpack_word(self._said)
        if word == GET:
            if said >= _HEAD_LIMIT:
                raise NotOurs("a request that does not end")
            return 0 if self._said.endswith(b"\r\n\r\n") else 1
        if word not in (MAGIC, BULK, END, ASK):
            raise NotOurs("neither TVM's RPC protocol nor ours")
        if said < 8:
            return 8 - said
        size = unpack_word(self._said[4:])
        if not 0 <= size <= _TEXT_LIMIT:
            raise NotOurs("neither TVM's RPC protocol nor ours")
        return 8 + size - said


class Greeters:
    """All of them, by descriptor, the oldest first."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many there may be; beyond it one gives way to each newcomer."""
        self._limit = limit
        self._by_descriptor: dict[int, Greeter] = {}

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def __iter__(self) -> Iterator[Greeter]:
        return iter(list(self._by_descriptor.values()))

    def get(self, descriptor: int) -> Greeter | None:
        """Who has a descriptor."""
        return self._by_descriptor.get(descriptor)

    def add(self, greeter: Greeter) -> None:
        """A newcomer; :meth:`in_the_way` was asked before."""
        self._by_descriptor[greeter.connection.fileno()] = greeter

    def remove(self, greeter: Greeter) -> None:
        """They have said who they are, or are not waited for any more."""
        del self._by_descriptor[greeter.connection.fileno()]

    def in_the_way(self) -> Greeter | None:
        """Who has to go before another one can come: of the peer that has most, the oldest; so
        that a flood from one place pushes out nobody of another."""
        return self.oldest() if len(self) >= self._limit else None

    def oldest(self) -> Greeter | None:
        """The oldest of the peer that has most of them."""
        count = Counter(greeter.peer for greeter in self)
        return max(self, key=lambda greeter: count[greeter.peer], default=None)

    def expired(self) -> list[Greeter]:
        """Those that have taken too long."""
        now = time.monotonic()
        return [greeter for greeter in self if greeter.deadline <= now]

    def patience(self) -> float:
        """Seconds until the next one will have taken too long; infinite if there is none."""
        first = next(iter(self), None)
        return max(0.0, first.deadline - time.monotonic()) if first else float("inf")
