"""Tensors over a plain socket: TVM's own RPC moves them element by element, 100 times slower.

A message is a JSON header behind its 4-byte length, then raw bytes; between machines also their
CRC-32, because TCP's own checksum lets one damaged packet in some thousands through.  The client
asks, and numbers what it asks; the server answers each request with a header of its own and the
same number.  One connection per session, opened with a token that travels over the authenticated
RPC channel.  This is the framing, which both sides share.

What is sent ahead of need goes as pieces, a request each, without checksums of their own: the
request that makes a tensor of them has that of the whole.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import zlib
from typing import Any

from tapml_nb.targets.wire.envelope import Garbled

_CHUNK = 4 << 20
_BUFFER = 4 << 20
"""Socket buffers; with the default ones a transfer waits for wake-ups most of the time."""

_HEADER_LIMIT = 1 << 20


def tune(connection: socket.socket) -> None:
    """Prepare a socket for tensors."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


def send_message(
    connection: socket.socket, header: dict[str, Any], data: Any = b"", *, checked: bool = False
) -> None:
    """Send a header and the bytes that go with it; ``checked``: and then their checksum."""
    text = json.dumps(header).encode()
    head = struct.pack("<I", len(text)) + text
    if 0 < len(data) <= 65536 and not checked:  # in one packet
        connection.sendall(head + bytes(data))
        return
    connection.sendall(head)
    if checked:
        send_checked(connection, data)
    elif len(data):
        connection.sendall(data)


def send_checked(connection: socket.socket, data: Any) -> None:
    """Send bytes, and then their checksum."""
    view, checksum = memoryview(data).cast("B"), 0
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        connection.sendall(chunk)
        checksum = zlib.crc32(chunk, checksum)  # while what was sent is on its way
    connection.sendall(struct.pack("<I", checksum))


def receive_data(connection: socket.socket, view: memoryview, *, checked: bool) -> None:
    """Fill a buffer, as :func:`receive_into`; Garbled if its checksum tells that it is damaged."""
    if not checked:
        receive_into(connection, view)
    elif not receive_checked(connection, view):
        raise Garbled("a tensor was damaged on its way")


def receive_checked(connection: socket.socket, view: memoryview) -> bool:
    """Fill a buffer, as :func:`receive_into`; whether what came is what was sent."""
    checksum = 0
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        receive_into(connection, chunk)
        checksum = zlib.crc32(chunk, checksum)
    sent = bytearray(4)
    receive_into(connection, memoryview(sent))
    return checksum == int.from_bytes(sent, "little")


def receive_header(connection: socket.socket) -> dict[str, Any]:
    """The header of a message; ConnectionError if the other side is gone, or speaks something
    else."""
    head = bytearray(4)
    receive_into(connection, memoryview(head))
    length = int.from_bytes(head, "little")
    if length > _HEADER_LIMIT:
        raise ConnectionError(f"a header of {length} bytes is not of this protocol")
    text = bytearray(length)
    receive_into(connection, memoryview(text))
    with contextlib.suppress(ValueError):
        header = json.loads(text)
        if isinstance(header, dict):
            return header
    raise Garbled("a header that makes no sense")


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill a buffer from the socket; ConnectionError if the other side is gone first."""
    done = 0
    while done < len(view):
        count = connection.recv_into(view[done:], min(len(view) - done, _CHUNK))
        if not count:
            raise ConnectionError("the other side closed the connection")
        done += count


def skip(connection: socket.socket, size: int) -> None:
    """Read bytes that nobody wants."""
    scrap = memoryview(bytearray(min(size, _CHUNK)))
    while size:
        receive_into(connection, scrap[: min(size, _CHUNK)])
        size -= min(size, _CHUNK)
