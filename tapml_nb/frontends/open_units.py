"""Units that leave sizes open: one Relax function for tensors of many shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def leaves_sizes_open(module: Any) -> bool:
    """Whether the ``main`` of an ``IRModule`` is for tensors of many shapes."""
    from tvm import relax

    if "main" not in {var.name_hint for var in module.functions}:
        return False  # a PrimFunc that stands for an operator
    return bool(relax.analysis.defined_symbolic_vars(module["main"]))


def with_sizes(module: Any, shapes: Sequence[Sequence[int]], numbers: Sequence[int]) -> Any:
    """The same for tensors of certain shapes alone.

    Args:
        module: an ``IRModule``; its ``main`` takes tensors and perhaps, behind them, a shape.
        shapes: those of the tensors.
        numbers: the sizes in that shape; there is no such parameter in the result.
    """
    import tvm
    from tvm import relax

    main = module["main"]
    tensors = list(main.params)[: len(shapes)]
    declared = [size for param in tensors for size in param.ty.shape]
    given = [int(n) for shape in shapes for n in shape]
    for param in list(main.params)[len(shapes) :]:
        declared += param.ty.values
        given += numbers
    sizes: dict[Any, int] = {}
    for size, number in zip(declared, given, strict=True):
        if isinstance(size, tvm.tirx.Var):
            sizes.setdefault(size, number)
    bound = main.bind_symbolic_vars(sizes)
    params = list(bound.params)[: len(shapes)]
    main = relax.Function(params, bound.body, bound.ret_ty, bound.is_pure, bound.attrs)
    return tvm.IRModule({**module.functions, module.get_global_var("main"): main})
