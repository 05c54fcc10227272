"""Symbolic sizes: which values stand for them, what a type says of them, what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer


def is_tensor(ty: Any) -> bool:
    """Whether a value of this type is a tensor."""
    return isinstance(ty, relax.TensorType)


def is_size(var: Any) -> bool:
    """Whether a variable stands for a number."""
    return isinstance(var.ty, tvm.ir.PrimType)


def sizes_in(ty: Any) -> list[Any]:
    """What a tensor's or shape's type says of each axis: an expression of sizes."""
    shape = ty.shape if isinstance(ty, relax.TensorType) else ty
    if isinstance(shape, relax.ShapeExpr | relax.ShapeType) and shape.values is not None:
        return list(shape.values)
    return []


def match(dims: Sequence[Any], shape: Sequence[int], sizes: dict[Any, int]) -> bool:
    """Whether a shape fits; sizes that are new are noted."""
    if len(dims) != len(shape):
        return False
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, tvm.ir.Var):
            sizes.setdefault(dim, size)
    found = [evaluated(dim, sizes) for dim in dims]
    return all(have is None or have == size for have, size in zip(found, shape, strict=True))


def evaluated(dim: Any, sizes: Mapping[Any, int]) -> int | None:
    """An expression of sizes as a number; None where one is not known."""
    if isinstance(dim, tirx.IntImm):
        return int(dim.value)
    if isinstance(dim, int):
        return dim
    analyzer = Analyzer()
    for var, size in sizes.items():
        analyzer.bind(var, tirx.IntImm(str(var.ty.dtype), size))
    result = analyzer.simplify(dim)
    return int(result.value) if isinstance(result, tirx.IntImm) else None
