"""Which axis of a tensor the heads of the attention are on.

No graph says so, but a call of attention does: its queries are ``[batch, heads, tokens, width]``.
A tensor of the same sizes, or of these with heads and tokens swapped as they are before the
transpose, has the same heads; where heads and tokens are equally many, nothing is claimed.  Keys
and values of fewer heads (grouped-query attention) are left out: their heads are not the queries'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tapml_nb.graph import Graph, TensorSpec, ValueId

_ATTENTION = re.compile(r"scaled_dot_product\w*attention|flash_attention|cudnn_attention")


def head_axes(graph: Graph) -> Mapping[ValueId, int]:
    """The axis of heads of every tensor of which it is known."""
    known = {query.shape for query in _queries(graph)}
    axes: dict[ValueId, int] = {}
    for value in graph.values.values():
        if value.host or value.role != "operator" or len(value.spec.shape) != 4:
            continue
        batch, one, other, width = value.spec.shape
        found = {
            axis
            for axis, heads, tokens in ((1, one, other), (2, other, one))
            if (batch, heads, tokens, width) in known
        }
        if len(found) == 1 and one != other:
            axes[value.id] = found.pop()
    return axes


def _queries(graph: Graph) -> Iterator[TensorSpec]:
    """What calls of attention get as queries, which is their first argument."""
    for op in graph.ops:
        for member in op.members:
            if _ATTENTION.search(member.op) and member.inputs:
                yield from _fourfold(member.inputs[0])
        if not op.members and _ATTENTION.search(op.kind) and op.inputs:
            yield from _fourfold(graph.values[op.inputs[0]].spec)


def _fourfold(spec: TensorSpec) -> Iterator[TensorSpec]:
    if len(spec.shape) == 4:
        yield spec
