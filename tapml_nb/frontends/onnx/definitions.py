"""Operators that ONNX itself defines by others: what stands for one that TVM's importer does not
know."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from onnx.inliner import inline_selected_functions


def defined(model: Any, kinds: Collection[str]) -> Any | None:
    """A model in which ONNX's definitions stand in the place of the nodes of some kinds; None if it
    has none of one of them.

    A definition may depend on the types of what the node reads, so the model is to tell these.
    """
    wanted = {(node.domain, node.op_type) for node in model.graph.node if node.op_type in kinds}
    with contextlib.suppress(RuntimeError):  # where the inliner meets a type that nobody tells
        model = inline_selected_functions(model, sorted(wanted), inline_schema_functions=True)
        left = {(node.domain, node.op_type) for node in model.graph.node}
        return None if left & wanted else model
    return None
