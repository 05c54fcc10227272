"""WebGPU in a browser's page, at the other end of a websocket.

A message is JSON, with raw bytes behind it in messages of their own (servers in between drop large
ones).  What is to be done is collected and sent when somebody waits for it; the page answers each
such batch once, with what was read.  Its side is ``extensions/widgets/src/gpu.ts``.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from tapml_nb.owner import finalize
from tapml_nb.targets.devices.base import lose
from tapml_nb.targets.wire.handshake import PAGE_SOCKET, Receiver
from tapml_nb.targets.wire.recorder import DEVICE_GONE

_CHUNK = 4 << 20
_HANDSHAKE_SECONDS = 10.0
"""What a page may take to say what it is; one that sleeps says nothing."""


class _Buffer:
    """A buffer of the page's, by number; freed there when nobody holds it here."""

    def __init__(self, number: int, freed: list[int]) -> None:
        self.number = number
        finalize(self, freed.append, number)


class PageDriver:
    """A page's device.  The process ends when the page goes."""

    def __init__(self) -> None:
        """Wait for a page, for as long as it takes."""
        arrivals = Receiver(PAGE_SOCKET)
        while True:
            _, connection = arrivals.receive()
            try:
                connection.settimeout(_HANDSHAKE_SECONDS)
                line = _Line(connection)
                line.send({"begin": True})
                device = line.receive_header()["device"]
                break
            except (OSError, KeyError, ValueError):
                connection.close()
        connection.settimeout(None)
        arrivals.close()
        self._line = line
        self.name = str(device["name"])
        self.limits = {str(name): int(limit) for name, limit in device["limits"].items()}
        self.has_f16 = bool(device["f16"])
        self._numbers = count()
        self._works: list[list[Any]] = []
        self._data: list[np.ndarray] = []
        self._freed: list[int] = []

    def allocate(self, size: int) -> Any:
        buffer = _Buffer(next(self._numbers), self._freed)
        self._works.append(["new", buffer.number, size])
        return buffer

    def read(self, buffer: Any, size: int) -> np.ndarray:
        self._works.append(["read", buffer.number, size])
        return self._do()

    def write(self, buffer: Any, data: np.ndarray) -> None:
        self._works.append(["write", buffer.number, data.size])
        self._data.append(data)

    def fill(self, buffer: Any, size: int, byte: int) -> None:
        self._works.append(["fill", buffer.number, size, byte])

    def compile(self, source: str, entry: str, buffers: Sequence[str]) -> Any:
        number = next(self._numbers)
        self._works.append(["compile", number, source, entry, list(buffers)])
        self._do()
        return number

    def run(
        self, pipeline: Any, buffers: Sequence[Any], numbers: bytes, grid: tuple[int, int, int]
    ) -> None:
        words = np.frombuffer(numbers, "<u4").tolist()
        self._works.append(["run", pipeline, [one.number for one in buffers], words, list(grid)])

    def finish(self) -> None:
        if self._works:
            self._do()

    def _do(self) -> np.ndarray:
        """Have the page do what has been collected; the bytes that were read.  RuntimeError, with
        the browser's words, if something was wrong with it."""
        # What is freed by now is used by what was collected, but by nothing after it.
        works, data = self._works, self._data
        self._works, self._data = [], []
        while self._freed:  # more may come at any time
            works.append(["free", self._freed.pop()])
        try:
            self._line.send({"works": works, "size": sum(part.size for part in data)}, data)
            answer = self._line.receive_header()
            if "lost" in answer:
                lose(f"WebGPU: the browser lost the device: {answer['lost']}")
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return self._line.receive_data(answer["size"])
        except OSError:
            lose("the page was closed", DEVICE_GONE)


class _Line:
    """Whole messages over a websocket whose handshake is done."""

    def __init__(self, connection: socket.socket) -> None:
        from websockets.protocol import State
        from websockets.server import ServerProtocol

        self._connection = connection
        self._protocol = ServerProtocol(state=State.OPEN, max_size=None)
        self._events: deque[Any] = deque()

    def send(self, header: dict[str, Any], data: Sequence[np.ndarray] = ()) -> None:
        self._protocol.send_text(json.dumps(header).encode())
        for part in data:
            for begin in range(0, part.size, _CHUNK):
                self._protocol.send_binary(part[begin : begin + _CHUNK].tobytes())
        self._flush()

    def receive_header(self) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(self._receive())
        return header

    def receive_data(self, size: int) -> np.ndarray:
        data = bytearray()
        while len(data) < size:
            data += self._receive()
        return np.frombuffer(data, np.uint8)

    def _receive(self) -> bytes:
        """The next message; ConnectionError if the page is gone."""
        from websockets.frames import DATA_OPCODES, Frame

        message = b""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
                    message += event.data
                    if event.fin:
                        return message
            data = self._connection.recv(1 << 20)
            if not data:
                raise ConnectionError("the page is gone")
            self._protocol.receive_data(data)
            self._events += self._protocol.events_received()
            self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._connection.sendall(data)
