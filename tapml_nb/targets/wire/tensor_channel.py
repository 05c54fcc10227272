"""Tensors over a plain socket: TVM's own RPC moves them element by element, 100 times slower.

A message is a JSON header behind its 4-byte length, then raw bytes; between machines also their
CRC-32, because TCP's own checksum lets one damaged packet in some thousands through.  The client
asks, and numbers what it asks; the server answers each request with a header of its own and the
same number.  One connection per session, opened with a token that travels over the authenticated
RPC channel; the listener knows it, too, and hands the connection over (see
:mod:`tapml_nb.targets.server.listener`).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import socket
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.server.runner import TensorMemory
from tapml_nb.targets.wire.envelope import Garbled, error_of, failure
from tapml_nb.targets.wire.fd_passing import Door
from tapml_nb.targets.wire.handshake import BULK, pack_word

_CHUNK = 4 << 20
_BUFFER = 4 << 20
"""Socket buffers; with the default ones a transfer waits for wake-ups most of the time."""

_HEADER_LIMIT = 1 << 20


def send_message(connection: socket.socket, header: dict[str, Any], data: Any = b"") -> None:
    """Send a header and the bytes that go with it."""
    text = json.dumps(header).encode()
    head = struct.pack("<I", len(text)) + text
    if 0 < len(data) <= 65536:  # in one packet
        connection.sendall(head + bytes(data))
        return
    connection.sendall(head)
    if len(data):
        connection.sendall(data)


def send_checked(connection: socket.socket, data: Any) -> None:
    """Send bytes, and then their checksum."""
    view, checksum = memoryview(data).cast("B"), 0
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        connection.sendall(chunk)
        checksum = zlib.crc32(chunk, checksum)  # while what was sent is on its way
    connection.sendall(struct.pack("<I", checksum))


def receive_checked(connection: socket.socket, view: memoryview) -> bool:
    """Fill a buffer from the socket; whether what came is what was sent.

    Raises:
        ConnectionError: if the other side is gone first.
    """
    checksum = 0
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        receive_into(connection, chunk)
        checksum = zlib.crc32(chunk, checksum)
    sent = bytearray(4)
    receive_into(connection, memoryview(sent))
    return checksum == int.from_bytes(sent, "little")


def receive_header(connection: socket.socket) -> dict[str, Any]:
    """Receive the header of a message.

    Raises:
        ConnectionError: if the other side is gone, or speaks something else.
    """
    head = bytearray(4)
    receive_into(connection, memoryview(head))
    (length,) = struct.unpack("<I", head)
    if length > _HEADER_LIMIT:
        raise ConnectionError(f"a header of {length} bytes is not of this protocol")
    text = bytearray(length)
    receive_into(connection, memoryview(text))
    try:
        header = json.loads(text)
    except ValueError:
        raise Garbled("a header that makes no sense") from None
    if not isinstance(header, dict):
        raise Garbled("a header that makes no sense")
    return header


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill a buffer from the socket.

    Raises:
        ConnectionError: if the other side is gone first.
    """
    done = 0
    while done < len(view):
        count = connection.recv_into(view[done:], min(len(view) - done, _CHUNK))
        if not count:
            raise ConnectionError("the other side closed the connection")
        done += count


class BulkServer:
    """The target's end: a thread that serves one connection."""

    def __init__(self, memory: TensorMemory, folder: Path, credentials: dict[str, Any]) -> None:
        """Wait at the door ``bulk`` in the folder, which is the process's current one."""
        self._memory = memory
        self._folder = folder
        self._credentials = credentials
        self._door = Door("bulk")
        threading.Thread(target=self._serve, name="tapml-bulk", daemon=True).start()

    def credentials(self) -> dict[str, Any]:
        """What the client has to say to the listener."""
        return self._credentials

    def _serve(self) -> None:
        connection = self._admit()
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            send_message(connection, {"ok": True})
            while True:
                self._answer(connection, receive_header(connection))

    def _admit(self) -> socket.socket:
        """The first connection that knows the token (the listener lets no others come here)."""
        while True:
            token, connection = self._door.receive()
            if hmac.compare_digest(token, self._credentials["token"].encode()):
                self._door.close()
                return connection
            connection.close()

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Do what a request asks for; an error is an answer, and the connection stays in step.

        Raises:
            ConnectionError: if what came is not what was sent.
        """
        size = request.get("size", 0)
        checked = request.get("checked", False)
        unread = size
        data: Any = b""
        answer: dict[str, Any] = {}

        def receive_whole(into: memoryview) -> None:
            nonlocal unread
            unread = 0
            if not checked:
                receive_into(connection, into)
            elif not receive_checked(connection, into):
                raise Garbled("data was damaged on its way")

        try:
            if request["do"] == "put":

                def receive(data: np.ndarray) -> None:
                    if data.size != size:
                        raise ValueError(f"{size} bytes for a tensor of {data.size}")
                    receive_whole(memoryview(data))

                self._memory.put(request["key"], request["shape"], request["dtype"], receive)
            elif request["do"] == "file":
                content = bytearray(size)
                receive_whole(memoryview(content))
                with (self._folder / Path(request["name"]).name).open("xb") as file:
                    file.write(content)  # "x": rewriting a mapped library would kill its user
            else:
                tensor = self._memory[request["key"]]
                answer = {"shape": [int(n) for n in tensor.shape], "dtype": str(tensor.dtype)}
                data = memoryview(self._memory.device.read(tensor))
        except ConnectionError:
            raise
        except Exception as error:
            answer = failure(error)
        if unread:
            _skip(connection, unread + 4 * checked)
        answer["number"] = request["number"]
        if request["do"] == "get" and checked and "error" not in answer:
            send_message(connection, answer)
            send_checked(connection, data)
        else:
            send_message(connection, answer, data)


class BulkClient:
    """The notebook's end."""

    def __init__(
        self,
        host: str,
        port: int,
        credentials: dict[str, Any],
        timeout: float,
        *,
        checked: bool = False,
    ) -> None:
        """Connect.

        Args:
            host: where the listener is.
            port: its port.
            credentials: what the session gave.
            timeout: seconds for that.
            checked: whether data goes with its checksum: over a line to another machine.
        """
        self._checked = checked
        self._number = 0
        self.connection = socket.create_connection((host, port), timeout)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        text = json.dumps(credentials).encode()
        self.connection.sendall(pack_word(BULK) + pack_word(len(text)) + text)
        receive_header(self.connection)

    def put(self, key: str, array: np.ndarray) -> int:
        """Send a tensor; returns its bytes.

        Raises:
            TargetError: if there is no room, or no such dtype there.
            ConnectionError: if the line breaks, or damages what goes over it.
        """
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._ask(
            {
                "do": "put",
                "key": key,
                "shape": array.shape,
                "dtype": array.dtype.name,
                "size": data.size,
            },
            memoryview(data),
        )
        return data.size

    def get(self, key: str) -> np.ndarray:
        """Fetch a tensor.

        Raises:
            NoTensor: if it is not there.
            ConnectionError: if the line breaks, or damages what goes over it.
        """
        header = self._ask({"do": "get", "key": key})
        try:
            shape, dtype = header["shape"], np_dtype(header["dtype"])
            data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        except (KeyError, TypeError, ValueError):
            raise Garbled("a header that makes no sense") from None
        if not self._checked:
            receive_into(self.connection, memoryview(data))
        elif not receive_checked(self.connection, memoryview(data)):
            raise Garbled("a tensor was damaged on its way")
        return data.view(dtype).reshape(shape)

    def file(self, name: str, content: bytes) -> None:
        """Put a new file into the session's folder."""
        self._ask({"do": "file", "name": name, "size": len(content)}, content)

    def _ask(self, header: dict[str, Any], data: Any = b"") -> dict[str, Any]:
        self._number += 1
        header |= {"number": self._number, "checked": self._checked}
        if self._checked and "size" in header:
            send_message(self.connection, header)
            send_checked(self.connection, data)
        else:
            send_message(self.connection, header, data)
        answer = receive_header(self.connection)
        if answer.get("number") != self._number:
            raise Garbled("an answer to something else")
        if error := error_of(answer):
            raise error
        return answer


def _skip(connection: socket.socket, size: int) -> None:
    """Read bytes that nobody wants."""
    scrap = memoryview(bytearray(min(size, _CHUNK)))
    while size:
        receive_into(connection, scrap[: min(size, _CHUNK)])
        size -= min(size, _CHUNK)
