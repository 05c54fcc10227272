"""What people put in an operator's place: a NumPy function, or a PrimFunc of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tapml_nb.compile.code import KernelCode, shortened
from tapml_nb.compile.primfunc import buffer_specs, is_primfunc
from tapml_nb.compile.sizes import Size, SizeMisfit, bind
from tapml_nb.graph import Graph, OpId

NumpyFunction = Callable[..., Any]


@dataclass(frozen=True)
class NumpyOverride:
    """A function of NumPy arrays that stands in an operator's place, in this process."""

    function: NumpyFunction
    version: int

    @property
    def name(self) -> str:
        """What people called it."""
        return getattr(self.function, "__name__", repr(self.function))


def python_code(override: NumpyOverride) -> KernelCode:
    """A NumPy override's source; where that cannot be found, its message says so."""
    try:
        source = shortened(inspect.getsource(override.function))
    except (OSError, TypeError):  # built in, or typed where nothing keeps the text
        return KernelCode("", "", "", "python", f"the source of {override.name} cannot be found")
    return KernelCode("", "", source, "python", "")


def check_override(graph: Graph, op: OpId, kernel: Any) -> None:
    """Refuse an override that cannot stand in the operator's place, before any work.

    Raises:
        TypeError: if it is neither a PrimFunc nor a function.
        ValueError: if a PrimFunc's buffers do not fit the operator.
    """
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
    values = [graph.values[v] for v in (*operator.inputs, *operator.outputs)]
    wanted = [value.spec for value in values if not value.host]
    try:
        found = buffer_specs(kernel, len(operator.outputs))
    except ValueError as error:
        raise ValueError(f"kernel: {error}") from None
    alike = [spec.dtype for spec in found] == [spec.dtype for spec in wanted]
    shapes = [spec.shape for spec in wanted]
    if alike and not misfit(kernel, len(operator.outputs), shapes):
        return
    takes = ", ".join(f"{spec.dtype}{_written(spec.shape)}" for spec in found)
    raise ValueError(
        f"kernel: the PrimFunc takes ({takes}), {op} needs its inputs and then its outputs: "
        f"({', '.join(map(str, wanted))})"
    )


def misfit(function: Any, outputs: int, shapes: Sequence[Sequence[int]]) -> str:
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
