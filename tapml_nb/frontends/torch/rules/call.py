"""One ATen call on its way to Relax: what a conversion rule is given, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree
from tvm import relax, tirx

from tapml_nb.frontends.torch.grouping import arguments
from tapml_nb.frontends.torch.sizes import SeenSizes

Expr = Any
"""A ``relax.Expr``."""

Rule = Callable[..., Any]
"""A function of a :class:`Call` and of the ATen call's arguments, in the order of its schema and
with defaults filled in: tensors are Relax expressions, dtypes their names.  It returns a Relax
expression, or a tuple of them for a call that yields several tensors; a workaround's may return
``NotImplemented`` where TVM's own rule is right."""


NARROW = ("float16", "bfloat16")
"""Dtypes that PyTorch computes in float32."""


@dataclass(frozen=True)
class Call:
    """A call of an ATen overload whose inputs are converted already.

    Attributes:
        importer: TVM's importer, whose environment holds the inputs.
        node: the call.
        seen: sizes that values decide, as the source's run has them; None where it has not run.
    """

    importer: Any
    node: fx.Node
    seen: SeenSizes | None = None

    @property
    def values(self) -> list[torch.Tensor]:
        """The tensors that PyTorch yields, as the export foresees them; where it does not foresee
        a size, that of the source's run."""
        value = self.node.meta["val"]
        values = list(value) if isinstance(value, list | tuple) else [value]
        return [self.seen.like(value) for value in values] if self.seen else values

    def sizes(self, output: int = 0) -> list[int]:
        """The sizes of a tensor that PyTorch yields.

        Raises:
            ValueError: if values decide one, and none of them are known.
        """
        shape = self.values[output].shape
        if not all(isinstance(size, int) for size in shape):
            raise ValueError("a size that values decide is not known before a run")
        return list(shape)

    @property
    def dtype(self) -> str:
        """The dtype that PyTorch gives the result, or the first of several."""
        return dtype_name(self.values[0].dtype)

    @property
    def wide(self) -> str:
        """The dtype that PyTorch computes such a result in."""
        return "float32" if self.dtype in NARROW else self.dtype

    @property
    def operands(self) -> dict[fx.Node, Expr]:
        """The tensors that the call reads."""
        return {
            node: self.importer.env[node]
            for node in self.node.all_input_nodes
            if isinstance(node.meta.get("val"), torch.Tensor)
        }

    def emit(self, expr: Expr) -> Expr:
        """Bind an expression, so that its shape and dtype are known."""
        return self.importer.block_builder.emit(expr)

    def promoted(self, operand: Expr | float) -> Expr:
        """An operand, bound, in the dtype that PyTorch gives the result."""
        if not isinstance(operand, relax.Expr):
            return relax.const(operand, self.dtype)
        return self.emit(cast(operand, self.dtype))

    def number(self, operand: Expr | float) -> Expr:
        """The same in a dtype that TVM can compute with."""
        return self.emit(cast(self.promoted(operand), numeric(self.dtype)))

    def narrowed(self, *results: Expr) -> tuple[Expr, ...]:
        """Results of a call that yields several tensors, in the dtypes that PyTorch gives them."""
        dtypes = [dtype_name(value.dtype) for value in self.values]
        return tuple(
            cast(self.emit(result), dtype) for result, dtype in zip(results, dtypes, strict=True)
        )

    def compute(self, function: Callable[..., Any], *tensors: Expr, name: str) -> Expr:
        """Bind what a function of tensor expressions computes, as a PrimFunc called ``name``."""
        return self.importer.block_builder.emit_te(function, *tensors, primfunc_name_hint=name)

    def as_tvm(self, name: str) -> Expr:
        """What TVM's own rule for another call, ``permute.default``, makes of these arguments."""
        return self.importer.convert_map[name](self.node)

    def by_tvm(self, instead: Mapping[fx.Node, Expr]) -> Expr:
        """What TVM's own rule makes of the call with other expressions in inputs' places."""
        importer = self.importer
        before = {node: importer.env[node] for node in instead}
        importer.env.update(instead)
        try:
            return importer.convert_map[self.node.target.__name__](self.node)  # type: ignore[union-attr]
        finally:
            importer.env.update(before)


def apply(rule: Rule, importer: Any, node: fx.Node, seen: SeenSizes | None = None) -> Any:
    """What a rule makes of a call, as the importer keeps it: bound, and a list where the call
    yields several tensors."""

    def resolve(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return importer.env[argument]
        return dtype_name(argument) if isinstance(argument, torch.dtype) else argument

    def bound(expr: Expr) -> Expr:
        return expr if isinstance(expr, relax.Var) else call.emit(expr)

    call = Call(importer, node, seen)
    result = rule(call, *pytree.tree_map(resolve, list(arguments(node).values())))
    if result is NotImplemented:
        return result
    return [bound(member) for member in result] if isinstance(result, tuple) else bound(result)


def dtype_name(dtype: torch.dtype) -> str:
    """Relax's name of a dtype, which is PyTorch's own."""
    return str(dtype).removeprefix("torch.")


def dtype_of(tensor: Expr) -> str:
    """The dtype's name of a bound expression."""
    return str(tensor.ty.dtype)


def numeric(dtype: str) -> str:
    """The dtype that TVM can compute with in a dtype's place: int32 for booleans."""
    return "int32" if dtype == "bool" else dtype


def is_floating(dtype: str) -> bool:
    """Whether a dtype of this name is a floating-point one."""
    return dtype.startswith(("float", "bfloat"))


def shape_of(tensor: Expr) -> list[int]:
    """The sizes of a bound expression.

    Raises:
        TypeError: if one is known only at run time.
    """
    return [int(size) for size in tensor.ty.shape]


def sizes_of(tensor: Expr) -> list[Any]:
    """The same, symbolic where they are known only at run time."""
    return [size if is_open(size) else int(size) for size in tensor.ty.shape]


def is_open(size: Any) -> bool:
    """Whether a size is known only at run time."""
    return not isinstance(size, int | tirx.IntImm)


def axes_of(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Axes from 0; all of them where PyTorch is given none."""
    chosen = [dims] if isinstance(dims, int) else list(dims or range(rank))
    return [dim % rank if rank else 0 for dim in chosen]


def constant(value: float, like: Expr) -> Expr:
    """A scalar of another tensor's dtype."""
    return relax.const(value, dtype_of(like))


def literal(array: np.ndarray, dtype: str) -> Expr:
    """An array as part of the unit; one without elements is written as zeros, for TVM cannot read
    such a constant."""
    if not array.size:
        return relax.op.zeros(array.shape, dtype)
    return relax.const(array.astype(dtype), dtype)


def cast(tensor: Expr, dtype: str) -> Expr:
    """A tensor in another dtype; itself where it has that."""
    return tensor if dtype_of(tensor) == dtype else relax.op.astype(tensor, dtype)
