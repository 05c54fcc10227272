"""A line between a notebook and a server that can be cut, stalled and damaged."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal

Way = Literal["up", "down"]


class Proxy:
    """A port that leads to another one.

    Attributes:
        port: where it listens.
        carried: bytes so far, both ways.
        on_bytes: told of the bytes that are about to go on, and which way; may change them, or
            raise ``OSError`` to cut the line.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.carried = 0
        self.on_bytes: Callable[[bytearray, Way], None] = lambda data, way: None
        self._open = threading.Event()
        self._open.set()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stall(self) -> None:
        """Nothing goes on until :meth:`heal`."""
        self._open.clear()

    def heal(self) -> None:
        """All goes on, and nothing is done to it."""
        self.on_bytes = lambda data, way: None
        self._open.set()

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it all."""
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    self._ends += [near, far]
                ways: tuple[tuple[socket.socket, socket.socket, Way], ...] = (
                    (near, far, "up"),
                    (far, near, "down"),
                )
                for source, sink, way in ways:
                    thread = threading.Thread(
                        target=self._carry, args=(source, sink, way), daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                self._open.wait()
                self.carried += len(data)
                try:
                    self.on_bytes(data, way)
                except OSError:
                    self.cut()
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if way == "up":  # each end is closed once, when nobody reads from it any more
            return
        for end in (source, sink):
            end.close()
