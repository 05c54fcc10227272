"""TVM's own servers: what they cannot do is done on this side of the line.

The runner of our server works here, on a device whose tensors and functions are remote ones of
TVM's.  So everything works, only slower: TVM's RPC moves tensors element by element, and whatever
is compared travels.  Nobody there keeps a deadline or tells how a process ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.array_api import Array
from tapml_nb.compile.kernel import Kernel
from tapml_nb.targets.client.dial import is_answer, message_of
from tapml_nb.targets.devices.base import Function, Within
from tapml_nb.targets.devices.tvm_runtime import CopiedTvmDevice
from tapml_nb.targets.server.memory import TensorMemory
from tapml_nb.targets.server.runner import KernelRunner
from tapml_nb.targets.wire.calls import CallRequest, CallResult, ChainRequest, ChainResult
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
    """A remote function that tells an error there from a line that breaks (ConnectionError)."""

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


class StockService:
    """A device of a TVM server's, with the work of our server done here."""

    def __init__(self, session: Any, kind: str, number: int) -> None:
        """Use a device of the server that ``session`` (TVM's ``RPCSession``) is connected to;
        TargetError if TVM's servers have no such devices."""
        self._session = session
        self._memory = TensorMemory(_RemoteDevice(session, kind, number))
        self._recorder = Recorder()
        self._runner = KernelRunner(self._memory, self._recorder)

    def record(self) -> Record:
        """What the server is at, as far as this side knows."""
        return self._recorder.read()

    def put(self, key: str, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._memory.put(key, array.shape, array.dtype.name, lambda into: np.copyto(into, data))
        return data.size

    def shows(self, array: Array) -> bool:
        return False

    def put_all(self, tensors: Mapping[str, Array]) -> None:
        for key, array in tensors.items():
            self.put(key, array)

    def get(self, key: str) -> np.ndarray:
        return self._memory.array(self._memory[key])

    def get_all(self, keys: Sequence[str]) -> list[np.ndarray]:
        return [self.get(key) for key in keys]

    def upload(self, name: str, content: bytes) -> None:
        self._session.upload(bytearray(content), name)

    def load(self, library: str, kernels: Sequence[Kernel]) -> None:
        with _errors_as_answers():
            self._runner.load(library, kernels, _at_once)

    def call(self, requests: Sequence[CallRequest]) -> list[CallResult]:
        with _errors_as_answers():
            return [self._runner.call(request, _at_once) for request in requests]

    def chain(self, request: ChainRequest) -> ChainResult:
        with _errors_as_answers():
            return self._runner.chain(request, _at_once)

    def statistics(self, output: str, reference: str) -> dict[str, float]:
        with _errors_as_answers():
            return self._runner.statistics(output, reference)

    def drop(self, keys: Sequence[str]) -> None:
        with _errors_as_answers():
            self._memory.drop(keys)

    def held(self) -> int:
        return self._memory.held()

    def close(self) -> None:
        del self._runner, self._memory, self._session


@contextmanager
def _errors_as_answers() -> Iterator[None]:
    """What an error there, or the runner here, says is the target's answer: a TargetError.  Any
    other exception: the connection broke."""
    try:
        yield
    except TargetError:
        raise
    except (TypeError, ValueError) as error:
        raise TargetError(str(error)) from None
    except Exception as error:
        if is_answer(error):
            raise TargetError(message_of(error)) from None
        raise


def _at_once(work: Any) -> Any:
    """The watchdog on this side is the only clock."""
    return work()
