"""Which calls draw random numbers, by PyTorch's own word: its tag ``nondeterministic_seeded``.

What a call that has the tag yields may still leave nothing to chance, by its arguments: dropout of
nothing, of all, or that is off.  Whether few numbers that were drawn happened to be the same says
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from tapml_nb.frontends.torch.grouping import arguments, is_tensor, origin_target

_CERTAIN = {"train": (False,), "training": (False,), "p": (0, 1), "dropout_p": (0, 1)}
"""Arguments by name with which a call that may draw yields the same each time."""

_aten = torch.ops.aten


def draws(node: fx.Node, values: Mapping[str, Any]) -> bool:
    """Whether a call's result depends on random numbers that it draws, or a call in a graph that it
    runs; ``values`` are those of an operator's inputs, by name."""
    return _draws(node) and not _is_certain(node, values)


def _draws(node: fx.Node) -> bool:
    for graph in _graphs(node):
        if any(map(_draws, graph.nodes)):
            return True
    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if not seeded or _is_empty(node):
        return False
    given = arguments(node)
    return not any(given[name] in sure for name, sure in _CERTAIN.items() if name in given)


def _is_certain(node: fx.Node, values: Mapping[str, Any]) -> bool:
    """Whether what is drawn for is true or false with a probability of 0 or 1 alone."""
    if node.target is _aten.bernoulli.Tensor:
        chances = [node.args[1]]
    elif node.target is _aten.rand.default and origin_target(node) == "aten.bernoulli.default":
        chances = [user.args[1] for user in node.users]  # rand(…) < p
    else:
        return False
    found = [values.get(chance.name) for chance in chances if isinstance(chance, fx.Node)]
    return bool(found) and all(p is not None and bool(((p == 0) | (p == 1)).all()) for p in found)


def _is_empty(node: fx.Node) -> bool:
    shapes = [value.shape for value in pytree.tree_leaves(node.meta["val"]) if is_tensor(value)]
    return all(any(type(size) is int and size == 0 for size in shape) for shape in shapes)


def _graphs(node: fx.Node) -> list[fx.Graph]:
    """The graphs that a call like ``torch.cond`` runs."""
    owner = node.graph.owning_module
    read = (n for n in node.all_input_nodes if n.op == "get_attr")
    modules = (getattr(owner, str(n.target), None) for n in read)
    return [module.graph for module in modules if isinstance(module, fx.GraphModule)]
