"""The target's end of the tensor channel: a thread beside TVM's RPC, in the session's process."""

from __future__ import annotations

import contextlib
import hmac
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.targets.server.memory import TensorMemory
from tapml_nb.targets.wire.envelope import Garbled, failure
from tapml_nb.targets.wire.handshake import CHANNEL_SOCKET, Receiver
from tapml_nb.targets.wire.tensor_channel import (
    receive_checked,
    receive_header,
    receive_into,
    send_checked,
    send_message,
    skip,
    tune,
)


class ChannelServer:
    """The target's end: a thread that serves one connection."""

    def __init__(self, memory: TensorMemory, folder: Path, token: str) -> None:
        """Wait in the folder, which is the process's current one, for the connection."""
        self._memory = memory
        self._folder = folder
        self._token = token
        self._arrivals = Receiver(CHANNEL_SOCKET)
        threading.Thread(target=self._serve, name="tapml-tensors", daemon=True).start()

    def _serve(self) -> None:
        connection = self._admit()
        with connection, contextlib.suppress(OSError):
            tune(connection)
            send_message(connection, {"ok": True})
            while True:
                self._answer(connection, receive_header(connection))

    def _admit(self) -> socket.socket:
        """The first connection that knows the token (the listener lets no others come here)."""
        while True:
            token, connection = self._arrivals.receive()
            if hmac.compare_digest(token, self._token.encode()):
                self._arrivals.close()
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
            skip(connection, unread + 4 * checked)
        answer["number"] = request["number"]
        if request["do"] == "get" and checked and "error" not in answer:
            send_message(connection, answer)
            send_checked(connection, data)
        else:
            send_message(connection, answer, data)
