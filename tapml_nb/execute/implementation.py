"""What computes an operator in a step: a kernel, nothing but a view, a function, or nothing.

Whoever runs operators asks an :class:`Implementation`, and need not know of which kind it is.
"""

from __future__ import annotations

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tapml_nb.array_api import Array, namespace, np_dtype, size_of
from tapml_nb.compile.cache import Compiled, Failure
from tapml_nb.compile.kernel import KernelCode, shortened
from tapml_nb.execute.caller import Caller, CallFailure, Operands, Outcome, Wanted
from tapml_nb.execute.host_call import Overdue, call_within
from tapml_nb.execute.source import Stopped
from tapml_nb.graph import TensorSpec
from tapml_nb.numerics import bitwise_equal
from tapml_nb.targets.wire.calls import CallResult, ChainCall

NumpyFunction = Callable[..., Any]


class Implementation(ABC):
    """What computes an operator, at the shapes of a step."""

    version: str
    """A name that changes whenever the implementation does."""
    label: str
    """What results call it: a kernel's key, or what stood in its place."""
    description: str = ""
    """A word on it for people; empty for a kernel like any other."""
    computes: bool = False
    """Whether anything is launched or called."""
    on_target: bool = False
    """Whether a chain on the target can do it, without this process."""
    constants: Mapping[str, np.ndarray] = {}
    """Tensors by key that the target needs for it."""
    failure: CallFailure | None = None
    """Why there is none."""

    @abstractmethod
    def run(self, caller: Caller, operands: Operands, repeats: int = 2) -> Outcome:
        """Compute the operator; a kernel so many times, a function always twice.

        Raises:
            Stopped, GivenUp, TargetError: as :meth:`Caller.call
                <tapml_nb.execute.caller.Caller.call>`.
        """

    def wanted(self, operands: Operands, repeats: int) -> Wanted | None:
        """The same as a call that is to be made; None where it is none."""
        return None

    def chained(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[ChainCall]:
        """The same as links of a chain, where the target can do it: by keys."""
        raise NotImplementedError(f"{self.label}: not without this process")


class _CompiledKernel(Implementation):
    """What the compiler made."""

    on_target = True

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self._kernel = compiled.kernel
        self.label = compiled.kernel.key
        self.version = "/".join((self.label, *map(str, compiled.numbers)))
        self.constants = compiled.constants


class LaunchedKernel(_CompiledKernel):
    """A kernel that launches functions on the target."""

    computes = True

    def run(self, caller: Caller, operands: Operands, repeats: int = 2) -> Outcome:
        return caller.call(self._compiled, operands, repeats)

    def wanted(self, operands: Operands, repeats: int) -> Wanted | None:
        return Wanted(self._compiled, operands, repeats)

    def chained(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[ChainCall]:
        return [ChainCall(self.label, tuple(inputs), tuple(outputs), self._compiled.numbers)]


class FoldedKernel(_CompiledKernel):
    """A kernel that launches nothing: its outputs are views of its inputs, or constants."""

    def __init__(self, compiled: Compiled) -> None:
        super().__init__(compiled)
        folded = compiled.kernel.constants
        self.description = "a constant, folded by the compiler" if folded else "a view"

    def run(self, caller: Caller, operands: Operands, repeats: int = 2) -> Outcome:
        known: list[Array] = [argument.there() for argument in operands.inputs]
        known += [self.constants[key] for key in self._kernel.constants]
        return _computed_here([[self._result(n, known) for n in self._kernel.results]])

    def chained(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[ChainCall]:
        known = [*inputs, *self._kernel.constants]
        calls = []
        for number, output in zip(self._kernel.results, outputs, strict=True):
            spec, memory = self._kernel.buffers[number], known[self._kernel.root(number)]
            calls.append(ChainCall(None, (memory,), (output,), shape=spec.shape, dtype=spec.dtype))
        return calls

    def _result(self, number: int, known: Sequence[Array]) -> Array:
        data, shape = known[self._kernel.root(number)], self._kernel.buffers[number].shape
        fits = math.prod(shape) == size_of(data)
        return namespace(data).reshape(data, tuple(shape)) if fits else data


class NumpyOverride(Implementation):
    """A function of NumPy arrays that stands in an operator's place, in this process."""

    computes = True

    def __init__(self, function: NumpyFunction, number: int) -> None:
        """``number``: another one for each function that was ever put in an operator's place."""
        self._function = function
        self.name = getattr(function, "__name__", repr(function))
        self.version = f"numpy:{number}"
        self.label = f"numpy:{self.name}"
        self.description = f"override {self.name} (NumPy, in this process)"

    def run(self, caller: Caller, operands: Operands, repeats: int = 2) -> Outcome:
        """Results are cast to the operator's dtypes, for NumPy widens where a kernel would not.
        Both runs together have the target's time."""
        seconds = caller.session.target.timeout
        deadline = time.monotonic() + seconds
        arrays = [argument.array() for argument in operands.inputs]
        runs: list[list[np.ndarray]] = []
        ms: list[float] = []
        for _ in range(2):
            begin = time.perf_counter()
            try:
                call = partial(self._function, *map(_read_only, arrays))
                result = call_within(deadline - time.monotonic(), call)
                runs.append(_cast(result, operands.specs))
            except Overdue as overdue:
                message = f"override {self.name} did not return within {seconds:g} s{overdue}"
                return Outcome(failure=CallFailure("timeout", message))
            except Stopped:
                raise
            except Exception as error:
                message = f"override {self.name} raised {type(error).__name__}: {error}"
                return Outcome(failure=CallFailure("crash", message))
            ms.append((time.perf_counter() - begin) * 1e3)
        return _computed_here(runs, ms)

    def code(self) -> KernelCode:
        """Its source; where that cannot be found, its message says so."""
        try:
            source = shortened(inspect.getsource(self._function))
        except (OSError, TypeError):  # built in, or typed where nothing keeps the text
            return KernelCode("", "", "", "python", f"the source of {self.name} cannot be found")
        return KernelCode("", "", source, "python", "")


class NoImplementation(Implementation):
    """Nothing, and why."""

    version = "none"
    label = ""

    def __init__(self, failure: Failure) -> None:
        kind: Any = "refused" if failure.reason == "unsupported" else "uncompiled"
        self.failure = CallFailure(kind, failure.message)

    def run(self, caller: Caller, operands: Operands, repeats: int = 2) -> Outcome:
        return Outcome(failure=self.failure)


def implementation_of(compiled: Compiled | Failure) -> Implementation:
    """What the compiler made, to be run."""
    if isinstance(compiled, Failure):
        return NoImplementation(compiled)
    return LaunchedKernel(compiled) if compiled.kernel.launches else FoldedKernel(compiled)


def _computed_here(runs: Sequence[Sequence[Array]], ms: Sequence[float] = ()) -> Outcome:
    """The outcome of runs in this process."""
    pairs = zip(runs[0], runs[-1], strict=True)
    same = [one is other or bitwise_equal(one, other) for one, other in pairs]
    result = CallResult(tuple(ms), tuple(same), (-1,) * len(same), ())
    return Outcome(result, lambda output, first: runs[0 if first else -1][output])


def _cast(result: Any, specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    """What a function returned, as arrays of the operator's dtypes, if it is as many."""
    arrays = list(result) if isinstance(result, tuple | list) else [result]
    if len(arrays) != len(specs):
        raise ValueError(f"it returned {len(arrays)} arrays, {len(specs)} are expected")
    return [
        np.array(a, dtype=np_dtype(spec.dtype), copy=True)
        for a, spec in zip(arrays, specs, strict=True)
    ]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
