"""Handing a connection over to a session's process, from the listener or from a child of it.

The session waits at a Unix socket in its folder; with the descriptor (``SCM_RIGHTS``) come words.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_WORDS = 256


class Receiver:
    """The session's end.  Its folder is the process's current one."""

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
    """Give a connection to the session that owns a folder.

    Args:
        folder: that folder.
        name: of the socket in it.
        words: what to say with it.
        connection: the connection; the caller closes its own end.
        wait: seconds that this may take; 0: at once or not at all.

    Raises:
        OSError: if nobody waits there.
    """
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as there:
            there.settimeout(wait)
            there.connect(f"/proc/self/fd/{opened}/{name}")  # the path itself may be too long
            socket.send_fds(there, [words], [connection.fileno()])
    finally:
        os.close(opened)
