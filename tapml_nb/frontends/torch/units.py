"""One operator as a standalone Relax function, converted by TVM's own importer.

The importer's conversion rules are called node by node with the operator's inputs as function
parameters.  Whatever they produce is what will be judged: a wrong rule is a finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tapml_nb.frontends.program import Unsupported
from tapml_nb.frontends.torch.export import first_line, last_line


def build_module(
    nodes: Sequence[fx.Node],
    inputs: Sequence[fx.Node],
    outputs: Sequence[fx.Node],
    env: Mapping[fx.Node, Any],
) -> Any:
    """An ``IRModule`` whose ``main`` computes ``outputs`` from ``inputs``.

    Args:
        nodes: the operator's nodes in topological order.
        inputs: nodes outside the operator that it reads.
        outputs: nodes of the operator that others read.
        env: values of ``inputs``: tensors become parameters (shape and dtype), numbers and
            graph modules are baked in.

    Raises:
        Unsupported: if the importer has no rule for a node, or its rule fails.
    """
    importer = ExportedProgramImporter()
    builder = importer.block_builder = relax.BlockBuilder()
    params: list[Any] = []
    for node in inputs:
        value = env[node]
        if isinstance(value, torch.Tensor):
            # p0, p1, …: call sites that differ in names alone must hash alike.
            value = relax.Var(f"p{len(params)}", tensor_type(value))
            params.append(value)
        importer.env[node] = value
    with builder.function("main", params):
        with builder.dataflow():
            for node in nodes:
                importer.env[node] = _convert(importer, node)
            results = [_expression(importer, node) for node in outputs]
            result = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.get()


def tensor_type(tensor: torch.Tensor) -> Any:
    """The Relax type of a tensor's shape and dtype.

    Raises:
        Unsupported: if the importer does not know the dtype.
    """
    importer = ExportedProgramImporter()
    try:
        dtype = importer._convert_data_type(tensor.dtype)
    except Exception as error:
        raise Unsupported(f"dtype {tensor.dtype}: {first_line(error)}") from error
    return relax.TensorType([int(size) for size in tensor.shape], dtype)


def _convert(importer: ExportedProgramImporter, node: fx.Node) -> Any:
    name = getattr(node.target, "__name__", str(node.target))
    rule = importer.convert_map.get(name)
    if rule is None:
        raise Unsupported(f"TVM's PyTorch importer has no rule for {node.target}")
    try:
        return rule(node)
    except Exception as error:
        raise Unsupported(
            f"TVM's PyTorch importer fails on {node.target}: {last_line(error)}"
        ) from error


def _expression(importer: ExportedProgramImporter, node: fx.Node) -> Any:
    value = importer.env[node]
    if not isinstance(value, relax.Expr):
        raise Unsupported(f"{node.target} yields a host value, not a tensor")
    return value
