"""Tensors that are sent to a target before they are needed, while the line has nothing else to do.

They go in pieces, each answered before the next one goes, so that what somebody waits for goes
between two of them.  At the target they wait apart from its tensors: a tensor is there only when
its user has asked for it (:meth:`Transfer.finish`), and the checksum of all of it is right.  Until
then nothing is lost with it: who needs it sends what is missing, or all of it.

There is a thread as long as there is something to send and room for it, and no longer.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tapml_nb.array_api import Array, on_host
from tapml_nb.targets.client.connection import Connection
from tapml_nb.targets.client.service import ChannelClient
from tapml_nb.targets.wire.errors import TargetError

_LEAST_PIECE, _MOST_PIECE = 1 << 15, 1 << 20
"""Bytes of a piece."""

_MOMENT = 0.005
"""Seconds that a piece should take: so long at most somebody else waits for the line."""

_MOST_AHEAD = 256 << 20
"""Bytes that wait at the target for who needs them, at most; but one tensor may be larger."""

Send = Callable[[], Array]

_log = logging.getLogger(__name__)


def _bytes_of(array: Array) -> memoryview:
    return memoryview(np.ascontiguousarray(on_host(array)).reshape(-1).view(np.uint8))


@dataclass(eq=False)
class Transfer:
    """A tensor that goes to a target in pieces.

    Attributes:
        order: when it is needed; the lowest first.
        key: what it is called there.
        nbytes: its bytes.
        outgoing: gives it.
        withdrawn: no further piece is to be sent ahead.
    """

    order: int
    key: str
    nbytes: int
    outgoing: Send
    withdrawn: bool = False
    _channel: ChannelClient | None = None
    _sent: int = 0
    _checksum: int = 0
    _data: memoryview = field(default_factory=lambda: memoryview(b""))

    def begin(self, channel: ChannelClient) -> None:
        """Look at it; whatever ``outgoing`` raises."""
        self._data = _bytes_of(self.outgoing())
        self._channel = channel

    def send_piece(self, size: int) -> int:
        """Send so many bytes of it when nobody else needs the line; how many to send next, 0 if
        that is all.  Raises as the channel does."""
        assert self._channel, "it has begun"
        with self._channel.way.between():
            begin = time.monotonic()
            if not self.withdrawn:
                self._send(self._channel, self._data[self._sent : self._sent + size])
            if self.withdrawn or self._sent == self.nbytes:
                self._data = memoryview(b"")  # which keeps the tensor alive
                return 0
            pace = size / max(time.monotonic() - begin, 1e-9)
        return min(max(_LEAST_PIECE, int(pace * _MOMENT)), _MOST_PIECE)

    def finish(self, array: Array) -> bool:
        """Its user needs it: send the rest at once.  Whether it is there then; not where no piece
        was sent, or something on the way, or at the target, has damaged one."""
        self.withdrawn = True
        if self._channel is None:
            return False
        with self._channel.way.at_once():
            if not self._sent:
                return False
            if self._sent < self.nbytes:
                self._send(self._channel, _bytes_of(array)[self._sent :])
            return self._channel.keep(self.key, array, self._checksum)

    def _send(self, channel: ChannelClient, piece: memoryview) -> None:
        channel.piece(self.key, self._sent, self.nbytes, piece)
        self._checksum = zlib.crc32(piece, self._checksum)
        self._sent += len(piece)


class Prefetch:
    """What is to be sent ahead to one target, and what of it is there.  From any thread."""

    def __init__(self, bound: int | None) -> None:
        """``bound``: bytes of memory that the target may take; None for no limit."""
        self._bound = bound
        self._lock = threading.Lock()
        self._planned: dict[str, Transfer] = {}
        self._order: list[tuple[int, str]] = []
        """A heap of what was planned, and perhaps is not any more."""

        self._begun: dict[str, Transfer] = {}
        """Of which pieces may wait at the target."""

        self._unwanted: list[str] = []
        """Keys of which pieces may be there, and are to go."""

        self._most_taken = 0
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None

    def over(self, connection: Connection) -> None:
        """Send over this connection from now on; what waited at the end of another one is gone."""
        if connection is self._connection:
            return
        with self._lock:
            self._connection = connection
            self._thread = None  # that of the other one ends by itself
            begun, self._begun, self._unwanted = self._begun, {}, []
            for one in begun.values():
                self._plan(Transfer(one.order, one.key, one.nbytes, one.outgoing))
            self._go_on()

    def add(self, order: int, key: str, nbytes: int, outgoing: Send) -> None:
        """A tensor of so many bytes will be needed.

        Args:
            order: when, among others; the lowest goes first.
            key: that stands for its content.
            outgoing: gives it, on another thread; what it raises, its user will meet as well.
        """
        with self._lock:
            if key not in self._planned and key not in self._begun:
                self._plan(Transfer(order, key, nbytes, outgoing))
                self._go_on()

    def take(self, key: str) -> Transfer | None:
        """A tensor is needed now, and is its user's business from here on: what there is of it."""
        with self._lock:
            self._planned.pop(key, None)
            transfer = self._begun.pop(key, None)
            self._go_on()
        return transfer

    def bytes_beside(self, needed: Collection[str], takes: int) -> int:
        """Bytes of all that is, or soon will be, waiting at the target, but for what is needed now;
        where memory is bounded, room is left for ``takes`` bytes as well from now on."""
        with self._lock:
            self._most_taken = max(self._most_taken, takes)
            return sum(one.nbytes for key, one in self._begun.items() if key not in needed)

    def withdraw(self, needed: Collection[str] = ()) -> list[str]:
        """Send nothing of what is on its way and not needed; keys of which pieces may be there."""
        with self._lock:
            keys = [key for key in self._begun if key not in needed]
            for key in keys:
                self._begun.pop(key).withdrawn = True
        return keys

    def end(self) -> None:
        """Nothing more is needed: send nothing more, and have what waits there go."""
        with self._lock:
            self._planned.clear()
            self._order.clear()
            self._unwanted += self._begun
            for transfer in self._begun.values():
                transfer.withdrawn = True
            self._begun.clear()
            self._go_on()

    def close(self) -> None:
        """The same of a connection that is closed by now.  Idempotent."""
        with self._lock:
            self._planned.clear()
            self._begun.clear()
            self._unwanted.clear()
            thread, self._thread = self._thread, None
            self._connection = None
        if thread and thread is not threading.current_thread():
            thread.join(1)

    # -- with the lock -----------------------------------------------------------------------------

    def _plan(self, transfer: Transfer) -> None:
        self._planned[transfer.key] = transfer
        heapq.heappush(self._order, (transfer.order, transfer.key))

    def _go_on(self) -> None:
        """See to it that there is a thread if there is something to do."""
        connection = self._connection
        if connection is None or connection.line is None or self._thread:
            return
        if self._unwanted or self._next(connection):
            self._thread = threading.Thread(
                target=self._work,
                args=(connection, connection.line),
                name="tapml-prefetch",
                daemon=True,
            )
            self._thread.start()

    def _next(self, connection: Connection) -> Transfer | None:
        """What goes next, if there is room for it."""
        while self._order:
            transfer = self._planned.get(self._order[0][1])
            if transfer and transfer.key not in connection.resident:
                break
            self._planned.pop(heapq.heappop(self._order)[1], None)
        else:
            return None
        ahead = sum(one.nbytes for one in self._begun.values())
        if ahead and ahead + transfer.nbytes > _MOST_AHEAD:
            return None
        there = connection.resident.nbytes + ahead + transfer.nbytes + self._most_taken
        return None if self._bound is not None and there > self._bound else transfer

    # -- on the thread -----------------------------------------------------------------------------

    def _work(self, connection: Connection, channel: ChannelClient) -> None:
        try:
            while job := self._job(connection, channel):
                job()
        except Exception as error:  # whoever uses the line next meets it as well
            _log.info("nothing more is sent ahead: %s", error)
            channel.break_off()

    def _job(self, connection: Connection, channel: ChannelClient) -> Callable[[], None] | None:
        """What to do next; None if there is nothing, and the thread is at its end."""
        with self._lock:
            if connection is not self._connection:
                return None
            if keys := self._unwanted:
                self._unwanted = []
                return partial(self._forget, keys, channel)
            if transfer := self._next(connection):
                self._begun[transfer.key] = self._planned.pop(transfer.key)
                return partial(self._send, transfer, channel)
            self._thread = None
            return None

    def _forget(self, keys: Sequence[str], channel: ChannelClient) -> None:
        with channel.way.between():
            channel.forget(keys)

    def _send(self, transfer: Transfer, channel: ChannelClient) -> None:
        try:
            transfer.begin(channel)
        except Exception as error:  # such as ModelChanged, of which its user will tell
            self._give_up(transfer, error)
            return
        size = _LEAST_PIECE
        try:
            while size:
                size = transfer.send_piece(size)
        except TargetError as error:  # it has no room for that; the line is in step
            self._give_up(transfer, error)

    def _give_up(self, transfer: Transfer, error: Exception) -> None:
        """Leave a tensor to its user."""
        _log.info("%s is not sent ahead: %s", transfer.key, error)
        with self._lock:
            if self._begun.get(transfer.key) is transfer:
                del self._begun[transfer.key]
                self._unwanted.append(transfer.key)
