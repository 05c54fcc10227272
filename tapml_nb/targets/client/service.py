"""What a target does for a session, and how our own server is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import numpy as np

from tapml_nb.compile.kernel import Kernel
from tapml_nb.targets.client.tensor_channel import ChannelClient
from tapml_nb.targets.client.tvm_rpc import is_answer, message_of
from tapml_nb.targets.wire.calls import CallRequest, CallResult, ChainRequest
from tapml_nb.targets.wire.envelope import Garbled, error_of, seal, unseal

_T = TypeVar("_T")


class TargetService(Protocol):
    """A target, as one connection reaches it.

    Every method raises a :class:`~tapml_nb.targets.wire.errors.TargetError` if the target answers
    with an error, and the connection is fine then.  What else it raises means that this is broken.
    """

    def put(self, key: str, array: np.ndarray) -> int:
        """Keep a tensor under a key; returns the bytes sent."""

    def get(self, key: str) -> np.ndarray:
        """A resident tensor."""

    def upload(self, name: str, content: bytes) -> None:
        """Put a new file into the session's folder there."""

    def load(self, library: str, kernels: Sequence[Kernel]) -> None:
        """Load a library, by its path here (if the server is local) or its name there."""

    def call(self, request: CallRequest) -> CallResult:
        """Run a kernel."""

    def chain(self, request: ChainRequest) -> Sequence[str]:
        """Run kernels one after the other; the keys of tensors that they have overwritten."""

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        """Error statistics of a resident tensor against another."""

    def drop(self, keys: Sequence[str]) -> None:
        """Free tensors."""

    def held(self) -> int:
        """Bytes of all tensors there."""

    def close(self) -> None:
        """Let go of all that is remote; the connection is shut down by now."""


class LineService:
    """Our server: text over TVM's RPC, numbered and with a checksum, and the tensor channel."""

    def __init__(self, do: Callable[[str], Any]) -> None:
        """``do``: the remote function that takes requests and gives answers."""
        self._do: Callable[[str], Any] | None = do
        self._channel: ChannelClient | None = None
        self._asked = 0

    def use(self, kind: str, device: int, seconds: float) -> dict[str, Any]:
        """Choose the server's device; what it says of itself.

        Raises:
            TargetError: if there is no such device.
        """
        return _expect(dict, self._ask("use", kind, device, seconds))

    def open_channel(self, connect: Callable[[dict[str, Any]], ChannelClient]) -> ChannelClient:
        """Open the tensor channel with the credentials that the server gives for it."""
        self._channel = connect(_expect(dict, self._ask("channel")))
        return self._channel

    def put(self, key: str, array: np.ndarray) -> int:
        return self._tensors.put(key, array)

    def get(self, key: str) -> np.ndarray:
        return self._tensors.get(key)

    def upload(self, name: str, content: bytes) -> None:
        self._tensors.upload(name, content)

    def load(self, library: str, kernels: Sequence[Kernel]) -> None:
        self._ask("load", library, [kernel.to_json() for kernel in kernels])

    def call(self, request: CallRequest) -> CallResult:
        return CallResult.from_json(self._ask("call", asdict(request)), len(request.outputs))

    def chain(self, request: ChainRequest) -> Sequence[str]:
        return list(map(str, _expect(list, self._ask("chain", asdict(request)))))

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        return _expect(dict, self._ask("statistics", output, reference))

    def drop(self, keys: Sequence[str]) -> None:
        self._ask("drop", list(keys))

    def held(self) -> int:
        return _expect(int, self._ask("held"))

    def close(self) -> None:
        self._do = self._channel = None

    @property
    def _tensors(self) -> ChannelClient:
        if self._channel is None:
            raise ConnectionError("it was closed")
        return self._channel

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Have the server do something.

        Raises:
            TargetError: if it raises there; the connection is fine.
            Garbled: if the answer makes no sense.
            Exception: any other, if the connection broke.
        """
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
        return answer["answer"]


def _expect(kind: type[_T], answer: Any) -> _T:
    """An answer of this kind.

    Raises:
        Garbled: if it is of another.
    """
    if not isinstance(answer, kind):
        raise Garbled(f"an unexpected answer: {answer!r:.80}")
    return answer
