"""Units of a program by what its operators see: each made once, all of a step compiled at once."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from typing import Any

import numpy as np
import tvm

from tapml_nb.frontends.program import Unit
from tapml_nb.frontends.relax.bindings import Bindings, RelaxOp
from tapml_nb.frontends.relax.machine import HeldObject, Machine
from tapml_nb.frontends.relax.sizes import is_size, match, sizes_in
from tapml_nb.frontends.relax.units import (
    build_module,
    build_open_module,
    only_tensors,
    specialized,
)
from tapml_nb.graph import TensorSpec, ValueId

Seen = Mapping[ValueId, Any]
"""What a unit is made for: specs of tensors, sizes and numbers as they are, None for objects."""


class UnitCache:
    """Makes units of a function's operators, for whatever threads ask for them."""

    def __init__(self, module: Any, bindings: Bindings, machine: Machine) -> None:
        self._module = module
        self._bindings = bindings
        self._machine = machine
        self._units: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._open_units: dict[str, tuple[Any, list[Any]] | None] = {}
        self._prepared: set[bool] = set()
        self._building = RLock()  # TVM's builders know one scope for all threads

    def seen(self, op: RelaxOp, values: Mapping[ValueId, Any]) -> Seen:
        """What an operator sees of values.

        The dtypes are those of the model, also where float64 values stand in for its own.
        """
        seen: dict[ValueId, Any] = {}
        for key in op.inputs:
            value = values[key]
            if isinstance(value, np.ndarray):
                seen[key] = TensorSpec(tuple(value.shape), self._bindings.dtypes[key])
            else:
                seen[key] = None if isinstance(value, HeldObject) else value
        return seen

    def made(self, op: RelaxOp, seen: Seen, *, exact: bool = False) -> tuple[str, Any]:
        """Key and module of an operator's unit; the module is None if there is no exact one."""
        slot = (op.id, exact, *seen.values())
        with self._building:
            if slot not in self._units:
                variables = self._bindings.variables
                unit = build_module(self._module, op, variables, seen, exact=exact)
                text = tvm.ir.save_json(unit) if unit is not None else ""
                self._units[slot] = (f"{'float64' if exact else 'as it is'}|{text}", unit)
            return self._units[slot]

    def specialized(self, unit: Any) -> Any:
        """A unit whose function is for these sizes alone."""
        with self._building:
            return specialized(unit)

    def open(self, op: RelaxOp, seen: Seen) -> Unit | None:
        """An operator's unit for all sizes; None if there are no open ones, or these are others."""
        sizes: dict[Any, int] = {}
        for key, known in seen.items():
            var = self._bindings.variables[key]
            if isinstance(known, TensorSpec):
                if not match(sizes_in(var.ty), known.shape, sizes):
                    return None
            elif not is_size(var) or sizes.setdefault(var, known) != known:
                return None
        if not sizes:
            return None
        with self._building:
            if op.id not in self._open_units:
                variables = self._bindings.variables
                self._open_units[op.id] = build_open_module(self._module, op, variables)
        built = self._open_units[op.id]
        if built is None or not only_tensors(built[0]):
            return None
        module, numbers = built
        return Unit(module, tensors(seen), (), "", True, tuple(sizes[size] for size in numbers))

    def compile_all(self, known: Mapping[ValueId, Any], *, exact: bool) -> None:
        """Compile what all operators need for what is known of a step, at once; the first time."""
        if exact in self._prepared:
            return
        self._prepared.add(exact)
        units: dict[str, Any] = {}
        for op in self._bindings.ops:
            if op.sizes is None and all(key in known for key in op.inputs):
                key, unit = self.made(op, {key: known[key] for key in op.inputs}, exact=exact)
                if unit is not None and only_tensors(unit):
                    units[key] = unit
        self._machine.compile(units, wide=exact)


def tensors(seen: Seen) -> tuple[TensorSpec, ...]:
    """The specs of the tensors that an operator sees."""
    return tuple(known for known in seen.values() if isinstance(known, TensorSpec))
