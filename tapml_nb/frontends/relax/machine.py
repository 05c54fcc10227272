"""TVM as a source: units compiled for it, together, and run on its virtual machine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tapml_nb.frontends.program import FrontendError, last_line

_FLOAT = re.compile(r"\b(float32|float16|bfloat16)\b")


class HeldObject:
    """An object of the virtual machine, such as a KV cache, and how to make it again.

    A call that changes an object in place uses it up: who needs its former state again gets it
    by making it anew, so that to run a step twice is to do the same twice.
    """

    def __init__(self, make: Callable[[], Any], live: Any = None) -> None:
        self._make = make
        self._live = live

    def borrow(self) -> Any:
        """The object, to be left as it is."""
        if self._live is None:
            self._live = self._make()
        return self._live

    def take(self) -> Any:
        """The object, to be changed."""
        live, self._live = self._live, None
        return self._make() if live is None else live


class Machine:
    """Compiles units for ``"llvm"`` or ``"cuda"`` on this machine, each once, and calls them."""

    def __init__(self, target: str) -> None:
        self.device = tvm.device("cuda" if target == "cuda" else "cpu", 0)
        if not self.device.exist:
            raise ValueError(f"source: 'tvm:{target}' cannot be used here: TVM finds no device")
        kind = tvm.target.Target
        self._target = kind.from_device(self.device) if target == "cuda" else kind("llvm")
        self._functions: dict[str, Any] = {}
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()

    def compile(self, units: Mapping[str, Any], *, wide: bool = False) -> None:
        """Compile units by key, ``wide`` in float64; those that fail say so when they are called.

        They are of one program: functions of one name are the same in all of them.
        """
        with self._lock:
            known = self._functions.keys() | self._errors.keys()
            self._compile({key: unit for key, unit in units.items() if key not in known}, wide)

    def call(self, key: str, arguments: Sequence[Any]) -> list[Any]:
        """Call a unit that :meth:`compile` has seen, with arrays, and objects as they are.

        Returns:
            What it gives, tuples dissolved: arrays, tuples of sizes, numbers, objects.

        Raises:
            FrontendError: if it could not be compiled.
        """
        if key in self._errors:
            raise FrontendError(f"TVM cannot compile it for the source: {self._errors[key]}")
        given = [self._tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
        with self._lock:
            return [_plain(leaf) for leaf in _leaves(self._functions[key](*given))]

    def _compile(self, units: dict[str, Any], wide: bool) -> None:
        """All in one go, because linking costs most; by halves where something fails."""
        if not units:
            return
        names = {key: f"unit{number}" for number, key in enumerate(units)}
        try:
            batch = _joined({names[key]: unit for key, unit in units.items()})
            built = tvm.compile(_widened(batch) if wide else batch, self._target)
            machine = relax.VirtualMachine(built, self.device)
            self._functions |= {key: machine[name] for key, name in names.items()}
        except Exception as error:  # whatever the compiler says
            if len(units) == 1:
                self._errors |= dict.fromkeys(units, last_line(error))
                return
            keys = list(units)
            for part in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._compile({key: units[key] for key in part}, wide)

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = tvm.runtime.empty(array.shape, array.dtype.name, self.device)
        return tensor.copyfrom(array) if array.size else tensor


def _joined(units: Mapping[str, Any]) -> Any:
    """One module with the functions ``main`` of all units under their names."""
    functions: dict[Any, Any] = {}
    for name, unit in units.items():
        for var, function in unit.functions.items():
            if var.name_hint == "main":
                functions[tvm.ir.GlobalVar(name)] = function.with_attr("global_symbol", name)
            else:
                functions[var] = function
    return tvm.IRModule(functions)


def _leaves(result: Any) -> list[Any]:
    if isinstance(result, tvm.runtime.ShapeTuple):  # a tuple by itself
        return [result]
    if isinstance(result, tvm.ir.Array | list | tuple):
        return [leaf for member in result for leaf in _leaves(member)]
    return [result]


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, tvm.runtime.Tensor):
        return np.asarray(leaf.numpy(), order="C")
    if isinstance(leaf, tvm.runtime.ShapeTuple):
        return tuple(map(int, leaf))
    return leaf


def _widened(module: Any) -> Any:
    """The same in float64, every floating-point dtype in it.

    TVM has no pass for it, but a parser: this goes by the module's script.

    Raises:
        Exception: whatever the parser says of what TVM has printed.
    """
    return tvm.script.from_source(_FLOAT.sub("float64", module.script(show_meta=True)))
