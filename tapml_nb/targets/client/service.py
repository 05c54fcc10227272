"""What a target does for a session, and how our own server is asked for it.

It is asked over TVM's RPC, and tensors go over a plain socket beside it, the tensor channel.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tapml_nb.array_api import Array, dtype_of, np_dtype, on_host
from tapml_nb.compile.kernel import Kernel
from tapml_nb.targets.client.dial import CONNECTING, is_answer, message_of
from tapml_nb.targets.client.right_of_way import RightOfWay
from tapml_nb.targets.client.window import Window, device_of
from tapml_nb.targets.wire.calls import CallRequest, CallResult, ChainRequest, ChainResult, to_json
from tapml_nb.targets.wire.envelope import Garbled, error_of, seal, unseal
from tapml_nb.targets.wire.handshake import CHANNEL, opening
from tapml_nb.targets.wire.pages import LEAST, NamelessFile, read_memory
from tapml_nb.targets.wire.tensor_channel import receive_data, receive_header, send_message, tune

_CHANNEL_SECONDS = 10.0

_T = TypeVar("_T")


class ChannelClient:
    """The notebook's end of the tensor channel.

    What it does raises a TargetError if the target answers with one, and a ConnectionError if the
    line breaks, or damages what goes over it.

    Attributes:
        way: who goes first on it, where tensors are sent ahead on another thread.  Who sends pieces
            (:meth:`piece`, :meth:`keep`, :meth:`forget`) has to have it; all else sees to that.
    """

    def __init__(
        self, place: tuple[str, int], credentials: dict[str, Any], *, checked: bool = False
    ) -> None:
        """Connect to a listener with the credentials that the session gave; ``checked``: whether
        data goes with its checksum: over a line to another machine."""
        self._checked, self._number = checked, 0
        self.way = RightOfWay()
        self.window: Window | None = None
        self._by_file = False
        self._looks_into = 0
        with CONNECTING[place[1]]:
            self.connection = socket.create_connection(place, _CHANNEL_SECONDS)
            tune(self.connection)
            self.connection.sendall(opening(CHANNEL, credentials))
            receive_header(self.connection)

    def share(self, process: int, uuid: str) -> None:
        """Have tensors pass through memory that the target, on this machine, shares, and not over
        the line: that of the host, and that of the GPU of this name if PyTorch is at work on it
        here.  ``process``: the target's."""
        self._by_file, self._looks_into = True, process
        number = device_of(uuid)
        self.window = None if number is None else Window(number, self._ask)

    def put(self, key: str, array: Array) -> int:
        """Send a tensor; returns its bytes, 0 for what is shared."""
        if self.shows(array):
            self.put_all({key: array})
            return 0
        array = on_host(array)
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        header = {"do": "put", "key": key, "shape": array.shape, "dtype": array.dtype.name}
        with self.way.at_once():
            if not self._put_by_file(header, data):
                self._ask(header | {"size": data.nbytes}, data)
        return data.nbytes

    def shows(self, array: Array) -> bool:
        """Whether a tensor is where the target sees it."""
        return self.window is not None and self.window.takes(array)

    def put_all(self, tensors: Mapping[str, Array]) -> None:
        """Give the target tensors of which :meth:`shows` says so."""
        assert self.window, "or they are not shown"
        self.window.put_all(tensors)

    def _put_by_file(self, header: dict[str, Any], data: memoryview) -> bool:
        """Give the target a tensor in memory that it maps; whether that could be done."""
        if not self._by_file or data.nbytes < LEAST:
            return False
        try:
            file = NamelessFile(data)
        except OSError:  # there is no room
            return False
        with file:
            self._by_file = self._ask(header | {"path": file.path}).get("taken") is True
        return self._by_file

    def get(self, key: str) -> Array:
        """Fetch a tensor, on the GPU if that is shared; NoTensor if it is not there."""
        if self.window:
            return self.window.get_all([key])[0]
        with self.way.at_once():
            return self._get(key)

    def _get(self, key: str) -> np.ndarray:
        header = self._ask({"do": "get", "key": key, "look": bool(self._looks_into)})
        try:
            shape, dtype = header["shape"], np_dtype(header["dtype"])
            data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        except (KeyError, TypeError, ValueError):
            raise Garbled("a header that makes no sense") from None
        if "address" not in header:
            receive_data(self.connection, memoryview(data), checked=self._checked)
        elif not read_memory(self._looks_into, int(header["address"]), data):
            self._looks_into = 0
            return self._get(key)
        return data.view(dtype).reshape(shape)

    def get_all(self, keys: Sequence[str]) -> list[Array]:
        """The same of several tensors."""
        return self.window.get_all(keys) if self.window else [self.get(key) for key in keys]

    def upload(self, name: str, content: bytes) -> None:
        """Put a new file into the session's folder."""
        with self.way.at_once():
            self._ask({"do": "file", "name": name, "size": len(content)}, content)

    def piece(self, key: str, at: int, whole: int, data: memoryview) -> None:
        """Send bytes of a tensor that has ``whole`` of them, from the one at ``at`` on; they wait
        apart from the tensors that are there."""
        header = {"do": "piece", "key": key, "at": at, "whole": whole, "size": len(data)}
        self._ask(header, data, checked=False)

    def keep(self, key: str, array: Array, checksum: int) -> bool:
        """Have a tensor made of the pieces; whether it was: its bytes have this CRC-32."""
        shape, dtype = tuple(array.shape), dtype_of(array).name
        header = {"do": "keep", "key": key, "shape": shape, "dtype": dtype, "sum": checksum}
        return self._ask(header).get("kept") is True

    def forget(self, keys: Sequence[str]) -> None:
        """Have pieces of tensors go."""
        self._ask({"do": "forget", "keys": list(keys)})

    def break_off(self) -> None:
        """End the connection, on which something went wrong; from any thread."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _ask(
        self, header: dict[str, Any], data: Any = b"", *, checked: bool | None = None
    ) -> dict[str, Any]:
        """Ask, and wait for the answer; ``checked``: whether data goes with its checksum, by
        default as everything on this line."""
        checked = self._checked if checked is None else checked
        sealed = checked and "size" in header
        self._number += 1
        header |= {"number": self._number, "checked": checked}
        send_message(self.connection, header, data, checked=sealed)
        answer = receive_header(self.connection)
        if answer.get("number") != self._number:
            raise Garbled("an answer to something else")
        if error := error_of(answer):
            raise error
        return answer


class LineService:
    """Our server: text over TVM's RPC, numbered and with a checksum, and the tensor channel.

    Every method raises a :class:`~tapml_nb.targets.wire.errors.TargetError` if the target answers
    with an error, and the connection is fine then.  What else it raises means that this is broken.

    Attributes:
        peak: the most bytes that the device ever held, by its last answer; 0 if it has no pool.
    """

    def __init__(self, do: Callable[[str], Any]) -> None:
        """``do``: the remote function that takes requests and gives answers."""
        self._do: Callable[[str], Any] | None = do
        self.channel: ChannelClient | None = None
        self._asked = self.peak = 0

    def use(self, kind: str, device: int, seconds: float, bound: int | None) -> dict[str, Any]:
        """Choose the server's device, which is to hold no more than ``bound`` bytes; what it says
        of itself."""
        return _expect(dict, self._ask("use", kind, device, seconds, bound))

    def credentials(self) -> dict[str, Any]:
        """What opens the tensor channel, for which the server waits from now on."""
        return _expect(dict, self._ask("channel"))

    def put(self, key: str, array: Array) -> int:
        """Keep a tensor under a key; returns the bytes sent."""
        return self._tensors.put(key, array)

    def shows(self, array: Array) -> bool:
        """Whether a tensor is where the target sees it, so that it need not be sent."""
        return self._tensors.shows(array)

    def put_all(self, tensors: Mapping[str, Array]) -> None:
        """Keep tensors of which :meth:`shows` says so."""
        self._tensors.put_all(tensors)

    def get(self, key: str) -> Array:
        """A resident tensor; on the GPU where that is shared."""
        return self._tensors.get(key)

    def get_all(self, keys: Sequence[str]) -> list[Array]:
        """The same of several tensors."""
        return self._tensors.get_all(keys)

    def upload(self, name: str, content: bytes) -> None:
        """Put a new file into the session's folder there."""
        self._tensors.upload(name, content)

    def load(self, library: str, kernels: Sequence[Kernel]) -> None:
        """Load a library, by its path here (if the server is local) or its name there."""
        self._ask("load", library, [kernel.to_json() for kernel in kernels])

    def call(self, requests: Sequence[CallRequest]) -> list[CallResult]:
        """Run kernels; results of as many as went well, one at least."""
        answers = _expect(list, self._ask("call", list(map(to_json, requests))))
        if not 0 < len(answers) <= len(requests):
            raise Garbled(f"{len(answers)} answers to {len(requests)} calls")
        pairs = zip(answers, requests, strict=False)
        return [CallResult.from_json(one, len(request.outputs)) for one, request in pairs]

    def chain(self, request: ChainRequest) -> ChainResult:
        """Run kernels one after the other."""
        return ChainResult.from_json(self._ask("chain", to_json(request)), len(request.keep))

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of a resident tensor against another."""
        return _expect(dict, self._ask("statistics", output, reference))

    def drop(self, keys: Sequence[str]) -> None:
        """Free tensors."""
        self._ask("drop", list(keys))

    def held(self) -> int:
        """Bytes of all tensors there."""
        return _expect(int, self._ask("held"))

    def close(self) -> None:
        """Let go of all that is remote; the connection is shut down by now."""
        if self.channel and self.channel.window:
            self.channel.window.close()
        self._do = self.channel = None

    @property
    def _tensors(self) -> ChannelClient:
        if self.channel is None:
            raise ConnectionError("it was closed")
        return self.channel

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Have the server do something; Garbled if the answer makes no sense."""
        if self._do is None:
            raise ConnectionError("it was closed")
        self._asked += 1
        try:
            answer = unseal(self._do(seal([self._asked, name, arguments])))
        except Exception as error:
            if is_answer(error):
                raise Garbled(message_of(error)) from None
            raise
        if answer["number"] != self._asked:
            raise Garbled("an answer to something else")
        if refusal := error_of(answer):
            raise refusal
        self.peak = _expect(int, answer.get("peak"))
        return answer["answer"]


def _expect(kind: type[_T], answer: Any) -> _T:
    """An answer of this kind; Garbled if it is of another."""
    if not isinstance(answer, kind):
        raise Garbled(f"an unexpected answer: {answer!r:.80}")
    return answer
