"""What elements so far along an axis make: running extremes, and running sums of exponentials.

Each row along the axis goes in order, and the rows beside each other, so that GPUs can be given
them; TVM's own scans are loops that it binds to no threads of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import relax

from tapml_nb.frontends.torch.rules import running_kernels as kernels
from tapml_nb.frontends.torch.rules.call import Call, Expr, Rule, cast, dtype_of, shape_of


def running_extreme(
    compare: Callable[[Any, Any], Any], name: str, call: Call, x: Expr, dim: int
) -> Any:
    """The extreme so far and where it is, among equal ones the last, as in PyTorch; NaN from the
    first NaN on, of which the last so far is the place."""
    rows = _Rows(call, x, dim)
    kernel = kernels.extremes(rows.shape, dtype_of(x), compare)
    values, places = rows.run(kernel, name, dtype_of(x), "int64")
    return rows.back(values), rows.back(places)


def logcumsumexp(call: Call, x: Expr, dim: int) -> Expr:
    """In float32 at least; equal infinities are what they are."""
    wide = call.emit(cast(x, "float32" if dtype_of(x) != "float64" else "float64"))
    rows = _Rows(call, wide, dim)
    kernel = kernels.log_sums(rows.shape, dtype_of(wide))
    sums, _ = rows.run(kernel, "logcumsumexp", dtype_of(wide), dtype_of(wide))
    return cast(rows.back(sums), dtype_of(x))


class _Rows:
    """A tensor as kernels see it: the axes before the one that is gone along, that one, and those
    behind it."""

    def __init__(self, call: Call, x: Expr, dim: int) -> None:
        self._call, self._x, self._whole = call, x, shape_of(x)
        axis = dim % len(self._whole)
        before, behind = self._whole[:axis], self._whole[axis + 1 :]
        self.shape = (math.prod(before), self._whole[axis], math.prod(behind))

    def run(self, kernel: Any, name: str, *dtypes: str) -> list[Expr]:
        """What a kernel makes of the tensor: results of its shape, in these dtypes."""
        emit = self._call.emit
        types = [relax.TensorType(self.shape, dtype) for dtype in dtypes]
        function = self._call.importer.block_builder.add_func(kernel, name)
        given = emit(relax.op.reshape(self._x, self.shape))
        made = emit(relax.call_tir(function, [given], types))
        return [emit(relax.TupleGetItem(made, k)) for k in range(len(types))]

    def back(self, tensor: Expr) -> Expr:
        """A result with the tensor's own axes."""
        return self._call.emit(relax.op.reshape(tensor, self._whole))


RULES: dict[str, Rule] = {
    "cummax.default": partial(running_extreme, lambda new, best: new >= best, "cummax"),
    "cummin.default": partial(running_extreme, lambda new, best: new <= best, "cummin"),
    "logcumsumexp.default": logcumsumexp,
}
"""Of calls along an axis of numbers, whose dtype can be computed with."""
