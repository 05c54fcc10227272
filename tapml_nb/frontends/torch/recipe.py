"""What a unit is made of: calls that are equal in it become equal units, so one is enough.

Whatever a rule may look at is in it: the calls with their arguments, and what is known of each
tensor.  Where there is anything else, there is no recipe, and the unit is made.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tapml_nb.frontends.torch.grouping import TorchOp, is_getitem
from tapml_nb.frontends.torch.sizes import decided_by_values

_WORDS = (
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


class _Untold(Exception):
    """There is something that a recipe cannot hold."""


def recipe_of(op: TorchOp, env: Mapping[fx.Node, Any]) -> Hashable | None:
    """The recipe of an operator's unit for the values of its inputs; None if there is none."""
    places = {node: place for place, node in enumerate((*op.inputs, *op.nodes))}
    try:
        return (
            tuple((_told(env[node], {}), _told(node.meta.get("val"), {})) for node in op.inputs),
            tuple(_call(node, places) for node in op.nodes),
            tuple(places[node] for node in op.outputs),
        )
    except _Untold:
        return None


def _call(node: fx.Node, places: Mapping[fx.Node, int]) -> Hashable:
    if decided_by_values(node):
        raise _Untold
    arguments = _told(node.args, places), _told(node.kwargs, places)
    wanted = sorted(str(user.args[1]) for user in node.users if is_getitem(user))
    return str(node.target), *arguments, _told(node.meta.get("val"), {}), *wanted


def _told(value: Any, places: Mapping[fx.Node, int]) -> Hashable:
    """A value, if it can be told in words; a node by its place, a tensor by what it is."""
    if isinstance(value, fx.Node):
        if value not in places:
            raise _Untold
        return "node", places[value]
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise _Untold
        sizes = _numbers(value.shape), _numbers(value.stride())
        return "tensor", *sizes, str(value.dtype), str(value.device)
    if isinstance(value, Mapping):
        return "mapping", *((key, _told(item, places)) for key, item in value.items())
    if isinstance(value, slice):
        return "slice", *(_told(end, places) for end in (value.start, value.stop, value.step))
    if isinstance(value, list | tuple):
        return type(value).__name__, *(_told(item, places) for item in value)
    if value is None or isinstance(value, _WORDS):
        return type(value).__name__, repr(value)
    raise _Untold


def _numbers(sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes that are known."""
    if not all(isinstance(size, int) for size in sizes):
        raise _Untold
    return tuple(sizes)
