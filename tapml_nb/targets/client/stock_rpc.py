"""TVM's own servers: what they cannot do is done on this side of the line.

The runner of our server works here, on a device whose tensors and functions are remote ones of
TVM's.  So everything works, only slower: TVM's RPC moves tensors element by element, and whatever
is compared travels.  Nobody there keeps a deadline or tells how a process ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.targets.devices.base import CopiedTvmDevice, Function, Within
from tapml_nb.targets.server.runner import KernelRunner, TensorMemory
from tapml_nb.targets.wire.errors import Rejected, TargetError
from tapml_nb.targets.wire.recorder import Record, Recorder


class _RemoteDevice(CopiedTvmDevice):
    """A device of a TVM server's, through TVM's RPC."""

    def __init__(self, session: Any, kind: str, number: int) -> None:
        devices = {"llvm": session.cpu, "c": session.cpu, "cuda": session.cuda}
        if kind not in devices:
            raise TargetError(f"a plain TVM server cannot launch {kind}; use 'tapml serve' there")
        self._session = session
        super().__init__(devices[kind](number))

    def load(self, library: str, names: Collection[str], within: Within) -> Mapping[str, Function]:
        module = self._session.load_module(Path(library).name)
        functions = {}
        for name in names:
            try:
                functions[name] = _answering(module.get_function(name))
            except AttributeError:
                raise Rejected(f"the library has no function {name}") from None
        return functions

    def new(self, shape: Sequence[int], dtype: str) -> Any:
        return _answering(super().new)(shape, dtype)

    def capacity(self) -> int | None:
        return None


def _answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """A remote function that tells an error there from a line that breaks.

    Raises:
        ConnectionError: if it breaks.
    """

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (TypeError, ValueError):
            raise
        except Exception as error:
            if is_answer(error):
                raise
            raise ConnectionError(f"the line broke: {type(error).__name__}") from None

    return call


def is_answer(error: Exception) -> bool:
    """Whether the target answered with an error, as against not answering."""
    return type(error).__name__ == "RPCError"


class PlainService:
    """In the place of our server's functions, and of the tensor socket beside them."""

    def __init__(self, session: Any, kind: str, number: int) -> None:
        """Use a device of the server that ``session`` (TVM's ``RPCSession``) is connected to.

        Raises:
            TargetError: if plain servers have no such devices.
        """
        self._session = session
        self._memory = TensorMemory(_RemoteDevice(session, kind, number))
        self._recorder = Recorder()
        self._runner = KernelRunner(self._memory, self._recorder)

    def record(self) -> Record:
        """What the server is at, as far as this side knows."""
        return self._recorder.read()

    def call(self, name: str, *arguments: str) -> Any:
        """What our server's function of this name would answer.

        Raises:
            TargetError: if it cannot be done.
            Exception: any other, if the connection broke.
        """
        try:
            return getattr(self, f"_{name}")(*arguments)
        except (TypeError, ValueError) as error:
            raise TargetError(str(error)) from None

    def put(self, key: str, array: np.ndarray) -> int:
        """As :meth:`BulkClient.put <tapml_nb.targets.wire.tensor_channel.BulkClient.put>`."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

        def receive(into: np.ndarray) -> None:
            into[:] = data

        self._memory.put(key, array.shape, array.dtype.name, receive)
        return data.size

    def get(self, key: str) -> np.ndarray:
        """As :meth:`BulkClient.get <tapml_nb.targets.wire.tensor_channel.BulkClient.get>`."""
        return self._memory.array(self._memory[key])

    def file(self, name: str, content: bytes) -> None:
        """As :meth:`BulkClient.file <tapml_nb.targets.wire.tensor_channel.BulkClient.file>`."""
        self._session.upload(bytearray(content), name)

    # -- our server's functions ------------------------------------------------------------------

    def _load(self, name: str, plans: str) -> None:
        self._runner.load(name, json.loads(plans), _at_once)

    def _call(self, text: str) -> str:
        request = json.loads(text)
        del request["timeout"]
        return json.dumps(self._runner.call(**request, within=_at_once))

    def _chain(self, text: str) -> str:
        request = json.loads(text)
        del request["timeout"]
        return json.dumps(self._runner.chain(**request, within=_at_once))

    def _statistics(self, output: str, reference: str) -> str:
        return json.dumps(self._runner.statistics(output, reference))

    def _drop(self, keys: str) -> None:
        self._memory.drop(json.loads(keys))

    def _held(self) -> int:
        return self._memory.held()


def _at_once(work: Any) -> Any:
    """The watchdog on this side is the only clock."""
    return work()
