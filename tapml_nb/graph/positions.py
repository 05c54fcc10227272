"""What computes a model's masks and positions: the operators that see neither weights nor
activations.

Which these are follows from where values come from, whatever they are called.  A value carries
weights or activations where it is a parameter, or floating point: an input, a buffer or a constant
of more than one element; or where it was computed of one that does.  What is left is computed of
token ids, attention masks, sizes and single numbers alone.
"""

from __future__ import annotations

import math

from tapml_nb.graph.model import Graph, OpId, Value

_INTEGRAL = ("bool", "int", "uint")


def masks_and_positions(graph: Graph) -> frozenset[OpId]:
    """The operators whose values depend on no weights and no floating-point activations.

    Returns:
        Their ids; none where that would be every operator of the model.
    """
    carrying = {value.id for value in graph.values.values() if _carries(value)}
    found = set[OpId]()
    for op in graph.ops:
        if carrying.isdisjoint(op.inputs):
            found.add(op.id)
        else:
            carrying.update(op.outputs)
    return frozenset(found) if len(found) < len(graph.ops) else frozenset()


def _carries(value: Value) -> bool:
    """Whether a value that no operator computes is of weights or activations."""
    if value.role == "operator" or value.host:
        return False
    if value.role == "parameter":
        return True
    several = math.prod(value.spec.shape) != 1  # an open size is negative
    return several and not value.spec.dtype.startswith(_INTEGRAL)
