"""The operands of a float64 run: widened, the large ones piece by piece.

A head of a language model in float64 takes gigabytes, more than all that is kept of its result.  So
what is large stays narrow until something is computed with it, and a product with a matrix takes as
many of its columns at a time as are not large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from tapml_nb.frontends.torch.grouping import is_tensor

WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
"""The dtypes of a float64 run, by those of the source."""

_PIECE = 1 << 24
"""Elements that are widened at a time, at least where a call takes pieces."""

_aten = torch.ops.aten

_MOVING = frozenset(
    (
        _aten.alias.default,
        _aten.permute.default,
        _aten.slice.Tensor,
        _aten.t.default,
        _aten.transpose.int,
        _aten.view.default,
    )
)
"""Calls that only say where elements are, so that these may be widened behind them."""

Widen = Callable[[Any], Any]


def widened(value: Any) -> Any:
    """A tensor in float64 (complex128); anything else as it is."""
    if is_tensor(value) and value.dtype in WIDE:
        return value.to(WIDE[value.dtype])
    return value


def squared(value: Any) -> Any:
    """The square of a floating-point tensor in float64; anything else as it is."""
    if is_tensor(value) and value.is_floating_point():
        return widened(value) ** 2
    return value


class Operands:
    """What an operator's nodes read, and yield in their turn.

    Attributes:
        env: it, by node; large operands are narrow as long as they are only moved.
    """

    def __init__(self, given: Mapping[fx.Node, Any], widen: Widen) -> None:
        """``widen`` is :func:`widened` or :func:`squared`."""
        self._widen = widen
        self._narrow = {node for node, value in given.items() if _is_large(value)}
        self.env = {n: v if n in self._narrow else widen(v) for n, v in given.items()}

    def taking(self, node: fx.Node, call: Callable[..., Any]) -> Callable[..., Any]:
        """A node's call, which takes its operands as they are in ``env`` from now on."""
        narrow = [read for read in node.all_input_nodes if read in self._narrow]
        if narrow and node.target in _MOVING:
            self._narrow.add(node)
            return call
        place, pieces = _PIECEWISE.get(node.target, (0, None))
        if pieces and narrow and [k for k, a in enumerate(node.args) if a in narrow] == [place]:
            return partial(pieces, call, self._widen)
        for read in narrow:
            self._let_be_wide(read)
        return call

    def result(self, node: fx.Node) -> Any:
        """What a node yields."""
        if node in self._narrow:
            self._let_be_wide(node)
        return self.env[node]

    def _let_be_wide(self, node: fx.Node) -> None:
        self.env[node] = self._widen(self.env[node])
        self._narrow.discard(node)


def _is_large(value: Any) -> bool:
    return is_tensor(value) and value.dtype in WIDE and value.numel() > _PIECE


def _rows_of(
    embedding: Callable[..., torch.Tensor], widen: Widen, table: Any, *rest: Any, **options: Any
) -> Any:
    return widen(embedding(table, *rest, **options))


def _product(
    mm: Callable[..., torch.Tensor], widen: Widen, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    return torch.cat([mm(left, widen(right[:, some])) for some in _pieces(right)], 1)


def _sum_with_product(
    addmm: Callable[..., torch.Tensor],
    widen: Widen,
    bias: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    **factors: Any,
) -> torch.Tensor:
    bias = bias.expand(left.shape[0], right.shape[1])
    return torch.cat(
        [addmm(bias[:, s], left, widen(right[:, s]), **factors) for s in _pieces(right)], 1
    )


def _pieces(matrix: torch.Tensor) -> list[slice]:
    """Columns in a row that are not large."""
    rows, columns = matrix.shape
    step = max(1, _PIECE // rows)
    return [slice(start, start + step) for start in range(0, columns, step)]


_PIECEWISE: dict[Any, tuple[int, Callable[..., Any]]] = {
    _aten.embedding.default: (0, _rows_of),
    _aten.mm.default: (1, _product),
    _aten.addmm.default: (2, _sum_with_product),
}
"""Calls that need not have an operand as a whole: its place, and what computes them so."""
