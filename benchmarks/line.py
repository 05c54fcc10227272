"""A slow line: a port of this machine that leads to another one, at so many bytes per second.

    python -m benchmarks.line 9090 20

leads to port 9090 at 20 MB/s each way, whatever the number of connections, and prints its own port.
It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

MB = 1e6
_PIECE = 1 << 14
"""Bytes that go on at a time; what is queued behind them fills the sender's buffers, as it would
before a slow line."""


class Pace:
    """Lets bytes of one way go at a rate, those of all connections together."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, 0.0
        self._lock = threading.Lock()

    def wait(self, size: int) -> None:
        """Wait until so many bytes have gone."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


def _carry(source: socket.socket, sink: socket.socket, pace: Pace) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_PIECE):
            pace.wait(len(data))
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, rate: float) -> None:
    up, down = Pace(rate), Pace(rate)
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        for way in ((near, far, up), (far, near, down)):
            threading.Thread(target=_carry, args=way, daemon=True).start()


@contextlib.contextmanager
def slow_line(port: int, megabytes: float) -> Iterator[int]:
    """A line to a port in a process of its own while the block runs; its port."""
    command = [sys.executable, "-m", "benchmarks.line", str(port), str(megabytes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def main() -> None:
    """Be a line."""
    port, rate = int(sys.argv[1]), float(sys.argv[2]) * MB
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, port, rate), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
