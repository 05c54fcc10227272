"""Tensors over a plain socket: TVM's own RPC moves them element by element, 100 times slower.

A message is a JSON header behind its 4-byte length, then raw bytes.  The client asks; the server
answers each request with a header of its own.  One connection per session, opened with a token
that travels over the authenticated RPC channel.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import secrets
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.numerics import np_dtype

_CHUNK = 4 << 20
_HEADER_LIMIT = 1 << 20


def send_message(connection: socket.socket, header: dict[str, Any], data: Any = b"") -> None:
    """Send a header and the bytes that go with it."""
    text = json.dumps(header).encode()
    connection.sendall(struct.pack("<I", len(text)) + text)
    if len(data):
        connection.sendall(data)


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
    header: dict[str, Any] = json.loads(text)
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

    def __init__(self, memory: Any, folder: Path, host: str) -> None:
        self._memory = memory
        self._folder = folder
        self._token = secrets.token_hex(16)
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(60)
        threading.Thread(target=self._serve, name="tapml-bulk", daemon=True).start()

    def address(self) -> str:
        """Port and token as JSON, for the client."""
        return json.dumps({"port": self._listener.getsockname()[1], "token": self._token})

    def _serve(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            connection, _ = self._listener.accept()
            self._listener.close()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                hello = receive_header(connection)
                if hmac.compare_digest(str(hello.get("token")), self._token):
                    send_message(connection, {"ok": True})
                    while True:
                        self._answer(connection, receive_header(connection))

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        from tapml_nb.targets.memory import raw_bytes

        if request["do"] == "put":
            tensor = self._memory.new(request["shape"], request["dtype"])
            receive_into(connection, memoryview(raw_bytes(tensor)))
            self._memory[request["key"]] = tensor
            send_message(connection, {"ok": True})
        elif request["do"] == "file":
            content = bytearray(request["size"])
            receive_into(connection, memoryview(content))
            (self._folder / Path(request["name"]).name).write_bytes(content)
            send_message(connection, {"ok": True})
        else:
            try:
                tensor = self._memory[request["key"]]
            except KeyError as error:
                send_message(connection, {"error": str(error.args[0])})
                return
            header = {"shape": [int(n) for n in tensor.shape], "dtype": str(tensor.dtype)}
            send_message(connection, header, memoryview(raw_bytes(tensor)))


class BulkClient:
    """The notebook's end."""

    def __init__(self, host: str, port: int, token: str, timeout: float) -> None:
        self.connection = socket.create_connection((host, port), timeout)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_message(self.connection, {"token": token})
        receive_header(self.connection)

    def put(self, key: str, array: np.ndarray) -> int:
        """Send a tensor; returns its bytes."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        header = {"do": "put", "key": key, "shape": array.shape, "dtype": array.dtype.name}
        send_message(self.connection, header, memoryview(data))
        receive_header(self.connection)
        return data.size

    def get(self, key: str) -> np.ndarray:
        """Fetch a tensor.

        Raises:
            KeyError: if it is not there.
        """
        send_message(self.connection, {"do": "get", "key": key})
        header = receive_header(self.connection)
        if "error" in header:
            raise KeyError(header["error"])
        dtype = np_dtype(header["dtype"])
        data = np.empty(math.prod(header["shape"]) * dtype.itemsize, np.uint8)
        receive_into(self.connection, memoryview(data))
        return data.view(dtype).reshape(header["shape"])

    def file(self, name: str, content: bytes) -> None:
        """Put a file into the session's folder."""
        header = {"do": "file", "name": name, "size": len(content)}
        send_message(self.connection, header, content)
        receive_header(self.connection)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
