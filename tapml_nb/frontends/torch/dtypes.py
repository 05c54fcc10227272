"""Inputs of a dtype that the model's own kernels do not take.

``torch.export`` captures a product of float64 and float32, which PyTorch then refuses to compute.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_PRODUCTS = frozenset(
    ("addmm", "addmv", "addbmm", "baddbmm", "bmm", "convolution", "dot", "mm", "mv")
)
"""ATen operators whose tensors are all of one dtype."""

_NORMS = frozenset(
    (
        "_native_batch_norm_legit_no_training",
        "native_batch_norm",
        "native_group_norm",
        "native_layer_norm",
    )
)
"""Those in which weights may be float32 where the input is narrower."""

_NARROW = (torch.float16, torch.bfloat16)


def check_dtypes(program: ExportedProgram) -> None:
    """Find an input that meets another dtype where both have to be one.

    Raises:
        ValueError: if there is one; which, what it is, and what is expected.
    """
    signature = program.graph_signature
    users = {s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT}
    for node in program.graph.nodes:
        for found, expected in _conflicts(node):
            given = _origin(found, users)
            if given is not None and _origin(expected, users) is None:
                ours, theirs = (str(n.meta["val"].dtype)[6:] for n in (given, expected))
                raise ValueError(
                    f"inputs: {given.name} is {ours}, and meets {theirs} in {node.target}, which "
                    f"takes one dtype; give {given.name}.to(torch.{theirs})"
                )


def unlike_weights(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Which inputs have no dtype of the model's weights, as a clause; "" if all do, or none can."""
    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    odd = [
        f"{name} is {str(value.dtype)[6:]}"
        for name, value in given.items()
        if isinstance(value, torch.Tensor) and value.dtype not in dtypes
    ]
    if not dtypes or not odd:
        return ""
    return f" ({', '.join(odd)}; the weights are {', '.join(sorted(str(d)[6:] for d in dtypes))})"


def _conflicts(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of a node's tensors of which the one's dtype is not the other's, both ways."""
    packet = getattr(node.target, "_opname", "")
    if packet not in _PRODUCTS | _NORMS:
        return
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    if packet in _NORMS and tensors and tensors[0].meta["val"].dtype in _NARROW:
        return
    for one in tensors:
        for other in tensors:
            if one.meta["val"].dtype != other.meta["val"].dtype:
                yield one, other


def _origin(node: fx.Node, users: set[str]) -> fx.Node | None:
    """The input that a tensor comes from without a change of dtype, if it does."""
    dtype, seen, waiting = node.meta["val"].dtype, {node}, [node]
    while waiting:
        node = waiting.pop()
        if node.name in users:
            return node
        for before in node.all_input_nodes:
            value = before.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dtype == dtype and before not in seen:
                seen.add(before)
                waiting.append(before)
    return None
