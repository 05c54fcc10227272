"""What people put in operators' places: NumPy functions, or PrimFuncs of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.kernel import Size, SizeMisfit, bind
from tapml_nb.compile.primfunc import buffer_specs, is_primfunc
from tapml_nb.execute.implementation import NumpyOverride
from tapml_nb.graph import Graph, Op, OpId


class Overrides:
    """What the user put in the place of which operators."""

    def __init__(self, graph: Graph, compiler: Compiler) -> None:
        self._graph = graph
        self._compiler = compiler
        self._numbers = itertools.count(1)
        self.functions: dict[OpId, NumpyOverride] = {}
        self.primfuncs: dict[OpId, str] = {}
        """As the keys of their kernels."""
        self.words: dict[OpId, str] = {}
        """What stands there, for people."""
        self.modules: dict[str, Any] = {}
        """What kernels are compiled from by key, those that were taken back, too."""

    def __contains__(self, op: object) -> bool:
        return op in self.words

    def put(self, op: OpId, kernel: Any) -> None:
        """Put a PrimFunc or a NumPy function in an operator's place; None takes it back."""
        self.functions.pop(op, None)
        self.primfuncs.pop(op, None)
        if kernel is None:
            self.words.pop(op, None)
            return
        if not is_primfunc(kernel):
            self.functions[op] = function = NumpyOverride(kernel, next(self._numbers))
            self.words[op] = f"the NumPy function {function.name}, in this process"
            return
        import tvm

        outputs = len(self._graph[op].outputs)
        module = tvm.IRModule({"override": kernel.with_attr("tapml.outputs", outputs)})
        self.primfuncs[op] = key = self._compiler.key(module)
        self.modules[key] = module
        self.words[op] = "a PrimFunc of yours"

    def misfit(self, op: Op, shapes: Sequence[Sequence[int]]) -> str:
        """Why an operator's PrimFunc cannot run on tensors of these shapes, inputs and then
        outputs: it may have been made for another step's.  Empty if it can."""
        ((_, function),) = self.modules[self.primfuncs[op.id]].functions.items()
        return _misfit(function, len(op.outputs), shapes)


def check_override(graph: Graph, op: OpId, kernel: Any) -> None:
    """Refuse, before any work, what is no kernel (``TypeError``), or a PrimFunc whose buffers do
    not fit the operator (``ValueError``)."""
    if kernel is None:
        return
    if not is_primfunc(kernel):
        if not callable(kernel):
            raise TypeError(
                f"kernel: a {type(kernel).__name__}; give a tvm.tirx.PrimFunc in "
                f"destination-passing style or a function of NumPy arrays"
            )
        return
    operator = graph[op]
    tensors = graph.tensors((*operator.inputs, *operator.outputs))
    wanted = [graph.values[v].spec for v in tensors]
    try:
        found = buffer_specs(kernel, len(operator.outputs))
    except ValueError as error:
        raise ValueError(f"kernel: {error}") from None
    alike = [spec.dtype for spec in found] == [spec.dtype for spec in wanted]
    shapes = [spec.shape for spec in wanted]
    if alike and not _misfit(kernel, len(operator.outputs), shapes):
        return
    takes = ", ".join(f"{spec.dtype}{_written(spec.shape)}" for spec in found)
    raise ValueError(
        f"kernel: the PrimFunc takes ({takes}), {op} needs its inputs and then its outputs: "
        f"({', '.join(map(str, wanted))})"
    )


def _misfit(function: Any, outputs: int, shapes: Sequence[Sequence[int]]) -> str:
    """Why a PrimFunc cannot run on tensors of these shapes, its outputs last; empty if it can."""
    takes = [spec.shape for spec in buffer_specs(function, outputs)]
    try:
        bind(takes, shapes, {})
    except SizeMisfit:
        took, here = (", ".join(map(_written, found)) for found in (takes, shapes))
        return f"your PrimFunc is for shapes {took}; here they are {here}"
    return ""


def _written(shape: Sequence[Size]) -> str:
    """A shape as people read it, with names for what is open."""
    return f"[{', '.join(str(n) if isinstance(n, int | str) else '…' for n in shape)}]"
