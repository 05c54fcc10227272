"""The notebook's end of the tensor channel."""

from __future__ import annotations

import math
import socket
from typing import Any

import numpy as np

from tapml_nb.numerics import np_dtype
from tapml_nb.targets.wire.envelope import Garbled, error_of
from tapml_nb.targets.wire.handshake import CHANNEL, opening
from tapml_nb.targets.wire.tensor_channel import (
    receive_checked,
    receive_header,
    receive_into,
    send_checked,
    send_message,
    tune,
)


class ChannelClient:
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
        tune(self.connection)
        self.connection.sendall(opening(CHANNEL, credentials))
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

    def upload(self, name: str, content: bytes) -> None:
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
