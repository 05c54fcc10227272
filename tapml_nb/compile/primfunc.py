"""What a PrimFunc in destination-passing style takes: the buffers among its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapml_nb.compile.kernel import BufferSpec, Size

TIR_OPERATIONS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "FloorDiv": "//",
    "FloorMod": "%",
    "Min": "min",
    "Max": "max",
    "LT": "<",
    "LE": "<=",
    "EQ": "==",
    "NE": "!=",
    "And": "and",
    "Or": "or",
}
_SWAPPED = {"GT": "<", "GE": "<="}


class UnknownSize(Exception):
    """A size cannot be known from the shapes of parameters; the message says why."""


class SizeNames:
    """Names for the symbolic sizes of a function, by what they are known from."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}

    def declare(self, shapes: Sequence[Any]) -> None:
        """Name the sizes that are an axis of a parameter by themselves."""
        for shape in shapes:
            for size in shape or ():
                if type(size).__name__ == "Var":
                    self.name(size)

    def name(self, variable: Any) -> str:
        """The name of a symbolic size, which is known from now on."""
        return self._names.setdefault(variable, f"n{len(self._names)}")

    def size(self, expr: Any) -> Size:
        """A TVM expression as plain data; or ``UnknownSize``, if it depends on something that is
        not known, or is none of arithmetic."""
        from tvm.sym import Analyzer

        if type(expr).__name__ == "IntImm":
            return int(expr)
        return self._size(Analyzer().simplify(expr))

    def _size(self, expr: Any) -> Size:
        kind = type(expr).__name__
        if kind == "IntImm":
            return int(expr)
        if kind == "Var":
            if expr not in self._names:
                raise UnknownSize(f"no parameter tells {expr.name}")
            return self._names[expr]
        if kind in TIR_OPERATIONS:
            return (TIR_OPERATIONS[kind], self._size(expr.a), self._size(expr.b))
        if kind in _SWAPPED:
            return (_SWAPPED[kind], self._size(expr.b), self._size(expr.a))
        if kind == "Not":
            return ("not", self._size(expr.a))
        if kind == "Cast":
            return self._size(expr.value)
        if kind == "Select":
            branches = (expr.condition, expr.true_value, expr.false_value)
            return ("select", *map(self._size, branches))
        if getattr(getattr(expr, "op", None), "name", "") == "prim.if_then_else":
            return ("select", *map(self._size, expr.args))
        raise UnknownSize(f"it takes {kind}")


def is_primfunc(value: Any) -> bool:
    """Whether a value is a ``tvm.tirx.PrimFunc``."""
    import tvm

    return isinstance(value, tvm.tirx.PrimFunc)


def buffer_specs(function: Any, outputs: int) -> list[BufferSpec]:
    """Shape and dtype of every parameter, of which the last ones are outputs; symbolic sizes are
    by name.

    Raises:
        ValueError: if a parameter is no buffer, or no axis of an input tells a symbolic size.
    """
    for param in function.params:
        if type(param.ty).__name__ != "BufferType":
            raise ValueError(f"parameter {param.name} of the PrimFunc is no buffer")
    names = SizeNames()
    names.declare([param.shape for param in function.params[: len(function.params) - outputs]])
    specs = []
    for param in function.params:
        try:
            shape = tuple(map(names.size, param.shape))
        except UnknownSize as reason:
            raise ValueError(
                f"parameter {param.name} of the PrimFunc has no shape that is known: {reason}"
            ) from None
        specs.append(BufferSpec(shape, str(param.dtype)))
    return specs
